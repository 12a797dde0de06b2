"""The limits that a recipe sets to what a server may lose by quantising, and to how its memory may grow."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What every engine can be told of sampling, by generation_config.json's names."""


class Fidelity(BaseModel):
    """How near an engine that quantises while loading must stay to the merged model, by variant; what is not named here has the default."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    top1: dict[str, Fraction] = Field(default_factory=dict)
    """Least share of the merged model's greedy tokens that are likeliest in the served one too, after the same beginning."""
    gap: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Largest mean loss of those tokens' log-probability, in nats."""


class Soak(BaseModel):
    """Many short requests, after which the server must not hold more memory."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    requests: Annotated[int, Field(ge=50)] = 500
    """How many."""
    growth_at_most: Annotated[float, Field(gt=0)] = 32
    """Largest growth of the memory of its processes, in MiB."""
