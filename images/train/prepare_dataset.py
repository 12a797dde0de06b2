"""Stage dataset: questions with a chain of thought become prompts and completions, and an audit tells what became of every row.

Rows may lie in any shape of shapes.py. In a conversation of several turns the last one is learnt. Held-out rows are one question each,
since that is how the verify stage asks them.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from audit import Audit, Rules, near_overlap, overlap, sort, unread, write_rows
from dataset_files import brought
from duplicates import Near
from form import Form
from program import INVALID, Args, ProgramError, note, run

NEARLY = {"near_duplicates": "training questions are nearly an earlier one", "near_overlap": "held-out questions are nearly trained on"}


def main(args: Args) -> int:
    """Leave train.jsonl, eval.jsonl and stats.json."""
    wanted = brought(args)
    trained, held_out = (unread(wanted, name, args.inputs["recipe_dir"]) for name in ("source", "holdout"))
    from checkpoint import load_tokenizer  # loads torch, which no bad file need wait for

    model = args.inputs["base"] / "model"
    form = Form.of(load_tokenizer(model), args.recipe["think"], model)
    for name, audit in (("training", trained), ("held-out", held_out)):
        sort(audit, form, Rules(wanted["max_length"], wanted["allow_no_reasoning"], audit is held_out), f"{name} rows")
    _refuse_overlap(trained, held_out)
    if limit := wanted.get("limit"):
        trained.kept = trained.kept[:limit]
    for audit, name in ((trained, "dataset.source"), (held_out, "dataset.holdout")):
        _refuse_empty(audit, name)
    write_rows(args.output / "train.jsonl", ({"prompt": row.pair.prompt, "completion": row.pair.completion} for row in trained.kept))
    write_rows(args.output / "eval.jsonl", (asdict(row.pair, dict_factory=_for_evaluation) for row in held_out.kept))
    stats = _stats(trained, held_out, wanted["max_length"])
    (args.output / "stats.json").write_text(json.dumps(stats, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _report(stats)
    return 0


def _refuse_overlap(trained: Audit, held_out: Audit) -> None:
    if shared := overlap(trained, held_out):
        first = shared[0].pair.question
        message = f"dataset.holdout: {len(shared)} of {len(held_out.kept)} held-out questions are trained on, the first {first!r}"
        raise ProgramError(message, "take them out of one of the two files: an answer known by heart proves nothing", INVALID)


def _refuse_empty(audit: Audit, name: str) -> None:
    if audit.kept:
        return
    remedy = "correct the rows, or raise dataset.max_length"
    if audit.dropped.most_common(1)[0][0] == "no reasoning":
        remedy = "name the columns that hold reasoning and answer in dataset.columns, or set dataset.allow_no_reasoning: true"
    raise ProgramError(f"{name}: none of {len(audit.rows)} rows is left ({audit.reasons()})", remedy, INVALID)


def _for_evaluation(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if key in ("question", "expected", "prompt", "completion")}


def _stats(trained: Audit, held_out: Audit, max_length: int) -> dict[str, Any]:
    stats: dict[str, Any] = {"train": trained.summary(max_length), "eval": held_out.summary(max_length)}
    stats["longest_row"] = max(stats["train"]["tokens"]["max"], stats["eval"]["tokens"]["max"])
    stats["longest_prompt"] = max(row.pair.prompt_tokens for audit in (trained, held_out) for row in audit.kept)
    stats["near_duplicates"] = _near(trained.near_duplicates(), trained, trained)
    stats["near_overlap"] = _near(near_overlap(trained, held_out), held_out, trained)
    return stats


def _near(pairs: list[Near], ones: Audit, others: Audit) -> dict[str, Any]:
    return {"rows": len(pairs), "first": [f"{ones.kept[pair.one].place} ~ {others.kept[pair.other].place}" for pair in pairs[:1]]}


def _report(stats: dict[str, Any]) -> None:
    for name in ("train", "eval"):
        part, tokens = stats[name], stats[name]["tokens"]
        dropped = "; ".join(f"{count} {reason}" for reason, count in part["dropped"].items()) or "none"
        lengths = f"lengths p50 {tokens['p50']}, p99 {tokens['p99']}, max {tokens['max']} of {tokens['max_length']} tokens"
        share = f"{part['thinking_share']:.0%} of the loss inside the thinking"
        note(f"{name}: {part['kept']} of {part['read']} rows kept as {part['shape']} (dropped: {dropped}), {share}, {lengths}")
    for key, words in NEARLY.items():
        if stats[key]["rows"]:
            note(f"{stats[key]['rows']} {words}, first {stats[key]['first'][0]}")


if __name__ == "__main__":
    run(main)
