"""JSON over HTTP for the probes that the OpenAI client does not speak; foreign failures become ours here."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from toolkit.errors import BusyError, FailedError, NotReadyError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PATIENCE = 5.0
"""Longest Retry-After, in seconds, that is waited for."""


@dataclass(frozen=True)
class Response:
    """An HTTP answer, whatever its status."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""

    @property
    def words(self) -> str:
        """The beginning of its text, in one line."""
        return " ".join(self.body[:300].decode(errors="replace").split())

    def json(self) -> Any:
        """Return its JSON; ValueError where there is none."""
        return json.loads(self.body)


def is_loopback(url: str) -> bool:
    """Say whether an address is this machine's own, where no proxy belongs in between."""
    return urlsplit(url).hostname in LOOPBACK


def ask(url: str, body: Mapping[str, Any] | None = None, *, timeout: float = 10.0, key: str | None = None) -> Any:
    """GET an address, or POST a body to it, and return the JSON of the answer.

    NotReadyError as `exchange` and where the server sends us away, FailedError for another HTTP error or an answer that is no JSON.
    """
    reply = exchange(url, None if body is None else json.dumps(body).encode(), timeout=timeout, key=key)
    if away := sent_away(url, reply.status, reply.headers):
        raise away
    if reply.status >= 400:
        raise FailedError(f"{url} answers {reply.status}: {reply.words}", "look at the server's log")
    try:
        return reply.json()
    except ValueError as error:
        raise FailedError(f"{url} answers something that is no JSON", "is it the address of an OpenAI-compatible server?") from error


def ask_for(name: str, url: str, body: Mapping[str, Any], *, timeout: float = 10.0, key: str | None = None) -> Any:
    """POST a body and return one value of the object that is answered; errors as `ask`, FailedError where it is not there."""
    reply = ask(url, body, timeout=timeout, key=key)
    if not isinstance(reply, dict) or name not in reply:
        raise FailedError(f"{url} answers without {name!r}", "is it the engine that --engine says?")
    return reply[name]


def exchange(url: str, data: bytes | None = None, *, timeout: float = 10.0, key: str | None = None) -> Response:
    """GET an address, or POST bytes as JSON to it, and return the answer whatever its status; no redirect is followed.

    A 429 that names a short time to wait is waited for once. NotReadyError where nothing answers, or no whole answer comes within
    about `timeout` seconds.
    """
    reply = _sent(url, data, timeout, key)
    wait = patience(reply.headers.get("retry-after")) if reply.status == 429 else None
    if wait is None:
        return reply
    time.sleep(wait)
    return _sent(url, data, timeout, key)


def _sent(url: str, data: bytes | None, timeout: float, key: str | None) -> Response:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    deadline = time.monotonic() + timeout
    try:
        with _open(urllib.request.Request(url, data, headers), timeout) as reply:
            return Response(reply.status, b"".join(_pieces(reply, deadline)), {name.lower(): value for name, value in reply.headers.items()})
    except TimeoutError as error:
        raise NotReadyError(f"{url} does not answer within {timeout:g} s", "the server hangs or is too slow: look at its log") from error
    except (OSError, HTTPException, ValueError) as error:
        raise unreachable(url, error) from error


def _pieces(reply: HTTPResponse, deadline: float) -> Iterator[bytes]:
    while piece := reply.read1(1 << 16):
        yield piece
        if time.monotonic() > deadline:
            raise TimeoutError


def answers(url: str, timeout: float = 2.0) -> bool:
    """Say whether a GET is answered with 200, whatever the content."""
    try:
        with _open(urllib.request.Request(url), timeout) as reply:
            return bool(reply.status == 200)
    except (OSError, HTTPException, ValueError):
        return False


class _AsItIs(urllib.request.HTTPErrorProcessor):
    """Hands every answer on, redirects and errors too."""

    def http_response(self, request: urllib.request.Request, response: HTTPResponse) -> HTTPResponse:
        return response

    https_response = http_response


def _open(request: urllib.request.Request, timeout: float) -> Any:
    proxies = [urllib.request.ProxyHandler({})] if is_loopback(request.full_url) else []
    try:
        return urllib.request.build_opener(_AsItIs, urllib.request.HTTPSHandler(context=trusted()), *proxies).open(request, timeout=timeout)
    except urllib.error.URLError as error:
        raise error.reason if isinstance(error.reason, OSError) else error from None


@cache
def trusted() -> ssl.SSLContext:
    """Return the machine's certificates, or those of SSL_CERT_FILE, read once: that takes longer than a short answer."""
    return ssl.create_default_context()


def patience(retry_after: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, None where it names none or more than PATIENCE (RFC 9110, 10.2.3)."""
    seconds = _seconds(retry_after or "")
    return max(seconds, 0.0) if seconds is not None and seconds <= PATIENCE else None


def _seconds(retry_after: str) -> float | None:
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


def unreachable(where: str, cause: BaseException) -> NotReadyError:
    """Say why there is no connection, by the causes of the error behind it."""
    for error in _causes(cause):
        if isinstance(error, ssl.SSLCertVerificationError):
            remedy = "name the certificate of the authority that signed it: SSL_CERT_FILE=/path/to/ca.pem; or ask by the name that it is made for"
            return NotReadyError(f"{where}: its TLS certificate is not trusted ({error.verify_message})", remedy)
        if isinstance(error, ssl.SSLError):
            return NotReadyError(f"{where}: no TLS connection ({error.reason or error})", "does the server speak http:// and not https://?")
    return NotReadyError(f"{where} cannot be reached ({cause})", "start the server, or check address and port")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def sent_away(where: str, status: int, headers: Mapping[str, str]) -> NotReadyError | None:
    """Return what an HTTP status means by which a server refuses to deal with us at all, None for any other status."""
    if 300 <= status < 400:
        words, remedy = f"redirects us to {headers.get('location', 'nowhere')}", "name that server's own address, ending in /v1, with --url"
    elif status in (401, 403):
        words, remedy = f"refuses us with {status}", "set OPENAI_API_KEY to the server's key"
    elif status == 429:
        asked = headers.get("retry-after")
        wait = f" and wants {asked} waited for (Retry-After)" if asked else ""
        return BusyError(f"{where} answers 429, too many requests{wait}", "come again later, or with a key that may ask more", _seconds(asked or ""))
    else:
        return None
    return NotReadyError(f"{where} {words}", remedy)
