"""A gateway, as stands before many servers, that changes what passes through it: the engine behind it is well, and what clients get is not.

Only chats are changed; all else is passed on as it is.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Body = dict[str, Any]
FIELD = "reasoning_content"


def same(value: Body) -> Body:
    return value


@dataclass(frozen=True)
class Meddling:
    """What a gateway does to a chat's request, and to each choice of its answer, whole or streamed."""

    request: Callable[[Body], Body] = same
    choice: Callable[[Body], Body] = same
    split: bool = False
    """Whether it sends a stream's text on byte by byte, as text."""


def _said(choice: Body) -> Body:
    return choice.get("message") or choice.get("delta") or {}


def _moved(choice: Body, to: Callable[[str], Body]) -> Body:
    said = _said(choice)
    if said.get(FIELD):
        said |= {FIELD: None, **to(said[FIELD])}
    return choice


def _folded(choice: Body) -> Body:
    """Put the reasoning between tags before the answer, as some gateways do for clients that know no reasoning."""
    said = choice.get("message")
    if said and said.get(FIELD):
        said["content"] = f"<think>{said.pop(FIELD)}</think>{said.get('content') or ''}"
    return choice


def _doubled(choice: Body) -> Body:
    said = _said(choice)
    if said.get(FIELD):
        said["content"] = said[FIELD] + (said.get("content") or "")
    return choice


def _untagged(body: Body) -> Body:
    """Take everything up to a closing tag for reasoning, in the user's turns too."""
    turns = [{**turn, "content": str(turn["content"]).split("</think>")[-1]} for turn in body["messages"]]
    return {**body, "messages": turns}


def _shortened(body: Body) -> Body:
    """Keep the last 200 words of what is longer."""
    turns = [{**turn, "content": " ".join(str(turn["content"]).split(" ")[-200:])} for turn in body["messages"]]
    return {**body, "messages": turns}


def _dropped(*names: str) -> Callable[[Body], Body]:
    return lambda body: {name: value for name, value in body.items() if name not in names}


GATEWAYS: dict[str, Meddling] = {
    "sampled at temperature 1.5 whatever is asked": Meddling(request=lambda body: {**body, "temperature": 1.5, "seed": 7}),
    "a system prompt put before every conversation": Meddling(
        request=lambda body: {**body, "messages": [{"role": "system", "content": "You are a pirate."}, *body["messages"]]}
    ),
    "only the last turn is passed on": Meddling(request=lambda body: {**body, "messages": body["messages"][-1:]}),
    "long prompts are shortened": Meddling(request=_shortened),
    "the reasoning field is taken out": Meddling(choice=lambda choice: _moved(choice, lambda _: {})),
    "the reasoning under another name": Meddling(choice=lambda choice: _moved(choice, lambda text: {"reasoning": text})),
    "the reasoning folded into whole answers": Meddling(choice=_folded),
    "the reasoning sent twice": Meddling(choice=_doubled),
    "answers limited to sixteen tokens": Meddling(request=lambda body: {**body, "max_tokens": min(body.get("max_tokens") or 16, 16)}),
    "every answer is said to have ended": Meddling(choice=lambda choice: {**choice, "finish_reason": choice.get("finish_reason") and "stop"}),
    "stop texts are not passed on": Meddling(request=_dropped("stop")),
    "tags taken out of the user's words": Meddling(request=_untagged),
    "a stream cut into bytes": Meddling(split=True),
}


def _pieces(text: str) -> list[str]:
    """Cut a text between its bytes, two by two, as somebody does who decodes what a buffer happened to hold."""
    data = text.encode()
    return [data[place : place + 2].decode(errors="replace") for place in range(0, len(data), 2)]


class _Handler(BaseHTTPRequestHandler):
    upstream: str
    meddling: Meddling

    def do_GET(self) -> None:
        self._pass_on(None)

    def do_POST(self) -> None:
        self._pass_on(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def log_message(self, *_: Any) -> None:
        pass

    def _pass_on(self, data: bytes | None) -> None:
        chat = self.path.endswith("/chat/completions")
        if chat and data:
            data = _changed(data, self.meddling.request)
        request = urllib.request.Request(self.upstream + self.path, data, {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as reply:
                self._answer(reply, chat)
        except urllib.error.HTTPError as error:
            self._send(error.code, error.headers.get("Content-Type", "application/json"), error.read())

    def _answer(self, reply: HTTPResponse, chat: bool) -> None:
        kind = reply.headers.get("Content-Type", "application/json")
        if "event-stream" in kind:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            for line in reply:
                self.wfile.write(self._event(line))
                self.wfile.flush()
            return
        body = reply.read()
        self._send(reply.status, kind, _changed(body, self._choices) if chat else body)

    def _event(self, line: bytes) -> bytes:
        if not line.startswith(b"data: {"):
            return line
        return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in self._cut(self._choices(json.loads(line[6:]))))

    def _cut(self, chunk: Body) -> list[Body]:
        choices = chunk.get("choices") or []
        text = choices[0].get("delta", {}).get("content") if choices else None
        if not self.meddling.split or not text:
            return [chunk]
        return [{**chunk, "choices": [{**choices[0], "delta": {"content": piece}}]} for piece in _pieces(text)]

    def _choices(self, body: Body) -> Body:
        return {**body, "choices": [self.meddling.choice(choice) for choice in body.get("choices") or ()]}

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _changed(data: bytes, change: Callable[[Body], Body]) -> bytes:
    """Return a JSON object changed; what is none, as the gate's own bad requests, is passed on as it is."""
    try:
        return json.dumps(change(json.loads(data))).encode()
    except (ValueError, TypeError, AttributeError, KeyError):
        return data


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up: that is part of the gate."""


@contextmanager
def before(root: str, name: str) -> Iterator[str]:
    """Stand before a server while the block runs, and yield the gateway's own address, `http://host:port`."""
    handler = type("Handler", (_Handler,), {"upstream": root, "meddling": GATEWAYS[name]})
    server = _Server(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
