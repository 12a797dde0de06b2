"""Which GGUF files a recipe has made, by which rules of quantising, and how near to 16 bits they must be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from toolkit.section import Fraction, Section

KQuant = Literal["q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k"]
IQuant = Literal["iq4_nl", "iq4_xs", "iq3_m", "iq3_s", "iq3_xs", "iq3_xxs", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs"]
GgufType = Literal["f16", "bf16", "q8_0", KQuant, "q4_0", IQuant]
BLIND: tuple[GgufType, ...] = ("iq3_xs", "iq3_xxs", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs")
"""Types that llama.cpp makes only with an importance matrix."""


class Imatrix(Section):
    """Which columns of each weight matrix count most on the model's own texts: quantising errs less there. Made of rows, or given as a file."""

    rows: Annotated[int, Field(gt=0)] | None = None
    """Training rows, reasoning included, that it is made of: spread evenly over them, never held-out ones."""
    path: str | None = None
    """A GGUF that llama-imatrix wrote for this model, instead; taken from the recipe's folder."""
    compare: bool = True
    """Also measure each file as it would be without, and report both; makes and evaluates each twice."""

    @model_validator(mode="after")
    def _one_origin(self) -> Imatrix:
        if (self.rows is None) == (self.path is None):
            raise ValueError("state rows, such as 64, or the path of a file that llama-imatrix wrote")
        return self


class Gguf(Section):
    """Which GGUF files are made."""

    types: tuple[GgufType, ...] = ("f16", "q8_0", "q4_k_m")
    """Quantisations; the first is the 16-bit reference."""
    max_kl: dict[GgufType, Annotated[float, Field(gt=0)]] = {"q8_0": 0.01, "q4_k_m": 0.2}  # noqa: RUF012 - pydantic copies it
    """Largest mean Kullback-Leibler divergence to the reference, in nats a token, on held-out rows; a type without a limit is only measured."""
    min_top1: dict[GgufType, Fraction] = {"q8_0": 0.95, "q4_k_m": 0.85}  # noqa: RUF012 - pydantic copies it
    """Least share of tokens at which a file and the reference find the same one likeliest."""
    max_perplexity_growth: dict[GgufType, Annotated[float, Field(gt=0)]] = {"q8_0": 0.02, "q4_k_m": 0.1}  # noqa: RUF012 - pydantic copies it
    """Largest growth of the perplexity over the reference's, 0.02 for 2 %."""
    source: Literal["merge", "one_pass"] = "merge"
    """`merge` converts the merged checkpoint; `one_pass` merges base and adapter while they are converted, and leaves no merged checkpoint on the
    disk: for releases that are served by llama.cpp or Ollama alone. Its weights are those of merging onto the base as it is stored."""
    imatrix: Imatrix | None = None
    """Importance matrix for every type but q8_0, which has no use for one."""
    rows: Annotated[int, Field(gt=0)] = 8
    """Held-out rows on which the files are evaluated."""
    size_limit: Annotated[float, Field(gt=0)] | None = None
    """Largest file that can be used, in MB: the report recommends the best file within it. Without a limit it recommends the smallest good one."""

    @model_validator(mode="after")
    def _reference_first(self) -> Gguf:
        if not self.types or self.types[0] not in ("f16", "bf16"):
            raise ValueError("the first type is the reference and must be f16 or bf16")
        blind = [kind for kind in self.types if kind in BLIND]
        if blind and not self.imatrix:
            raise ValueError(f"{', '.join(blind)}: garbage without an importance matrix; state gguf.imatrix: {{rows: 64}}")
        return self
