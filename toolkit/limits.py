"""The limits that a recipe sets to what a server may lose by quantising, and to how its memory may grow."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from toolkit.section import Fraction, Section

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What every engine can be told of sampling, by generation_config.json's names."""


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
