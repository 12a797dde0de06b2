"""The key that every request must bear, from the file that the environment names as API_KEY_FILE.

This file stands unchanged in each folder whose server asks for a key; a test holds the copies equal.
"""

from __future__ import annotations

import os
from pathlib import Path


def read() -> str | None:
    """Return the key, None where no file is named; a server that was meant to have one must not start without."""
    name = os.environ.get("API_KEY_FILE")
    if not name:
        return None
    try:
        found = Path(name).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SystemExit(f"error: the API key cannot be read: {error}\nfix: mount the file that API_KEY_FILE names, readable for us") from error
    if not found:
        raise SystemExit(f"error: {name} holds no API key\nfix: write one line into it, or unset API_KEY_FILE")
    return found
