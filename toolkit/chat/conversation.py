"""The turns of a conversation: what goes back to the model is what was said, never what it thought."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import openai

from toolkit.engines import Answer, Message
from toolkit.engines.chat import Chat
from toolkit.errors import ThinkshipError


@dataclass(frozen=True)
class Manner:
    """How the model is asked; None leaves the choice to the server."""

    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None

    def options(self) -> dict[str, Any]:
        """Return what goes into a request beside messages and max_tokens."""
        given = openai.omit if self.temperature is None else self.temperature
        return {"temperature": given, "stream_options": {"include_usage": True}}


@dataclass
class Conversation:
    """Questions and answers so far."""

    chat: Chat
    manner: Manner = Manner()
    turns: list[Message] = field(default_factory=list)
    last: Answer | None = None
    """The last answer, as far as it came."""

    def ask(self, question: str) -> Generator[Answer, None, None]:
        """Yield the answer as far as it has come, at last whole; errors as `Chat.live`.

        An answer that is hung up on is kept as far as it came, a question without any answer is forgotten.
        """
        turn: Message = {"role": "user", "content": question}
        self.last = None
        try:
            with closing(self.chat.live([*self._system(), *self.turns, turn], self.manner.max_tokens, **self.manner.options())) as growing:
                for self.last in growing:
                    yield self.last
        except ThinkshipError:
            self.last = None
            raise
        finally:
            if self.last and self.last.text.strip():
                self.turns += [turn, {"role": "assistant", "content": self.last.text.strip()}]

    def clear(self) -> None:
        """Forget what was said."""
        self.turns, self.last = [], None

    def _system(self) -> list[Message]:
        return [{"role": "system", "content": self.manner.system}] if self.manner.system else []
