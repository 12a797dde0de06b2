"""What the merged files answer against the models they were made of, in a process of its own: it loads models, which writing the files does not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import candidates
import probes
from checkpoint import load_tokenizer
from logits import Place, compare, load, logits_of, place_for, texts_of
from peft import PeftModel
from program import ProgramError

PROBES = 8
"""Held-out rows on which the logits are compared and that the merged model answers."""


@dataclass(frozen=True)
class Question:
    """What is to be proven."""

    trained: candidates.Trained
    dtype: str
    parameters: int
    rows: Path
    """Held-out rows, of which the first are taken."""
    chosen: str | None = None
    """The base that was merged onto; None where that is to be found out."""
    merged: Path | None = None
    output: Path | None = None


def measure(question: Question) -> dict[str, Any]:
    """Return how near each candidate is to the trained model; nothing where the model does not fit or was not trained in NF4."""
    place = place_for(question.parameters)
    if place is None or not (question.trained.nf4 or question.trained.stored_nf4):
        return {}
    tokenizer = load_tokenizer(question.trained.base)
    texts = texts_of(_rows(question), tokenizer)
    return candidates.compare_candidates(question.trained, question.dtype, texts, place)


def prove(question: Question) -> dict[str, Any]:
    """Compare the merged files with base and adapter, and leave probes.jsonl and tokens.jsonl; of one that does not fit, tokens.jsonl alone."""
    if question.merged is None or question.output is None:
        raise ProgramError("nothing was merged", "call measure")
    rows, tokenizer = _rows(question), load_tokenizer(question.merged)
    probes.write_tokens(question.output / "tokens.jsonl", tokenizer, {row["prompt"]: row["question"] for row in rows})
    place = place_for(question.parameters)
    if place is None:
        why = f"{question.parameters / 1e9:.1f} G weights fit neither into memory nor on a GPU: rows of every tensor were compared instead"
        return {"max_logit_difference": None, "compared": "rows", "why": why}
    texts, prompts = texts_of(rows, tokenizer), [row["prompt"] for row in rows]
    adapted = _adapted(question, place)
    wanted = list(logits_of(adapted, texts))
    with adapted.disable_adapter():
        before = probes.greedy(adapted, tokenizer, prompts, probes.BASE_TOKENS)
    del adapted
    final = load(question.merged, place)
    facts = compare(wanted, logits_of(final, texts))
    probes.write(question.output / "probes.jsonl", [row["question"] for row in rows], probes.greedy(final, tokenizer, prompts), before)
    return {**facts, "compared": f"logits, on {place.device} in {str(place.dtype).removeprefix('torch.')}"}


def _adapted(question: Question, place: Place) -> Any:
    """Return what the merged files must answer as: the base that was merged onto, the adapter apart."""
    if question.chosen == "dequantised":
        return candidates.trained_model(question.trained, place)
    return PeftModel.from_pretrained(load(question.trained.base, place), question.trained.adapter).eval()


def _rows(question: Question) -> list[dict[str, str]]:
    return [json.loads(line) for line in question.rows.read_text(encoding="utf-8").splitlines()[:PROBES]]
