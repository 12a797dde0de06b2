"""What an endpoint must show, one module a contract; each gives findings with their evidence and the way to mend what is broken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from toolkit.assessment import Fidelity, Identity, Soak, Task
from toolkit.chat_template import ChatTemplate
from toolkit.engines import Ends
from toolkit.recipe import Think
from toolkit.variants import quantization

Status = Literal["pass", "fail", "skip"]


class Finding(BaseModel):
    """The outcome of one check on one endpoint."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)
    name: str
    engine: str
    variant: str = ""
    status: Status
    message: str
    remedy: str = ""
    required: bool = True
    """A verdict of pass needs every required check passed; a skipped one is not."""
    evidence: dict[str, Any] = {}


class Reply(BaseModel):
    """One held-out question as it was answered, a line of answers.jsonl."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)
    question: str
    expected: str | None = None
    reasoning: str = ""
    text: str = ""
    finish: str | None = None
    where: str | None = None
    """Field that held the reasoning."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    seconds: float = 0.0
    right: bool | None = None
    """None where there is no expected answer, or no mark from the judge."""
    judged: str = ""
    """The judge's label where another model marks: correct, incorrect, or why there is no mark."""
    judge_words: tuple[str, ...] = ()
    """What the judge said, one text for each order of the two answers it was asked in."""
    error: str = ""
    """Why there is no answer."""


@dataclass(frozen=True)
class Question:
    """A held-out question and its machine-checkable answer."""

    text: str
    expected: str | None = None
    completion: str = ""
    """What the data set answers, reasoning and end token included."""


Tokens = tuple[tuple[str, float], ...]
"""Pairs of a token's text and its natural log-probability."""


@dataclass(frozen=True)
class Probe:
    """A question with the merged model's greedy answer and the base's."""

    question: str
    wanted: Tokens
    base: tuple[str, ...]


@dataclass(frozen=True)
class Tokenized:
    """A text with its token ids by the checkpoint's own tokenizer."""

    text: str
    ids: tuple[int, ...]
    question: str = ""
    """The question whose prompt it is, empty for other texts."""


@dataclass(frozen=True)
class Expectations:
    """What an endpoint is held against."""

    think: Think = field(default_factory=Think)
    think_at_least: float = 1.0
    task: Task | None = None
    questions: tuple[Question, ...] = ()
    template: ChatTemplate | None = None
    """The HF chat template, where it is known."""
    probes: tuple[Probe, ...] = ()
    """What the merged model itself says."""
    adapters: Mapping[str, tuple[Probe, ...]] = field(default_factory=dict)
    """What base and further adapter say, by the names of adapters that lie beside the recipe's own."""
    tokenized: tuple[Tokenized, ...] = ()
    """How the checkpoint's tokenizer splits texts."""
    ends: Ends | None = None
    """At what answers end, by the checkpoint's files."""
    identity: Identity = field(default_factory=Identity)
    injection: Literal["accept", "refuse"] = "accept"
    variant: str = ""
    context: int | None = None
    """Tokens of one request, where the recipe says."""
    sampling: Mapping[str, float] = field(default_factory=dict)
    """What is to be sampled with where a client says nothing, by generation_config.json's names."""
    fidelity: Fidelity = field(default_factory=Fidelity)
    gpu: bool | None = None
    """Whether the model must lie on a GPU, None where that is not known."""
    weights: int = 0
    """Bytes that the served weights take at least."""
    gpu_before: int | None = None
    """Bytes that were in use on the GPUs before the server was started."""
    tokens_per_second_at_least: float | None = None
    soak: Soak | None = None
    base: bool = False
    """The model before the fine-tune: it is measured and never failed."""
    parallel: int = 1
    timeout: float = 120.0
    """Seconds one answer may take."""

    @property
    def quantization(self) -> str:
        """What the variant does to the weights."""
        return quantization(self.variant)

    @property
    def max_tokens(self) -> int:
        """Budget of one answer."""
        return self.task.max_tokens if self.task else 512

    def finding(self, name: str, engine: str, **outcome: Any) -> Finding:
        """Return a check's finding on an endpoint of this engine."""
        return Finding(name=name, engine=engine, variant=self.variant, **outcome)

    def skipped(self, name: str, engine: str, why: str) -> Finding:
        """Return the finding of a check that could not be made, which no verdict needs."""
        return self.finding(name, engine, status="skip", required=False, message=why)

    def markers(self) -> tuple[str, ...]:
        """Return texts that belong to the prompt's skeleton and must not stand in an answer."""
        known = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "</s>")
        tokens: Mapping[str, str] = self.template.tokens if self.template else {}
        return tuple(dict.fromkeys((*known, *(token for token in tokens.values() if len(token) > 2))))
