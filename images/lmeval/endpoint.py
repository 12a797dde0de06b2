"""An OpenAI-compatible endpoint as a model of lm-evaluation-harness, made for models that think before they answer.

The harness's own client sends a task's stop sequences to the server, which would end a chain of thought at its first blank line; here they cut
the answer alone. What was cut off by its budget, and what was not answered, is counted.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from program import FAILED, INVALID, ProgramError, tracked

TRIES = 3
"""How often a question is asked that is not answered."""
BY_THE_TASK = ("temperature", "top_p", "top_k", "min_p", "seed")
"""Settings of a task that are handed on; all others concern the harness or stop sequences."""

GENERATED = "choose a task whose output_type is generate_until"


class Endpoint(LM):
    """Asks chat completions, several at once, greedily unless the task samples."""

    def __init__(self, asked: dict[str, Any]) -> None:
        super().__init__()
        self.asked = asked
        self.counts: Counter[str] = Counter()
        self.last_error = ""
        local = "://127.0.0.1" in asked["url"] or "://localhost" in asked["url"]
        self._opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))

    @property
    def tokenizer_name(self) -> str:
        """Return the served name: the server's own template is applied there."""
        return str(self.asked["model"])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the conversation as JSON, which `generate_until` sends as it is."""
        if not add_generation_prompt:
            message = "the task begins the model's answer for it, which a chat completion cannot do"
            raise ProgramError(message, "choose a task without gen_prefix", INVALID)
        return json.dumps(chat_history, ensure_ascii=False)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the answers, in order; ProgramError where not one question was answered."""
        with ThreadPoolExecutor(self.asked["parallel"]) as pool:
            answers = list(tracked(pool.map(self._answer, (request.args for request in requests)), len(requests), "questions"))
        if self.counts["unanswered"] == len(requests):
            raise ProgramError(f"not one of {len(requests)} questions was answered: {self.last_error}", "look at the server's log", FAILED)
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuse: a chat completion tells no likelihood of a given text."""
        raise ProgramError("the task compares likelihoods, which a chat cannot be asked for", GENERATED, INVALID)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Refuse, as `loglikelihood`."""
        raise ProgramError("the task is a perplexity, which a chat cannot be asked for", GENERATED, INVALID)

    def _answer(self, given: tuple[str, dict[str, Any]]) -> str:
        messages, settings = json.loads(given[0]), given[1]
        body = {"model": self.asked["model"], "messages": messages, "max_tokens": self.asked["max_tokens"], "temperature": 0}
        if settings.get("do_sample"):
            body |= {name: settings[name] for name in BY_THE_TASK if settings.get(name) is not None}
        choice = self._asked(body)
        if choice is None:
            self.counts["unanswered"] += 1
            return ""
        text = answer_of((choice.get("message") or {}).get("content") or "", self.asked["think"])
        self.counts["cut"] += choice.get("finish_reason") == "length"
        self.counts["empty"] += not text
        until = settings.get("until") or []
        return cut_at(text, [until] if isinstance(until, str) else until)

    def _asked(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """Return the first choice of the answer, None where there is none after several tries."""
        for attempt in range(TRIES):
            time.sleep(attempt)
            try:
                with self._opener.open(self._request(body), timeout=self.asked["timeout"]) as reply:
                    choice: dict[str, Any] = json.load(reply)["choices"][0]
                    return choice
            except urllib.error.HTTPError as error:
                self.last_error = f"{error.code}: {error.read(300).decode(errors='replace')}"
            except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
                self.last_error = str(error) or type(error).__name__
        return None

    def _request(self, body: dict[str, Any]) -> urllib.request.Request:
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        return urllib.request.Request(f"{self.asked['url']}/chat/completions", json.dumps(body).encode(), headers)


def answer_of(content: str, think: dict[str, str]) -> str:
    """Return what follows the thinking, where a server left it in the content; nothing where the content is thinking alone."""
    _, tag, answer = content.rpartition(think["close"])
    if not tag and content.lstrip().startswith(think["open"]):
        return ""
    return answer.strip() if tag else content.strip()


def cut_at(text: str, stops: list[str]) -> str:
    """Return a text up to the first of its stop sequences."""
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
