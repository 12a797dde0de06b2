"""The formats in which the merged model can lie on the disk in fewer bits for vLLM, and the recipe's section on them."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from toolkit.section import Fraction, Section

StoredFormat = Literal["bnb-nf4-stored", "w4a16", "int8", "fp8-dynamic"]
STORED: tuple[StoredFormat, ...] = get_args(StoredFormat)


class Compress(Section):
    """How the merged model is made smaller, as files, for the vLLM variants that are stored: bnb-nf4-stored, w4a16, int8, fp8-dynamic."""

    rows: Annotated[int, Field(gt=0)] = 128
    """Training rows, rendered as they are served, on which w4a16 and int8 are calibrated."""
    eval_rows: Annotated[int, Field(gt=0)] = 16
    """Held-out rows on which what was written is measured against the 16-bit model."""
    ignore: tuple[str, ...] = ()
    """Linear layers that stay in 16 bits beside the output layer, by the end of their names (`down_proj`); for the compressed-tensors formats
    `re:` begins a pattern."""
    max_kl: dict[StoredFormat, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Largest mean Kullback-Leibler divergence to the merged model, in nats a token; a format without a limit is only measured."""
    min_top1: dict[StoredFormat, Fraction] = Field(default_factory=dict)
    """Least share of tokens at which the format and the merged model find the same one likeliest."""
    max_perplexity_growth: dict[StoredFormat, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Largest growth of the perplexity over the merged model's, 0.02 for 2 %."""
