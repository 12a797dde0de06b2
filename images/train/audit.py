"""What becomes of a source's rows: each is read in its shape, written in the model's form, and kept or dropped for a reason that is counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conversation import Conversation, RefusedError, Turn, single
from duplicates import Near, near, same
from form import Characters, Form, Pair
from program import tracked
from rows import Row, columns_of, match_columns, read
from shapes import detect, named

TEXTS = ("question", "reasoning", "answer")
EXAMPLES = 3
"""Rows that are remembered of those dropped for one reason."""
BINS = 32
"""Columns of a histogram of lengths, about."""


@dataclass(frozen=True)
class Rules:
    """What a row must keep to beside its form."""

    max_length: int | None
    """Tokens; None where no limit was set."""
    allow_no_reasoning: bool = False
    held_out: bool = False
    """Held-out rows are asked as one question each."""


@dataclass(frozen=True)
class Kept:
    """A row that is used."""

    place: str
    asked: str
    """All that was said before the answer, the system text aside: what makes two rows duplicates."""
    written: str
    """Where its reasoning stood."""
    turns: int
    pair: Pair


@dataclass
class Audit:
    """What became of a source's rows."""

    rows: list[Row]
    shape: str
    columns: dict[str, str]
    """Role -> column, as far as the recipe names them."""
    read: Callable[[Mapping[str, Any]], Conversation]
    kept: list[Kept] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Row]] = field(default_factory=dict)
    """Reason -> the first rows that were dropped for it."""
    twins: list[tuple[str, str]] = field(default_factory=list)
    """Places of a duplicate and of the row it repeats."""
    lengths: list[int] = field(default_factory=list)
    """Lengths of the kept rows and of those that are too long."""

    def drop(self, reason: str, row: Row) -> None:
        """Count a row that is not used."""
        self.dropped[reason] += 1
        if self.dropped[reason] <= EXAMPLES:
            self.examples.setdefault(reason, []).append(row)

    def reasons(self) -> str:
        """Return the reasons as text, each with the first row it hit."""
        return ", ".join(f"{count} {reason}, first {self.examples[reason][0].place}" for reason, count in self.dropped.most_common())

    def near_duplicates(self) -> list[Near]:
        """Return the kept rows that are nearly an earlier one, by their numbers."""
        return list(near([row.asked for row in self.kept]))

    def summary(self, max_length: int | None) -> dict[str, Any]:
        """Return counts, lengths and the share of the supervised tokens that lie inside the thinking."""
        lengths = sorted(row.pair.tokens for row in self.kept) or [0]
        marks = {f"p{share}": lengths[min(len(lengths) - 1, len(lengths) * share // 100)] for share in (50, 90, 99)}
        supervised = sum(row.pair.completion_tokens for row in self.kept)
        return {
            "read": len(self.rows),
            "kept": len(self.kept),
            "dropped": dict(self.dropped),
            "first_dropped": {reason: rows[0].place for reason, rows in self.examples.items()},
            "shape": self.shape,
            "columns": self.columns,
            "reasoning_in": dict(Counter(row.written for row in self.kept)),
            "tokens": {**marks, "max": lengths[-1], "max_length": max_length, "total": sum(lengths), "supervised": supervised},
            "thinking_share": round(sum(row.pair.thinking_tokens for row in self.kept) / max(supervised, 1), 4),
        }


def unread(wanted: Mapping[str, Any], name: str, recipe_dir: Path) -> Audit:
    """Read a source's rows and find their shape; ProgramError (3) where a file is broken, a column missing or the shape not known.

    The recipe's columns come first, then the shape it states, then what the columns tell. `expected` is wanted of held-out rows alone.
    """
    key = f"dataset.{name}"
    rows = read(wanted[name], recipe_dir, key)
    names = wanted["columns"]
    roles = {"expected": names["expected"]} if name == "holdout" else {}
    if names["question"]:
        columns = match_columns({role: names[role] for role in TEXTS} | roles, rows, key)
        return Audit(rows, "columns", columns, lambda values: single(*(values.get(columns[role]) for role in TEXTS)))
    columns = match_columns(roles, rows, key)
    found = columns_of(rows)
    shape = named(wanted["shape"], found, key) if wanted["shape"] else detect(found, key)
    return Audit(rows, shape.name, columns, shape.normal)


def sort(audit: Audit, form: Form | Characters, rules: Rules, unit: str) -> None:
    """Sort an audit's rows into those that are kept and those that are not."""
    seen: dict[str, str] = {}
    for row in tracked(audit.rows, len(audit.rows), unit, every=500):
        try:
            kept = _kept(audit, form, row, rules, seen)
            audit.lengths.append(kept.pair.tokens)
            if rules.max_length is not None and kept.pair.tokens > rules.max_length:
                raise RefusedError("too long")
            audit.kept.append(kept)
        except RefusedError as reason:
            audit.drop(str(reason), row)


def _kept(audit: Audit, form: Form | Characters, row: Row, rules: Rules, seen: dict[str, str]) -> Kept:
    said = _checked(audit.read(row.values), form, rules)
    expected = _expected(audit, row)
    asked = "\n".join(turn.content for turn in said.turns[:-1])
    if same(asked) in seen:
        audit.twins.append((row.place, seen[same(asked)]))
        raise RefusedError("duplicate question")
    seen[same(asked)] = row.place
    return Kept(row.place, asked, said.answer.written, len(said.turns), form.write(said, expected))


def _checked(said: Conversation, form: Form | Characters, rules: Rules) -> Conversation:
    """Return a conversation without outer space in its texts; RefusedError where one is empty, or would break the form."""
    system = None if said.system is None else form.check(said.system)
    *earlier, answer = (_clean(turn, form) for turn in said.turns)
    if not all(turn.content for turn in earlier):
        raise RefusedError("empty question")
    thought = None if answer.reasoning is None else form.check(answer.reasoning)
    if thought == "":
        raise RefusedError("empty reasoning")
    if not answer.content:
        raise RefusedError("empty answer")
    if thought is None and not rules.allow_no_reasoning:
        raise RefusedError("no reasoning")
    clean = Conversation((*earlier, replace(answer, reasoning=thought)), system)
    if rules.held_out and not clean.single:
        raise RefusedError("held-out row of more than one question")
    return clean


def _clean(turn: Turn, form: Form | Characters) -> Turn:
    return replace(turn, content=form.check(turn.content))


def _expected(audit: Audit, row: Row) -> str | None:
    if "expected" not in audit.columns:
        return None
    value = row.values.get(audit.columns["expected"])
    if value is None or not str(value).strip():
        raise RefusedError("missing value")
    return str(value).strip()


def overlap(trained: Audit, held_out: Audit) -> list[Kept]:
    """Return the held-out rows whose question is trained on."""
    known = {same(row.asked) for row in trained.kept}
    return [row for row in held_out.kept if same(row.asked) in known]


def near_overlap(trained: Audit, held_out: Audit) -> list[Near]:
    """Return the held-out rows that are nearly a training row's question, by the numbers of both; those in both word for word are left out."""
    known = {same(row.asked) for row in trained.kept}
    found = near([row.asked for row in held_out.kept], [row.asked for row in trained.kept])
    return [pair for pair in found if same(held_out.kept[pair.one].asked) not in known]


def histogram(lengths: list[int], limit: int | None) -> list[tuple[int, int, int]]:
    """Count lengths in bins of one width, as (above, up to, count); the limit is an edge, so that no bin holds both sides of it."""
    if not lengths:
        return []
    width, anchor = max(1, -(-max(lengths) // BINS)), limit or 0
    counts = Counter(-((anchor - length) // width) for length in lengths)
    return [(max(anchor + (bin - 1) * width, 0), anchor + bin * width, counts[bin]) for bin in range(min(counts), max(counts) + 1)]


def write_rows(path: Path, rows: Any) -> None:
    """Write JSON lines."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
