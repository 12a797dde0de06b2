"""The HTTP client under the OpenAI client: it follows no redirect, trusts what this machine trusts, and gives each answer a last moment.

An HTTP library's own time limit counts from byte to byte, so a server that now and then sends a space or an SSE comment would never be left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx2
import openai

from toolkit.engines.wire import is_loopback, trusted

CONNECT_SECONDS = 5.0
"""Time in which a connection must be there."""


class Overdue(httpx2.ReadTimeout):
    """An answer that goes on and on."""


class Bounded(httpx2.SyncByteStream):
    """The bytes of an answer, up to a moment of the monotonic clock."""

    def __init__(self, inner: httpx2.SyncByteStream, deadline: float) -> None:
        self.inner, self.deadline = inner, deadline

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.inner:
            if time.monotonic() > self.deadline:
                raise Overdue("the answer goes on for too long")
            yield piece

    def close(self) -> None:
        """Close the connection, or hand it back where the answer has been read to its end."""
        self.inner.close()


def client(url: str, timeout: float) -> httpx2.Client:
    """Return a client for one address whose answers, from the request to their last byte, take at most about `timeout` seconds."""

    def begin(request: httpx2.Request) -> None:
        request.extensions["deadline"] = time.monotonic() + timeout

    def bound(response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = Bounded(response.stream, response.request.extensions["deadline"])

    return openai.DefaultHttpxClient(
        trust_env=not is_loopback(url),
        verify=trusted(),
        timeout=httpx2.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
        follow_redirects=False,  # a POST would become a GET, and a key would go where it was not meant for
        event_hooks={"request": [begin], "response": [bound]},
    )
