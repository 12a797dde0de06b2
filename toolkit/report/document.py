"""report.json as it is published: its schema, and how a report that lies somewhere is found and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from toolkit.errors import InvalidError, UsageError
from toolkit.report.facts import Document
from toolkit.verify import Reply
from toolkit.verify.agreement import Agreement
from toolkit.verify.judge import Report
from toolkit.verify.observe import Observed

OPEN = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)
"""What is observed may grow within a schema's version: a reader passes over what it does not know."""


class Numbers(Observed):
    """An endpoint in numbers."""

    model_config = OPEN
    label: str
    """`engine/variant`, with `/base` for the model before the fine-tune."""
    marked: int
    """Answers that could be marked right or wrong."""
    score: float | None
    """Right answers among the marked ones, 0 to 1."""
    think: float
    """Answers that keep the think contract among those asked, 0 to 1."""
    interval: tuple[float, float] | None
    """Wilson's 95 % interval of the score."""
    tokens_per_second: float | None
    """Of one request, thinking included."""


class PlainFile(BaseModel):
    """The same quantisation without the importance matrix."""

    model_config = OPEN
    mean_kl: float | None = None
    p99_kl: float | None = None
    top1: float | None = None
    perplexity: float | None = None


class GgufFile(BaseModel):
    """One GGUF file, held against the 16-bit one on held-out rows."""

    model_config = OPEN
    bytes: int | None = None
    bits_per_weight: float | None = None
    mean_kl: float | None = None
    """Mean Kullback-Leibler divergence, nats a token."""
    p99_kl: float | None = None
    """What 99 % of the tokens lie below."""
    max_kl: float | None = None
    top1: float | None = None
    """Share of positions at which both files find the same token likeliest."""
    perplexity: float | None = None
    perplexity_growth: float | None = None
    """Over the reference's, 0.02 for 2 %."""
    plain: PlainFile | None = None
    """What the importance matrix gains; none where there is no matrix, or where the type cannot do without."""


class Matrix(BaseModel):
    """The importance matrix that the files are made with."""

    model_config = OPEN
    texts: int | None = None
    """Texts that it was collected on."""
    tokens: int | None = None


class Gguf(BaseModel):
    """What the conversion measured."""

    model_config = OPEN
    types: dict[str, GgufFile] = {}
    """By quantisation."""
    reference: str | None = None
    """The 16-bit file that the others are held against."""
    limits: dict[str, dict[str, float]] = {}
    """The recipe's: max_kl, min_top1 and max_perplexity_growth, each by quantisation."""
    size_limit: float | None = None
    """Largest file that can be used, in MB."""
    imatrix: Matrix | None = None


class Trainer(BaseModel):
    """Who made an adapter, by its files alone."""

    model_config = OPEN
    name: str | None = None
    version: str | None = None
    peft: str | None = None
    """PEFT's version."""


class Elsewhere(BaseModel):
    """An adapter that was trained elsewhere: how it learnt is not known here."""

    model_config = OPEN
    source: str
    trainer: Trainer = Trainer()
    kind: str = "LoRA"
    rank: int
    target_modules: tuple[str, ...] | str
    trainable_parameters: int
    sha256: str
    losses_told: int = 0
    """Losses in its trainer's own record; none is judged."""
    remarks: tuple[str, ...] = ()
    """What could not be checked of it, and what differs from this recipe without being wrong."""


class Facts(BaseModel):
    """What was seen, unjudged."""

    model_config = OPEN
    endpoints: tuple[Numbers, ...]
    agreement: tuple[Agreement, ...] = ()
    """Every pair of tuned endpoints compared."""
    notes: tuple[str, ...] = ()
    """The pairs that differ, in words."""
    answers: dict[str, tuple[Reply, ...]] = {}
    """Every answer, by the endpoint's label."""
    gguf: Gguf | None = None
    compress: Gguf | None = None
    """vLLM's checkpoints in fewer bits, by format."""
    dataset: dict[str, Any] = {}
    """The audit of the training and the held-out rows."""
    adapter: Elsewhere | None = None
    """Where the adapter was not trained by this run."""
    adapters: dict[str, Elsewhere] = {}
    """Further adapters that were served beside it, by name."""


class Published(Report):
    """report.json: the verdict of a verification and all that it rests on."""

    observed: Facts  # type: ignore[assignment]  # spelt out for readers; the judge builds it as data


def schema() -> str:
    """Return the JSON schema of report.json as the text of a file."""
    wanted = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Published.model_json_schema(mode="serialization"), "title": "report.json"}
    return json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"


def find(place: Path) -> Path:
    """Return the report.json that is meant: the file itself, the one in a folder, or a store's newest; UsageError where there is none."""
    if place.is_file():
        return place
    found = [place / "report.json", *sorted(place.glob("verify-*/report.json"), key=lambda path: -path.stat().st_mtime)]
    for path in found:
        if path.is_file():
            return path
    raise UsageError(f"there is no report in {place}", "name a store in which `thinkship run` or `verify` came to its end, or a report.json")


def load(place: Path) -> Document:
    """Read the report that `find` finds, whole with every default; InvalidError where it does not keep the schema."""
    path = find(place)
    try:
        return Published.model_validate_json(path.read_bytes()).model_dump(mode="json", by_alias=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(map(str, first["loc"])) or "the file"
        message = f"{path}: {where}: {first['msg']}" + (f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else "")
        raise InvalidError(message, "docs/report.schema.json says what a report.json holds; verify again to have a new one") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "name a report.json that you may read") from error
