"""A small OpenAI-compatible server on loopback that does all that is asked of it, but for the faults it is given."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler
from itertools import count
from typing import Any

from loopback import completion, send

WORDS = {
    "2 + 2?": ("Two and two.", "It is 4."),
    "Capital of France?": ("A city on the Seine.", "That is Paris."),
    "Sky?": ("Light scatters.", "Blue."),
}


class ModelServer:
    """Answers known questions by word, a word a token; it has `slots` places, each held by one answer.

    Faults: `mixed` streams; seconds for which it is `deaf` to a client that hangs up; tokens by which it `overcounts` a prompt or
    `streams another count`, a factor by which it `multiplies` a completion's; `streams no usage`; `open` to everybody; the `listed` name;
    the text of its `metrics`; and a bad request's name with the status, `hang` or `bare`, by which it is answered.
    """

    def __init__(self, faults: dict[str, Any] | None = None, key: str | None = None, slots: int = 4, owner: str = "vllm") -> None:
        self.faults, self.key, self.owner = faults or {}, key, owner
        self.slots = threading.BoundedSemaphore(slots)
        self.asked: list[str] = []
        self.running: list[str] = []

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        with contextlib.suppress(ConnectionError):
            self._route(request)

    def _route(self, request: BaseHTTPRequestHandler) -> None:
        match request.path:
            case "/v1/models":
                send(request, json.dumps({"data": [{"id": self.faults.get("listed", "m"), "owned_by": self.owner}]}))
            case "/metrics":
                send(request, self.faults.get("metrics", '# HELP x\nvllm:running{a="b c"} 0.0\nprocess_seconds 1\n'), kind="text/plain")
            case "/tokenize":
                self._tokenize(request, json.loads(request.body))
            case "/v1/chat/completions":
                self._chat(request)
            case _:
                send(request, '{"error": {"message": "no such path"}}', 404)

    def _tokenize(self, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        text = prompt(body["messages"]) if "messages" in body else body["prompt"]
        send(request, json.dumps({"tokens": list(range(len(text.split())))}))

    def _chat(self, request: BaseHTTPRequestHandler) -> None:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}" and "open" not in self.faults:
            send(request, '{"error": {"message": "no key"}}', 401)
            return
        wrong = mistake(request.body)
        if wrong:
            self._refuse(request, wrong, self.faults.get(wrong, 400))
            return
        body = json.loads(request.body)
        with self.slots:
            (self._stream if body.get("stream") else self._whole)(request, body)

    def _refuse(self, request: BaseHTTPRequestHandler, wrong: str, how: Any) -> None:
        if how == "hang":
            time.sleep(1.0)
        elif how == 200:
            send(request, completion({"content": "hello"}))
        elif how == "bare":
            send(request, '{"detail": "no"}', 422)
        else:
            send(request, json.dumps({"error": {"message": wrong}}), how)

    def _whole(self, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        reasoning, text, finish = self._answer(body["messages"][-1]["content"], body.get("max_tokens") or 1000)
        made = json.loads(completion({"reasoning": reasoning, "content": text}, finish))
        made["usage"] = self._usage(body, reasoning, text)
        send(request, json.dumps(made))

    def _answer(self, question: str, most: int) -> tuple[str, str, str]:
        reasoning, text = (part.split() for part in WORDS.get(question, ("Let me see.", "I do not know.")))
        cut = len(reasoning) + len(text) > most
        return " ".join(reasoning[:most]), " ".join(text[: max(most - len(reasoning), 0)]), "length" if cut else "stop"

    def _usage(self, body: dict[str, Any], reasoning: str, text: str, streamed: bool = False) -> dict[str, int]:
        tokens = len(f"{reasoning} {text}".split()) + (streamed and self.faults.get("streams another count", 0))
        sent = len(prompt(body["messages"]).split()) + self.faults.get("overcounts", 0)
        return {"prompt_tokens": sent, "completion_tokens": tokens * self.faults.get("multiplies", 1), "total_tokens": sent + tokens}

    def _stream(self, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.end_headers()
        question = body["messages"][-1]["content"]
        if body.get("max_tokens") is None:
            self._go_on(request)
            return
        reasoning, text, finish = self._answer(self._swapped(question), body["max_tokens"])
        for name, part in (("reasoning", reasoning), ("content", text)):
            for word in part.split():
                event(request, {"delta": {name: f"{word} "}, "finish_reason": None})
        event(request, {"delta": {}, "finish_reason": finish})
        if body.get("stream_options") and "streams no usage" not in self.faults:
            request.wfile.write(f"data: {json.dumps({'choices': [], 'usage': self._usage(body, reasoning, text, streamed=True)})}\n\n".encode())

    def _swapped(self, question: str) -> str:
        """The question that is answered: another one's where streams are mixed and more than one is running."""
        if "mixed" not in self.faults:
            return question
        self.running.append(question)
        time.sleep(0.1)
        others = [other for other in self.running if other != question]
        return others[0] if others else question

    def _go_on(self, request: BaseHTTPRequestHandler) -> None:
        """Count until the client hangs up, or, deaf to that, for some seconds more."""
        end = time.monotonic() + self.faults.get("deaf", 0)
        for number in count(1):
            try:
                event(request, {"delta": {"reasoning": f"{number} "}, "finish_reason": None})
            except ConnectionError:
                if time.monotonic() > end:
                    return
            time.sleep(0.01)


def event(request: BaseHTTPRequestHandler, choice: dict[str, Any]) -> None:
    made = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [{"index": 0, **choice}]}
    request.wfile.write(f"data: {json.dumps(made)}\n\n".encode())
    request.wfile.flush()


def prompt(messages: list[dict[str, str]]) -> str:
    return "\n".join(f"{message['role']} : {message['content']}" for message in messages) + "\nassistant :"


def mistake(body: bytes) -> str:
    """The name of what is wrong with a request, as verify/bad_requests.py calls it."""
    try:
        asked = json.loads(body)
    except ValueError:
        return "broken JSON"
    if asked["model"] != "m":
        return "unknown model"
    if not isinstance(asked["messages"], list):
        return "messages of a wrong type"
    return "negative max_tokens" if (asked.get("max_tokens") or 1) < 1 else ""
