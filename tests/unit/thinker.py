"""A small server on loopback whose model reasons at length, in llama-server's dialect, well but for the faults it is given."""

from __future__ import annotations

import json
import re
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import completion, send

QUESTION = "What is 12 + 34?"
REASONING = "Tens give ten plus thirty which is forty and Ones give two plus four which is six"
TEXT = "It is 46."
CONTEXT = 256
TOKEN = re.compile(r"<\|?/?\w+\|?>|\s*[^\s<]+|\s+|<")


def tokens(text: str) -> list[str]:
    """A special token or a tag is one token, and so is a word with the space before it."""
    return TOKEN.findall(text)


def prompt(messages: list[dict[str, Any]]) -> str:
    turns = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in messages)
    return f"{turns}<|im_start|>assistant\n<think>\n"


class Thinker:
    """Faults, by name: `says stop`, `answers at once`, `tags`, `inline`, `looks at the prompt`, `looks at tools`, `switches`, `believes`,
    `refuses the switch`, `cut bytes`, `surrogates`, `no schema`, `refuses schemas`, `leaks stops`, `keeps stops`, `stops as length`,
    `streams inline`, `fills in silence`, `breaks when full`, `cuts prompts`, `breaks on long prompts`, `another tokenizer`, `begins twice`,
    `escapes`.
    `eos` is the end token it names.
    """

    def __init__(self, *faults: str, eos: str = "<|im_end|>") -> None:
        self.faults, self.eos = faults, eos

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.body) if request.body else {}
        match request.path:
            case "/props":
                send(request, json.dumps({"eos_token": self.eos}))
            case "/tokenize":
                words = tokens(body["content"])[:: -1 if "another tokenizer" in self.faults else 1]
                send(request, json.dumps({"tokens": list(map(number, words))}))
            case "/apply-template":
                send(request, json.dumps({"prompt": prompt(body["messages"])}))
            case _:
                self._chat(request, body)

    def _chat(self, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        sent = self._sent(body["messages"])
        if sent > CONTEXT and "cuts prompts" not in self.faults:
            send(request, '{"error": {"message": "the request exceeds the context"}}', 500 if "breaks on long prompts" in self.faults else 400)
            return
        if "enable_thinking" in str(body) and "refuses the switch" in self.faults:
            send(request, '{"error": {"message": "unknown field chat_template_kwargs"}}', 400)
            return
        if "response_format" in body and "refuses schemas" in self.faults:
            send(request, '{"error": {"message": "no schemas here"}}', 400)
            return
        if sent + body["max_tokens"] > CONTEXT and "ignore_eos" in body and "breaks when full" in self.faults:
            send(request, '{"error": {"message": "the context is full"}}', 500)
            return
        reasoning, text, finish = self._answer(body)
        if "ignore_eos" in body:
            finish = "stop" if "fills in silence" in self.faults else "length"
        if body.get("stream"):
            send(request, "".join(self._events(reasoning, text, finish)), kind="text/event-stream")
            return
        made = json.loads(completion(self._message(reasoning, text), finish))
        made["usage"] = {"prompt_tokens": min(sent, CONTEXT), "completion_tokens": len(tokens(reasoning + text)), "total_tokens": 0}
        send(request, json.dumps(made))

    def _sent(self, messages: list[dict[str, Any]]) -> int:
        escaped = [{**turn, "content": turn["content"].replace("<|", "< | ")} for turn in messages] if "escapes" in self.faults else messages
        return len(tokens(prompt(escaped))) + ("begins twice" in self.faults)

    def _answer(self, body: dict[str, Any]) -> tuple[str, str, str]:
        reasoning, text = REASONING, TEXT
        if "response_format" in body and "no schema" not in self.faults:
            text = json.dumps({"text": body["response_format"]["json_schema"]["schema"]["properties"]["text"]["enum"][0]}, ensure_ascii=False)
        if "enable_thinking" in str(body):
            unthought = {"switches": ("", text), "believes": ("", f"{REASONING}</think>{text}")}
            reasoning, text = next((unthought[fault] for fault in self.faults if fault in unthought), (reasoning, text))
        if self._misread(body["messages"]):
            reasoning, text = "", reasoning
        return self._stopped(body, *self._cut(reasoning, text, body["max_tokens"]))

    def _misread(self, messages: list[dict[str, Any]]) -> bool:
        roles = {"user"} if "looks at the prompt" in self.faults else {"tool"} if "looks at tools" in self.faults else set()
        return any("</think>" in turn["content"] for turn in messages if turn["role"] in roles)

    def _cut(self, reasoning: str, text: str, most: int) -> tuple[str, str, str]:
        words = tokens(reasoning)
        left = most - len(words)
        if left < len(tokens(text)) and "answers at once" not in self.faults:
            tail = "<think>" if "tags" in self.faults else ""
            return "".join(words[:most]) + tail, "".join(tokens(text)[: max(left, 0)]), "stop" if "says stop" in self.faults else "length"
        return reasoning, text, "stop"

    def _stopped(self, body: dict[str, Any], reasoning: str, text: str, finish: str) -> tuple[str, str, str]:
        for stop in body.get("stop") or ():
            if stop in reasoning and "leaks stops" not in self.faults:
                return (
                    reasoning.partition(stop)[0] + ("keeps stops" in self.faults) * stop,
                    "",
                    "length" if "stops as length" in self.faults else "stop",
                )
        return reasoning, text, finish

    def _message(self, reasoning: str, text: str) -> dict[str, str]:
        return {"content": f"{reasoning}</think>{text}"} if "inline" in self.faults else {"reasoning_content": reasoning, "content": text}

    def _events(self, reasoning: str, text: str, finish: str) -> list[str]:
        said = (
            [("content", f"{reasoning}</think>{text}")] if "streams inline" in self.faults else [("reasoning_content", reasoning), ("content", text)]
        )
        pieces = [(name, piece) for name, part in said for piece in self._pieces(part)]
        made = [{"delta": {name: piece}, "finish_reason": None} for name, piece in pieces] + [{"delta": {}, "finish_reason": finish}]
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return [f"data: {json.dumps({**chunk, 'choices': [{'index': 0, **choice}]})}\n\n" for choice in made]

    def _pieces(self, text: str) -> list[str]:
        if "cut bytes" in self.faults:
            data = text.encode()
            return [data[place : place + 2].decode(errors="replace") for place in range(0, len(data), 2)]
        if "surrogates" in self.faults:
            data = text.encode("utf-16-le")
            return [data[place : place + 2].decode("utf-16-le", "surrogatepass") for place in range(0, len(data), 2)]
        return tokens(text)


def number(word: str) -> int:
    """A token id that is the same on every run."""
    return sum(place * ord(rune) for place, rune in enumerate(word, 1)) % 50_000
