#!/usr/bin/env python3
"""Become vLLM's OpenAI server, `python -m vllm.entrypoints.openai.api_server`, with the API key that stands in the file API_KEY_FILE.

vLLM takes a key from its command line or environment alone; a key on a command line can be read by everybody on the machine.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Put the key into the environment and replace this process, so that signals reach vLLM."""
    file = os.environ.get("API_KEY_FILE")
    if file:
        os.environ["VLLM_API_KEY"] = key(Path(file))
    os.execv(sys.executable, (sys.executable, "-m", "vllm.entrypoints.openai.api_server", *sys.argv[1:]))


def key(file: Path) -> str:
    """Return the key; a server that was meant to have one must not start without."""
    try:
        found = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SystemExit(f"error: the API key cannot be read: {error}\nfix: mount the file that API_KEY_FILE names, readable for us") from error
    if not found:
        raise SystemExit(f"error: {file} holds no API key\nfix: write one line into it, or unset API_KEY_FILE")
    return found


if __name__ == "__main__":
    main()
