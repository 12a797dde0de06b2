"""What `thinkship chat` does: it finds the server or starts it for the time of the conversation, and chooses terminal or pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit import console, recipe_file, service
from toolkit.chat import pipe, terminal
from toolkit.chat.conversation import Conversation, Manner
from toolkit.chat.screen import Screen
from toolkit.endpoints import Address
from toolkit.engines import Endpoint
from toolkit.engines.chat import Chat
from toolkit.errors import UsageError
from toolkit.recipe import Think


@dataclass(frozen=True)
class Whom:
    """Whom to talk to: a recipe's engine, an address, or else the server of ours that runs; `timeout` in seconds an answer."""

    recipe: Path | None
    engine: Any
    variant: str | None
    runner: str
    url: str | None
    model: str | None
    api_key_file: Path | None
    timeout: float
    store: Path

    @contextmanager
    def reached(self) -> Iterator[Chat]:
        """Yield a client; a server that had to be started ends with the block. Errors as `service.served` and `Address.endpoint`."""
        if self.recipe and self.url:
            raise UsageError(
                "a recipe and --url were both given", "name the recipe, whose engine is started where it does not run, or the address alone"
            )
        with ExitStack() as stack:
            think = recipe_file.load(self.recipe).base.think if self.recipe else Think()
            with redirect_stdout(sys.stderr):  # standard output is for answers
                endpoint = stack.enter_context(self._started(self.recipe)) if self.recipe else self._named()
            yield stack.enter_context(Chat(endpoint, think, self.timeout))

    def _started(self, recipe: Path) -> AbstractContextManager[Endpoint]:
        name = self.engine or recipe_file.load(recipe).serve.engines[0]
        return service.served(recipe, name, self.store, self.variant, self.runner)

    def _named(self) -> Endpoint:
        return Address(self.url, self.model, self.engine, self.api_key_file).endpoint(self.store)


def talk(whom: Whom, manner: Manner, question: str | None, fold: bool) -> None:
    """Ask one question, or lead a conversation: at a terminal, or a line of standard input a turn."""
    with whom.reached() as chat:
        conversation = Conversation(chat, manner)
        if question is None and console.watched() and sys.stdin.isatty():
            terminal.converse(conversation, fold)
        elif question is None:
            pipe.answer_all(conversation, sys.stdin)
        elif console.watched():
            screen = Screen(fold, chat.think)
            answer = terminal.show(question, conversation, screen)
            screen.end(answer)
            pipe.require(answer)
        else:
            pipe.answer(conversation, question)
