"""The endpoint that is asked: a question in its prompt, sent at the pace that was given, and later again where the server is busy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import openai

from toolkit.engines import Answer, Message
from toolkit.engines.chat import Chat
from toolkit.errors import BusyError
from toolkit.making import Item
from toolkit.making.pace import Pace

LONGEST = 600.0
"""Seconds that one question may wait, all in all, for a server that answers 429."""
PLACE = "{question}"


@dataclass(frozen=True)
class Asking:
    """What is sent beside the question; None leaves the choice to the server."""

    system: str | None = None
    prompt: str = PLACE
    max_tokens: int | None = None
    temperature: float | None = None

    def messages(self, item: Item) -> list[Message]:
        """Return the conversation that asks a question."""
        user = {"role": "user", "content": self.prompt.replace(PLACE, item.text)}
        return [{"role": "system", "content": self.system}, user] if self.system else [user]


@dataclass(frozen=True)
class Teacher:
    """Answers questions, many threads' at once."""

    chat: Chat
    asking: Asking = Asking()
    pace: Pace = field(default_factory=Pace)
    on_wait: Callable[[float], None] = lambda seconds: None
    """Told the seconds for which nobody asks, because the server is busy."""

    def answer(self, item: Item) -> Answer:
        """Ask a question; BusyError where the server stays busy for LONGEST seconds, others as `Chat.ask`."""
        options: dict[str, Any] = {"temperature": openai.omit if self.asking.temperature is None else self.asking.temperature}
        waited = 0.0
        for times in count():
            self.pace.turn()
            try:
                return self.chat.ask(self.asking.messages(item), self.asking.max_tokens, **options)
            except BusyError as error:
                wait = min(2.0**times, 60.0) if error.wait is None else max(error.wait, 0.5)
                waited += wait
                if waited > LONGEST:
                    raise
                if self.pace.hold(wait):
                    self.on_wait(wait)
        raise AssertionError("count() has no end")
