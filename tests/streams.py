"""Clients that stream one chat after another and keep a log, and try nothing twice."""

from __future__ import annotations

import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from openai import DefaultHttpxClient, OpenAI, OpenAIError

QUESTION = "What is {} + {}?"


@dataclass(frozen=True)
class Entry:
    """One request: when it began and how it ended."""

    client: int
    began: float
    seconds: float
    tokens: int
    error: str = ""


@dataclass
class Streams:
    """`with Streams(url, model, key, 8) as streams:` has eight clients ask as long as the block runs."""

    url: str
    model: str
    key: str
    clients: int
    kept: bool = True
    """Whether a client asks again on the connection that it has, as OpenAI's library does, or makes one for each request, as curl does."""
    trust: Path | None = None
    """The certificate of the authority that signed the server's, where it is none that everybody trusts."""
    log: list[Entry] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Streams:
        self._threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=120)

    @property
    def failed(self) -> list[Entry]:
        """The requests that ended otherwise than by a whole answer."""
        return [entry for entry in self.log if entry.error]

    def _ask(self, number: int) -> None:
        headers = {} if self.kept else {"Connection": "close"}
        trusted = DefaultHttpxClient(verify=ssl.create_default_context(cafile=self.trust), trust_env=False) if self.trust else None
        with OpenAI(base_url=self.url, api_key=self.key, max_retries=0, timeout=100, default_headers=headers, http_client=trusted) as client:
            turn = 0
            while not self._stop.is_set():
                turn += 1
                began = time.time()
                tokens, error = 0, ""
                try:
                    tokens, error = self._one(client, number, turn)
                except (OpenAIError, OSError, ValueError) as problem:
                    error = f"{type(problem).__name__}: {problem}"
                except Exception as problem:  # the HTTP library's own, which a broken stream lets through
                    error = f"{type(problem).__name__}: {problem}"
                self.log.append(Entry(number, began, time.time() - began, tokens, error))

    def _one(self, client: OpenAI, number: int, turn: int) -> tuple[int, str]:
        messages = [{"role": "user", "content": QUESTION.format(10 + number, 10 + turn % 80)}]
        pieces, finish = 0, None
        with client.chat.completions.create(model=self.model, messages=messages, stream=True, temperature=0, max_tokens=200) as stream:  # type: ignore[call-overload]
            for chunk in stream:
                pieces += 1
                finish = chunk.choices[0].finish_reason if chunk.choices else finish
        # a small model that goes on and on is cut by max_tokens, as it was asked to be: that is a whole answer
        return pieces, "" if finish in ("stop", "length") else f"ended with {finish} after {pieces} pieces"
