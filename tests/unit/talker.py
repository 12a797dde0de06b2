"""A model on loopback that streams what it is told to, piece by piece, and keeps the requests."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import send
from model_server import event

Deltas = list[tuple[str, str]]
"""Pairs of a field of the delta and a piece for it."""
USAGE = {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14, "completion_tokens_details": {"reasoning_tokens": 4}}


class Talker:
    """`answers` gives the pieces for a question; `finish` and the seconds between two pieces are the same for all."""

    def __init__(self, answers: Callable[[str], Deltas], finish: str = "stop", delay: float = 0.0) -> None:
        self.answers, self.finish, self.delay = answers, finish, delay
        self.bodies: list[dict[str, Any]] = []
        self.hung_up = 0

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        if request.command == "GET":
            send(request, '{"data": [{"id": "m", "owned_by": "vllm"}]}')
            return
        body = json.loads(request.body)
        self.bodies.append(body)
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.end_headers()
        try:
            for name, piece in self.answers(body["messages"][-1]["content"]):
                event(request, {"delta": {name: piece}, "finish_reason": None})
                time.sleep(self.delay)
            event(request, {"delta": {}, "finish_reason": self.finish})
        except ConnectionError:
            self.hung_up += 1
            return
        with contextlib.suppress(ConnectionError):
            request.wfile.write(f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n".encode())


def pieces(name: str, text: str) -> Deltas:
    """Cut a text into its words."""
    words = text.split(" ")
    return [(name, word if number == len(words) else f"{word} ") for number, word in enumerate(words, 1)]


def thinks(question: str) -> Deltas:
    return [*pieces("reasoning", f"The user says {question}."), *pieces("content", "\n\nIndeed it is so.")]
