"""A teacher on loopback that adds two numbers, thinks before it answers, and keeps what it was asked, when, and what it answered."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path

from loopback import completion, send


class SumServer:
    """`before` may answer a request in another way, by its question and how often that was asked before; it returns whether it did."""

    def __init__(self, delay: float = 0.0, before: Callable[[BaseHTTPRequestHandler, str, int], bool] | None = None) -> None:
        self.delay, self.before = delay, before
        self.asked: list[str] = []
        self.times: list[float] = []
        self.bodies: list[dict[str, object]] = []
        self.answered: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        if request.command == "GET":
            send(request, '{"data": [{"id": "m", "owned_by": "me"}]}')
            return
        body = json.loads(request.body)
        question = body["messages"][-1]["content"]
        with self._lock:
            times = self.asked.count(question)
            self.asked.append(question)
            self.times.append(time.monotonic())
            self.bodies.append(body)
        if self.before and self.before(request, question, times):
            return
        time.sleep(self.delay)
        send(request, completion(reply(question)))
        self.answered.append(question)


def reply(question: str, off: int = 0) -> dict[str, str]:
    one, two = (int(word) for word in question.split(" + "))
    return {"reasoning": f"I add {two} to {one}.", "content": f"It is {one + two + off}."}


def sums(path: Path, count: int) -> Path:
    """Write questions with their right answers."""
    lines = [json.dumps({"question": f"{number} + {number + 1}", "expected": str(2 * number + 1)}) for number in range(count)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def gaps(times: Sequence[float]) -> list[float]:
    return [later - sooner for sooner, later in pairwise(sorted(times))]
