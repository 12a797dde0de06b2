"""How a served variant is called: a quantisation, and behind it whether the adapter lies apart from the base in the server."""

from __future__ import annotations

APART = "-adapter"


def quantization(variant: str) -> str:
    """Return a variant's quantisation as engines and files know it."""
    return variant.removesuffix(APART)


def is_apart(variant: str) -> bool:
    """Say whether the server is given the base and beside it the adapter, unmerged."""
    return variant.endswith(APART)
