"""Real servers on this machine's loopback that answer badly, each in its own way."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], str]


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that hang up or trust nobody are what is tested."""


class QuietHandler(BaseHTTPRequestHandler):
    answer: Callable[[BaseHTTPRequestHandler], None]
    body = b""

    def do_GET(self):
        self.respond()

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.respond()

    def respond(self):
        type(self).answer(self)

    def log_message(self, *_: Any) -> None:
        pass


def send(handler: BaseHTTPRequestHandler, body: str, status: int = 200, kind: str = "application/json") -> None:
    data = body.encode()
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def completion(message: dict[str, Any], finish: str = "stop") -> str:
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12, "completion_tokens_details": {"reasoning_tokens": 3}}
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage})


def events(*deltas: dict[str, Any], finish: str | None = "stop") -> str:
    chunks = [{"delta": delta, "finish_reason": None} for delta in deltas] + ([{"delta": {}, "finish_reason": finish}] if finish else [])
    made = [{"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [{"index": 0, **chunk}]} for chunk in chunks]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in made)


@contextmanager
def listening(answer: Callable[[BaseHTTPRequestHandler], None], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    handler = type("Handler", (QuietHandler,), {"answer": staticmethod(answer)})
    server = QuietServer(("127.0.0.1", 0), handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(answer) starts a server whose every request `answer` handles, and returns its address."""
    open_servers = []

    def start(answer):
        context = listening(answer)
        open_servers.append(context)
        return context.__enter__()

    yield start
    for context in open_servers:
        context.__exit__(None, None, None)


def drip(request: BaseHTTPRequestHandler) -> None:
    """Send now and then what means nothing, a space or an SSE comment, as proxies do to keep a connection open."""
    stream = b'"stream":true' in request.body.replace(b" ", b"")
    request.send_response(200)
    request.send_header("Content-Type", "text/event-stream" if stream else "application/json")
    request.end_headers()
    for _ in range(30):
        request.wfile.write(b": alive\n\n" if stream else b" ")
        time.sleep(0.05)


def hang(_: BaseHTTPRequestHandler) -> None:
    time.sleep(1.5)
