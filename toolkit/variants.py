"""How a served variant is called: a quantisation, and behind it whether the adapter lies apart from the base in the server."""

from __future__ import annotations

APART = "-adapter"
TYPES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
"""Variants whose weights are served as they were merged, and their type as torch calls it."""


def quantization(variant: str) -> str:
    """Return a variant's quantisation as engines and files know it."""
    return variant.removesuffix(APART)


def is_apart(variant: str) -> bool:
    """Say whether the server is given the base and beside it the adapter, unmerged."""
    return variant.endswith(APART)


def computed_in(variant: str, gpu: bool) -> str:
    """Return the type in which torch computes with such weights: their own on a GPU, float32 on a CPU, where most are many times slower in 16 bits
    and no more exact.
    """
    return TYPES[variant] if gpu else "float32"
