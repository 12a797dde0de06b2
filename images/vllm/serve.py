#!/usr/bin/env python3
"""Become vLLM's OpenAI server, `python -m vllm.entrypoints.openai.api_server`, with the API key that stands in the file API_KEY_FILE.

vLLM takes a key from its command line or environment alone; a key on a command line can be read by everybody on the machine.
"""

from __future__ import annotations

import os
import sys

import api_key


def main() -> None:
    """Put the key into the environment and replace this process, so that signals reach vLLM."""
    if key := api_key.read():
        os.environ["VLLM_API_KEY"] = key
    os.execv(sys.executable, (sys.executable, "-m", "vllm.entrypoints.openai.api_server", *sys.argv[1:]))


if __name__ == "__main__":
    main()
