#!/usr/bin/env python3
"""`healthcheck.py PORT`: exit 0 when the server of this container answers one token of a chat, 1 with the reason when it does not.

This file stands unchanged in each folder that serves, so that the folder can be read and run alone; a test holds the copies equal.
"""

from __future__ import annotations

import http.client
import json
import sys
from typing import Any

import api_key

TIMEOUT = 25.0
"""Seconds; below the time after which Docker ends the check, so that the reason is told."""


def main(port: int) -> int:
    """Ask once and say what is wrong."""
    try:
        answer = one_token(port)
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        print(f"no answer: {error}")
        return 1
    print(f"{answer['model']} answers")
    return 0


def one_token(port: int) -> dict[str, Any]:
    """Return the answer to a chat of one token; ValueError where it is none, LookupError where no model is served."""
    name = _ask(port, "GET", "/v1/models")["data"][0]["id"]
    body = {"model": name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1, "temperature": 0}
    answer = _ask(port, "POST", "/v1/chat/completions", body)
    if not answer["usage"]["completion_tokens"]:
        raise ValueError(f"an answer without a token: {answer}")
    return answer


def _ask(port: int, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json", **_key()})
        reply = connection.getresponse()
        text = reply.read()
    finally:
        connection.close()
    if reply.status != http.client.OK:
        raise ValueError(f"{path} answers {reply.status}: {text[:200].decode(errors='replace')}")
    return json.loads(text)


def _key() -> dict[str, str]:
    """Return the header with the key, nothing where none is asked for."""
    key = api_key.read()
    return {"Authorization": f"Bearer {key}"} if key else {}


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
