"""The parts of a recipe by which others mark the model: a judge that reads answers, and standard benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from toolkit.section import Fraction, Section

PLACES = ("{question}", "{reference}", "{answer}")
"""What a judge's prompt must name."""
Address = Annotated[str, Field(pattern=r"^https?://[^\s/?#]+[^\s?#]*$")]


class Judge(Section):
    """A model that marks answers in words, behind any OpenAI-compatible address."""

    url: Address
    """Its address, as http://host:port/v1."""
    model: str
    """The name by which it is asked for."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] = "JUDGE_API_KEY"
    """Environment variable that holds its key; the same name with `_FILE` behind it names a file that holds it."""
    prompt: str | None = None
    """Text that is sent in place of our own, with {question}, {reference} and {answer} in it; the form of the verdict is added to it."""
    both_orders: bool = True
    """Ask twice, with reference and answer in either order; where the two verdicts differ, the answer stays without a mark."""
    max_tokens: Annotated[int, Field(gt=0)] = 1024
    """Budget of one verdict, the judge's own reasoning included."""
    parallel: Annotated[int, Field(gt=0)] = 4
    """Verdicts asked for at once."""
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds one verdict may take."""

    @field_validator("prompt")
    @classmethod
    def _names_its_parts(cls, prompt: str | None) -> str | None:
        missing = [place for place in PLACES if prompt is not None and place not in prompt]
        if missing:
            raise ValueError(f"must hold {', '.join(missing)}: the judge would not see it")
        return prompt


class Benchmark(Section):
    """One task of a public evaluation harness, asked through the endpoint."""

    harness: Literal["lm-eval"] = "lm-eval"
    """EleutherAI's lm-evaluation-harness."""
    task: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:+-]*$")]
    """Its name there, of a task whose answers are generated; log-likelihood tasks cannot be asked through a chat."""
    folder: Path | None = None
    """Folder with tasks of one's own (lm-eval's YAML); relative paths start at the recipe's folder."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Take only the first n questions."""
    fewshot: Annotated[int, Field(ge=0)] | None = None
    """Worked examples before each question; the task's own number if not given."""
    metric: str | None = None
    """The figure that counts, as `exact_match` or, of a task with several ways to read an answer, `exact_match,flexible-extract`;
    the task's first if not given."""
    max_tokens: Annotated[int, Field(gt=0)] = 2048
    """Budget of one answer, reasoning included; a task's own budget is made for answers without reasoning."""
    at_least: Fraction | None = None
    """Least value of the figure; without it the benchmark is measured and fails nothing."""
