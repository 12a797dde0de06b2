"""The four servers behind one interface: how each is launched, probed, asked for its rendered prompt, and where it puts the reasoning."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, get_args

from toolkit.engine_settings import Vllm
from toolkit.errors import UsageError
from toolkit.fit.card import Card
from toolkit.fit.shape import Shape
from toolkit.process import Command
from toolkit.recipe import EngineName, Family, Think

Message = Mapping[str, Any]
"""One turn of a conversation: role and content."""

NAMES: tuple[str, ...] = get_args(EngineName)
"""The engines this toolkit can start, in the order of their weight."""


@dataclass(frozen=True)
class Target:
    """What is to be served: one variant of the base or the tuned model under one name."""

    served_name: str
    context: int
    """Tokens of one request, prompt and answer together."""
    parallel: int
    """Requests answered at once."""
    family: Family
    variant: str
    """Quantisation: a GGUF type, or one of vLLM's."""
    model: Path | None = None
    """HF checkpoint."""
    gguf: Path | None = None
    modelfile: Path | None = None
    think: Think = field(default_factory=Think)
    vllm: Vllm = field(default_factory=Vllm)
    shape: Shape | None = None
    """Sizes of the model, where they are known."""
    adapter: Path | None = None
    """What is laid over the model or the GGUF while it is served: PEFT's folder, or a GGUF. None where it was merged."""
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """Further ones, by the names that clients know them by."""
    base: bool = False
    """Whether it is the model before the fine-tune, which may not think."""
    api_key_file: Path | None = None
    """File with the key that every request must bear; it never stands on a command line."""

    @property
    def key_settings(self) -> dict[str, str]:
        """The environment by which a program of images/ is told where its key lies."""
        return {"API_KEY_FILE": str(self.api_key_file)} if self.api_key_file else {}

    @property
    def api_key(self) -> str | None:
        """The key itself."""
        return key_in(self.api_key_file)


def key_in(file: Path | None) -> str | None:
    """Return the API key that a file holds, None where none is named; OSError where it cannot be read."""
    return file.read_text(encoding="utf-8").strip() if file else None


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible address, `http://host:port/v1`, and the name by which the model is asked for."""

    engine: str
    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every chat request, by which a server that knows no names of adapters is told which one is meant."""

    @property
    def root(self) -> str:
        """The server's address without `/v1`, where its own probes live."""
        return self.url.rstrip("/").removesuffix("/v1")


@dataclass(frozen=True)
class Pieces:
    """One message taken apart: the reasoning, the answer, and the field that held the reasoning (`inline` for tags in the content)."""

    reasoning: str
    text: str
    where: str | None


@dataclass(frozen=True)
class Answer:
    """One answer: its two parts, why it ended, and the tokens it took."""

    reasoning: str
    text: str
    finish: str | None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    where: str | None = None
    seconds: float = 0.0
    deltas: tuple[str, ...] = field(default=(), compare=False)
    """The pieces of a stream as they came, reasoning and answer alike."""


@dataclass(frozen=True)
class Ends:
    """At what a model's answer ends, as far as it is told."""

    tokens: tuple[str, ...] = ()
    """Texts of end tokens."""
    ids: tuple[int, ...] = ()
    """Ids of end tokens."""
    stops: tuple[str, ...] | None = None
    """Texts at which the server ends an answer unasked, None where it has no such setting."""


@dataclass(frozen=True)
class Rendered:
    """A prompt as the server itself renders it: its text or its token ids, or why there is neither."""

    text: str | None = None
    ids: tuple[int, ...] | None = None
    reason: str = ""


@dataclass(frozen=True)
class Settings:
    """What a live server tells of how it serves; None for what it does not tell."""

    context: int | None = None
    """Tokens of one request, prompt and answer together."""
    quantization: str | None = None
    """Quantisation of the weights as recipes name it."""
    sampling: Mapping[str, float] | None = None
    """What is sampled with where a request says nothing, by generation_config.json's names."""
    on_gpu: float | None = None
    """Share of the model that lies on a GPU."""


@dataclass(frozen=True)
class Tools:
    """Where an engine finds what it is made of."""

    python: Mapping[str, Path]
    """Environment name (folder under images/) -> its interpreter."""
    programs: Path
    """The folder of the engine's own programs: images/<environment>."""
    scratch: Path
    """A folder for what the server needs while it runs."""
    ollama: Path | None = None
    """Ollama's program."""
    bind: str = "127.0.0.1"
    """Address the server listens at: in a container all of its own, of which the engine opens one port of the host."""
    gpu: bool = False
    """Whether the server has an NVIDIA GPU."""
    card: Card | None = None
    """Which one, where nvidia-smi tells."""


