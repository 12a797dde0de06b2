"""The shapes of chain-of-thought rows as a recipe names them; images/train/shapes.py reads them, docs/datasets.md describes them."""

from __future__ import annotations

from typing import Literal

Shape = Literal[
    "medical-o1",
    "medical-r1",
    "openr1",
    "messages",
    "conversations",
    "s1k-1.1",
    "s1k",
    "openthoughts-metadata",
    "instruction-think-answer",
    "question-reasoning-answer",
    "prompt-completion",
    "input-reasoning-content",
    "openmath",
    "input-output",
    "alpaca",
]
