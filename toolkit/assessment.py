"""A recipe's section `verify`: what an endpoint must show, and who marks it: arithmetic, a judge that reads answers, public benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

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


class Task(Section):
    """Held-out questions asked before and after the fine-tune, greedily."""

    metric: Literal["numeric", "exact", "choice", "judge"] = "numeric"
    """`numeric`: the last number of the answer equals the expected one; `exact`: the stripped answer equals it;
    `choice`: its last standalone letter from A to E, large or small, equals it; `judge`: another model says that it means the same."""
    judge: Judge | None = None
    """The model that marks the answers, where the metric is `judge`."""
    questions: Annotated[int, Field(gt=0)] = 50
    """How many of the held-out rows are asked."""
    base_questions: Annotated[int, Field(gt=0)] = 20
    """How many of them the base model is asked: it seldom stops by itself, so that each costs it the whole budget."""
    max_tokens: Annotated[int, Field(gt=0)] = 256
    """Budget of one answer, reasoning included."""
    at_least: Fraction
    """Share of right answers the tuned model must reach."""
    base_at_most: Fraction | None = None
    """Share the base must not exceed, where the demo must show a plain gain."""

    @model_validator(mode="after")
    def _judged_by_somebody(self) -> Task:
        if (self.metric == "judge") != (self.judge is not None):
            raise ValueError("metric: judge and the section judge belong together: name the model that judges, or leave the section out")
        return self


class Fidelity(Section):
    """How near an engine that quantises while loading must stay to the merged model, by variant; what is not named here has the default."""

    top1: dict[str, Fraction] = Field(default_factory=dict)
    """Least share of the merged model's greedy tokens that are likeliest in the served one too, after the same beginning."""
    gap: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Largest mean loss of those tokens' log-probability, in nats."""


class Soak(Section):
    """Many short requests, after which the server must not hold more memory."""

    requests: Annotated[int, Field(ge=50)] = 500
    """How many."""
    growth_at_most: Annotated[float, Field(gt=0)] = 32
    """Largest growth of the memory of its processes, in MiB."""


class Identity(Section):
    """How far a served copy of the merged model may stray from it, by variant; what is not named here has the default."""

    equal: dict[str, Fraction] = Field(default_factory=dict)
    """Least share of greedy tokens, counted up to the first other one, that are the merged model's."""
    distance: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Largest mean distance of those tokens' log-probabilities, in nats."""


class Verify(Section):
    """What an endpoint must show to pass."""

    think_at_least: Fraction = 1.0
    """Share of answers that keep the think contract."""
    identity: Identity = Identity()
    """What proves that the merged model is served."""
    fidelity: Fidelity = Fidelity()
    """What quantising may cost where no GGUF is served; `gguf` has the limits of the files."""
    gpu: bool | None = None
    """Whether the model must lie on a GPU; not set: where one is there and the engine's build can use it."""
    tokens_per_second_at_least: Annotated[float, Field(gt=0)] | None = None
    """Least tokens a second of one request, thinking included."""
    soak: Soak | None = None
    """Long, and so off unless it is asked for."""
    injection: Literal["accept", "refuse"] = "accept"
    """Whether a special token's text typed by a user may become that token, as it does on every server that is known."""
    task: Task | None = None
    """Before and after."""
    benchmarks: tuple[Benchmark, ...] = ()
    """Public benchmarks that each served variant of the tuned model is asked."""
