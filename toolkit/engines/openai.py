"""Any OpenAI-compatible server of which no more is known: it can be asked and read, not launched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from toolkit.engines import Endpoint, Ends, Habits, Message, Pieces, Rendered, Settings, Target, Tools
from toolkit.engines.reading import FIELDS, take_apart
from toolkit.engines.wire import answers
from toolkit.errors import UsageError
from toolkit.process import Command
from toolkit.recipe import Think


def with_whole_top_k(parameters: Mapping[str, float]) -> dict[str, float]:
    """Return sampling parameters with top_k as the integer that it is: transformers ends in a 500 otherwise, and vLLM's router refuses 20.0."""
    return {name: int(value) if name == "top_k" else value for name, value in parameters.items()}


class OpenAI:
    """What all servers have in common; the real engines replace what they know better."""

    name = "openai"
    environment: str | None = None
    port = 8000
    asks_for_key = False
    startup_seconds = 120.0
    habits = Habits()
    fields: tuple[str, ...] = ("reasoning", "reasoning_content", "thinking")

    def lay_out(self, target: Target, tools: Tools) -> None:
        """Do nothing: the server reads the model where it lies."""

    def launch(self, target: Target, port: int, tools: Tools) -> Command:
        """Refuse: it is not known how this server is started."""
        raise UsageError("an unknown server cannot be started", "name one of llamacpp, ollama, vllm, transformers")

    def alive(self, root: str) -> bool:
        """Ask for the list of models, which every server of this kind has."""
        return answers(f"{root}/v1/models")

    def prepare(self, target: Target, port: int, tools: Tools) -> Command | None:
        """Do nothing: the server has its model from the start."""

    def rendered(self, endpoint: Endpoint, messages: Sequence[Message], tools: Sequence[Message] = ()) -> Rendered:
        """Return neither text nor ids: there is no standard request for them."""
        return Rendered(reason="the server has no request that shows its rendered prompt")

    def tokens(self, endpoint: Endpoint, text: str, alone: bool = False) -> tuple[int, ...] | None:
        """Return None: there is no standard request for token ids."""
        return None

    def ends(self, endpoint: Endpoint) -> Ends:
        """Return nothing: there is no standard request for end tokens."""
        return Ends()

    def template(self, endpoint: Endpoint) -> str:
        """Say that it cannot be known from outside."""
        return "not known from outside"

    def settings(self, endpoint: Endpoint) -> Settings:
        """Return nothing: there is no standard request for settings."""
        return Settings()

    def sampled(self, parameters: Mapping[str, float]) -> dict[str, Any]:
        """Return nothing: the standard has fields for some of the parameters only."""
        return {}

    def addressed(self, endpoint: Endpoint, names: Sequence[str], name: str) -> Endpoint:
        """Ask for the adapter as for a model of its own."""
        return replace(endpoint, model=name)

    def overruled(self, endpoint: Endpoint) -> bool:
        """Say no: these servers know one template."""
        return False

    def read(self, message: Message, think: Think) -> Pieces:
        """Take a message apart by the fields this kind of server uses, else by another kind's: where it was found is told and judged."""
        return take_apart(message, think, (*self.fields, *FIELDS))


ENGINE = OpenAI()
