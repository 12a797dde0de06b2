"""Stage dataset: questions with a chain of thought become prompts and completions, and an audit tells what became of every row.

The prompt is the chat template's own rendering; the completion is built here, because published templates cut the reasoning out
of the assistant's turn. Not covered: conversations of several turns.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dataset_files import brought
from program import BROKEN, INVALID, Args, ProgramError, note, run, tracked
from rows import Row, match_columns, read

TEXTS = ("question", "reasoning", "answer")


def main(args: Args) -> int:
    """Leave train.jsonl, eval.jsonl and stats.json."""
    wanted = brought(args)
    trained, held_out = (_unread(wanted, name, args.inputs["recipe_dir"]) for name in ("source", "holdout"))
    from checkpoint import load_tokenizer  # loads torch, which no bad file need wait for

    model = args.inputs["base"] / "model"
    form = Form.of(load_tokenizer(model), args.recipe["think"], model)
    for name, audit in (("training", trained), ("held-out", held_out)):
        _sort(audit, form, wanted["max_length"], f"{name} rows")
    _refuse_overlap(trained, held_out)
    if limit := wanted.get("limit"):
        trained.kept = trained.kept[:limit]
    for audit, name in ((trained, "dataset.source"), (held_out, "dataset.holdout")):
        if not audit.kept:
            message = f"{name}: none of {len(audit.rows)} rows is left ({audit.reasons()})"
            raise ProgramError(message, "correct the rows, or raise dataset.max_length", INVALID)
    _write(args.output / "train.jsonl", ({"prompt": pair.prompt, "completion": pair.completion} for pair in trained.kept))
    _write(args.output / "eval.jsonl", (asdict(pair, dict_factory=_for_evaluation) for pair in held_out.kept))
    stats: dict[str, Any] = {"train": trained.summary(wanted["max_length"]), "eval": held_out.summary(wanted["max_length"])}
    stats["longest_row"] = max(stats["train"]["tokens"]["max"], stats["eval"]["tokens"]["max"])
    stats["longest_prompt"] = max(pair.prompt_tokens for audit in (trained, held_out) for pair in audit.kept)
    (args.output / "stats.json").write_text(json.dumps(stats, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _report(stats)
    return 0


@dataclass(frozen=True)
class Pair:
    """A row as the model sees it; lengths in tokens."""

    question: str
    expected: str | None
    prompt: str
    completion: str
    prompt_tokens: int
    thinking_tokens: int
    completion_tokens: int

    @property
    def tokens(self) -> int:
        """Length of the row."""
        return self.prompt_tokens + self.completion_tokens


class RefusedError(Exception):
    """A row that is not used, with the reason that is counted."""


@dataclass(frozen=True)
class Form:
    """How a question, its reasoning and its answer are written for one model."""

    tokenizer: Any
    open: str
    close: str
    turn_end: str
    forbidden: tuple[str, ...]

    @classmethod
    def of(cls, tokenizer: Any, think: dict[str, Any], model: Path) -> Form:
        """Read the form off a model's template; ProgramError (6) when the token that ends a turn is not one at which servers stop."""
        mark = "ANSWER"
        turns = [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": mark}]
        end = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(mark)[2].strip() or tokenizer.eos_token
        stops = json.loads((model / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
        ids = tokenizer.encode(end, add_special_tokens=False)
        if len(ids) != 1 or ids[0] not in stops:
            message = f"the template ends a turn with {end!r} (tokens {ids}), where generation stops at {stops}"
            raise ProgramError(message, "the model would never learn to stop: correct base.family", BROKEN)
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        return cls(tokenizer, think["open"], think["close"], end, tuple(sorted(special - {think["open"], think["close"]})))

    def write(self, question: str, reasoning: str, answer: str, expected: str | None) -> Pair:
        """Write a row; ProgramError (6) when its reasoning or its end did not survive."""
        prompt = self.tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)
        thought = f"{self._lead(prompt)}{reasoning}\n{self.close}"
        completion = f"{thought}\n\n{answer}{self.turn_end}"
        ids, thinking = self._ids(completion), len(self._ids(thought))
        close, end = self._ids(self.close)[0], self._ids(self.turn_end)[0]
        sound = question in prompt and ids.count(close) == 1 and ids.index(close) == thinking - 1 and ids[-1] == end
        if not sound or self.tokenizer.decode(ids) != completion:
            raise ProgramError(f"tokens lose the form of this row: {completion!r}", "check base.think and base.family against the model", BROKEN)
        return Pair(question, expected, prompt, completion, len(self._ids(prompt)), thinking, len(ids))

    def _lead(self, prompt: str) -> str:
        """Return what stands between the prompt and the reasoning: nothing where the template opens the thinking by itself."""
        if prompt.endswith(f"{self.open}\n"):
            return ""
        return "\n" if prompt.endswith(self.open) else f"{self.open}\n"

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def check(self, text: str) -> str:
        """Return a text without its outer space; RefusedError when it holds a tag or a control token, which would break the form."""
        opened, closed = text.count(self.open), text.count(self.close)
        if opened != closed:
            raise RefusedError("unclosed tag")
        if opened:
            raise RefusedError("tag inside a text" if opened == 1 else "doubled tag")
        if any(token in text for token in self.forbidden):
            raise RefusedError("control token inside a text")
        return text.strip()


@dataclass
class Audit:
    """What became of a source's rows."""

    rows: list[Row]
    columns: dict[str, str]
    kept: list[Pair] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    """Reason -> place of the first row that was dropped for it."""

    def drop(self, reason: str, row: Row) -> None:
        """Count a row that is not used."""
        self.dropped[reason] += 1
        self.first.setdefault(reason, row.place)

    def reasons(self) -> str:
        """Return the reasons as text, each with the first row it hit."""
        return ", ".join(f"{count} {reason}, first {self.first[reason]}" for reason, count in self.dropped.most_common())

    def summary(self, max_length: int) -> dict[str, Any]:
        """Return counts, lengths in tokens and the share of the supervised tokens that lie inside the thinking."""
        lengths = sorted(pair.tokens for pair in self.kept)
        marks = {f"p{share}": lengths[min(len(lengths) - 1, len(lengths) * share // 100)] for share in (50, 90, 99)}
        supervised = sum(pair.completion_tokens for pair in self.kept)
        return {
            "read": len(self.rows),
            "kept": len(self.kept),
            "dropped": dict(self.dropped),
            "first_dropped": self.first,
            "columns": self.columns,
            "tokens": {**marks, "max": lengths[-1], "max_length": max_length, "total": sum(lengths), "supervised": supervised},
            "thinking_share": round(sum(pair.thinking_tokens for pair in self.kept) / supervised, 4),
        }


def _unread(wanted: dict[str, Any], name: str, recipe_dir: Path) -> Audit:
    rows = read(wanted[name], recipe_dir, f"dataset.{name}")
    return Audit(rows, match_columns(wanted["columns"], rows, f"dataset.{name}"))


def _sort(audit: Audit, form: Form, max_length: int, unit: str) -> None:
    """Sort an audit's rows into those that are kept and those that are not."""
    seen: set[str] = set()
    for row in tracked(audit.rows, len(audit.rows), unit, every=500):
        try:
            pair = _pair(form, row, audit.columns, seen)
            if pair.tokens > max_length:
                raise RefusedError("too long")
            audit.kept.append(pair)
        except RefusedError as reason:
            audit.drop(str(reason), row)


def _pair(form: Form, row: Row, columns: dict[str, str], seen: set[str]) -> Pair:
    texts = {role: row.values.get(columns[role]) for role in TEXTS}
    if any(not isinstance(text, str) for text in texts.values()):
        raise RefusedError("missing value")
    clean = {role: form.check(text) for role, text in texts.items() if isinstance(text, str)}
    for role in TEXTS:
        if not clean[role]:
            raise RefusedError(f"empty {role}")
    expected = row.values.get(columns["expected"]) if "expected" in columns else None
    if "expected" in columns and (expected is None or not str(expected).strip()):
        raise RefusedError("missing value")
    if same(clean["question"]) in seen:
        raise RefusedError("duplicate question")
    seen.add(same(clean["question"]))
    return form.write(clean["question"], clean["reasoning"], clean["answer"], None if expected is None else str(expected).strip())


def same(question: str) -> str:
    """Return what two questions share that differ in case and space only."""
    return " ".join(question.casefold().split())


def _refuse_overlap(trained: Audit, held_out: Audit) -> None:
    known = {same(pair.question) for pair in trained.kept}
    shared = [pair.question for pair in held_out.kept if same(pair.question) in known]
    if shared:
        message = f"dataset.holdout: {len(shared)} of {len(held_out.kept)} held-out questions are trained on, the first {shared[0]!r}"
        raise ProgramError(message, "take them out of one of the two files: an answer known by heart proves nothing", INVALID)


def _for_evaluation(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if key in ("question", "expected", "prompt", "completion")}


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _report(stats: dict[str, Any]) -> None:
    for name in ("train", "eval"):
        part, tokens = stats[name], stats[name]["tokens"]
        dropped = "; ".join(f"{count} {reason}" for reason, count in part["dropped"].items()) or "none"
        lengths = f"lengths p50 {tokens['p50']}, p99 {tokens['p99']}, max {tokens['max']} of {tokens['max_length']} tokens"
        share = f"{part['thinking_share']:.0%} of the loss inside the thinking"
        note(f"{name}: {part['kept']} of {part['read']} rows kept (dropped: {dropped}), {share}, {lengths}")


if __name__ == "__main__":
    run(main)
