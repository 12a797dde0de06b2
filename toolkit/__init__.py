"""thinkship: from a fine-tuned reasoning model to servers that are proven to think."""

__version__ = "0.1.0"
