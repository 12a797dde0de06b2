"""JSON over HTTP for the probes that the OpenAI client does not speak; foreign failures become ours here."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from toolkit.errors import FailedError, NotReadyError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(url: str) -> bool:
    """Say whether an address is this machine's own, where no proxy belongs in between."""
    return urlsplit(url).hostname in LOOPBACK


def ask(url: str, body: Mapping[str, Any] | None = None, *, timeout: float = 10.0, key: str | None = None) -> Any:
    """GET an address, or POST a body to it, and return the JSON of the answer.

    NotReadyError where nothing answers within `timeout` seconds, FailedError for an HTTP error or an answer that is no JSON.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(url, data, headers)
        with _opener(url).open(request, timeout=timeout) as reply:
            return json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            words = error.read(300).decode(errors="replace").strip()
        raise FailedError(f"{url} answers {error.code}: {words}", "look at the server's log") from error
    except ValueError as error:
        raise FailedError(f"{url} answers something that is no JSON", "is it the address of an OpenAI-compatible server?") from error
    except (OSError, HTTPException) as error:
        raise NotReadyError(f"{url} does not answer: {error}", "start the server, or check address and port") from error


def answers(url: str, timeout: float = 2.0) -> bool:
    """Say whether a GET is answered with 200, whatever the content."""
    try:
        with _opener(url).open(url, timeout=timeout) as reply:
            return bool(reply.status == 200)
    except (OSError, HTTPException, ValueError):
        return False


def _opener(url: str) -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if is_loopback(url) else []))