@dataclass(frozen=True)
class Habits:
    """What a kind of server is known to do in its own way, so that a check does not take it for a fault."""

    batches: bool = True
    """Whether it answers several requests at once."""
    lists_models: bool = True
    """Whether its list of models names what it serves."""
    metrics: str = ""
    """Beginning of the names of its own figures at /metrics, empty where it has no such page."""
    endless: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a request that keep the answer from ending by itself."""
    context_step: int = 1
    """Tokens to a multiple of which it rounds its context up."""
    parser: str = ""
    """How its reasoning parser is switched on."""
    unthinking: Mapping[str, Any] = field(default_factory=lambda: {"chat_template_kwargs": {"enable_thinking": False}})
    """Fields of a request that switch the thinking off."""
    believes_in_switch: bool = False
    """Whether it takes what follows such a request for an answer even where the template has no switch and the model goes on thinking."""
    cuts_prompts: bool = False
    """Whether it shortens a prompt beyond its context in silence."""
    limits_context: bool = True
    """Whether it holds requests to a context length at all."""
    keeps_stops: bool = False
    """Whether an answer that a client's stop text ended still ends in that text."""
    injectable: bool = True
    """Whether a special token's text typed by a user becomes that token."""
    lenient: Mapping[str, str] = field(default_factory=dict)
    """Bad requests (verify/bad_requests.py) that it does not refuse with a 4xx and an error object, and how it answers them instead."""


class Engine(Protocol):
    """One kind of server."""

    name: str
    environment: str | None
    """Folder under images/ whose environment it runs in; None for a program of the machine."""
    port: int
    """Its usual port."""
    asks_for_key: bool
    """Whether it can be told to serve nobody without an API key."""
    startup_seconds: float
    """Longest time from the start to the first answered token."""
    fields: tuple[str, ...]
    """Where it puts the reasoning, first come first read."""
    habits: Habits

    def lay_out(self, target: Target, tools: Tools) -> None:
        """Put into the scratch folder what the server reads at its start."""

    def launch(self, target: Target, port: int, tools: Tools) -> Command:
        """Return the command that serves the target at `tools.bind`."""

    def alive(self, root: str) -> bool:
        """Say whether the server answers at all, model or not; bounded by two seconds."""

    def prepare(self, target: Target, port: int, tools: Tools) -> Command | None:
        """Return the command, run beside the server, that brings the model into it, None where it has it from the start."""

    def rendered(self, endpoint: Endpoint, messages: Sequence[Message], tools: Sequence[Message] = ()) -> Rendered:
        """Return the prompt that the server makes of a conversation, in which tools may be offered."""

    def tokens(self, endpoint: Endpoint, text: str, alone: bool = False) -> tuple[int, ...] | None:
        """Return the server's token ids for a prompt with its special tokens, None where it cannot be asked.

        `alone` leaves out what the server puts around a prompt by itself, as a beginning token.
        """

    def ends(self, endpoint: Endpoint) -> Ends:
        """Return at what the live server says that answers end; nothing where it does not tell; errors as `wire.ask`."""

    def template(self, endpoint: Endpoint) -> str:
        """Say which chat template the live server uses."""

    def settings(self, endpoint: Endpoint) -> Settings:
        """Return what the live server tells of itself; errors as `wire.ask`."""

    def sampled(self, parameters: Mapping[str, float]) -> dict[str, Any]:
        """Return the fields of a chat request that sample with these parameters; none where it takes no such fields."""

    def addressed(self, endpoint: Endpoint, names: Sequence[str], name: str) -> Endpoint:
        """Return the endpoint as one of several adapters on its base is asked for: `names` are all of them, the recipe's own first."""

    def overruled(self, endpoint: Endpoint) -> bool:
        """Say whether the live server was given a chat template and runs another one in its place."""

    def read(self, message: Message, think: Think) -> Pieces:
        """Take a message apart."""


def engine(name: str) -> Engine:
    """Look an engine up by name; UsageError with the nearest name where there is none."""
    if name not in (*NAMES, "openai"):
        near = difflib.get_close_matches(name, NAMES, 1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(NAMES)}"
        raise UsageError(f"no engine is called {name!r}", hint)
    # Imported here: each module needs this one's classes. Plain imports, because a step's id covers the modules that these lines name.
    from toolkit.engines import llamacpp, ollama, openai, transformers, vllm

    known: dict[str, Engine] = {module.ENGINE.name: module.ENGINE for module in (llamacpp, ollama, vllm, transformers, openai)}
    return known[name]
