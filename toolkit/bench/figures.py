"""The figures of a level, and their table: middle and slow end, since a mean hides the answers that people wait for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from toolkit.bench.load import Level


def percentile(values: Iterable[float], share: float) -> float | None:
    """Return the value below which a share of 0 to 1 of the values lies, between two neighbours by their distance; None for no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def figures(level: Level) -> dict[str, Any]:
    """Return a level as plain data: seconds as p50 and p95, tokens a second of one stream (p50) and of all, mean tokens, failures first said."""
    timings = level.timings
    tokens = sum(timing.tokens for timing in timings)
    return {
        "streams": level.streams,
        "answers": len(timings),
        "failed": len(level.errors),
        "errors": list(dict.fromkeys(level.errors))[:3],
        "seconds": round(level.seconds, 3),
        "first_token_seconds": _ends(timing.first for timing in timings),
        "first_answer_token_seconds": _ends(timing.first_answer for timing in timings if timing.first_answer is not None),
        "cut_while_thinking": sum(timing.first_answer is None for timing in timings),
        "latency_seconds": _ends(timing.last for timing in timings),
        "between_tokens_seconds": _ends(gap for timing in timings for gap in timing.gaps),
        "tokens_per_second_a_stream": _round(percentile((timing.speed for timing in timings if timing.speed), 0.5), 1),
        "tokens_per_second": round(tokens / level.seconds, 1) if level.seconds else None,
        "thinking_tokens": _mean([timing.thinking for timing in timings]),
        "answer_tokens": _mean([timing.answer for timing in timings]),
        "thinking_tokens_told_by": "the server" if timings and all(timing.told for timing in timings) else "the share of streamed pieces",
    }


def _ends(values: Iterable[float]) -> dict[str, float | None]:
    kept = list(values)
    return {"p50": _round(percentile(kept, 0.5), 4), "p95": _round(percentile(kept, 0.95), 4)}


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _mean(values: Sequence[int]) -> float | None:
    return round(sum(values) / len(values), 1) if values else None


COLUMNS = ("streams", "answers", "failed", "first token", "first of answer", "latency", "tok/s each", "tok/s all", "thinking", "answer")


def table(rows: Iterable[dict[str, Any]]) -> Table:
    """Return the levels as a table: seconds as p50 / p95, thinking and answer as mean tokens."""
    shown = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in COLUMNS:
        shown.add_column(column, justify="right")
    for row in rows:
        times = (_pair(row[name]) for name in ("first_token_seconds", "first_answer_token_seconds", "latency_seconds"))
        speeds = (row["tokens_per_second_a_stream"], row["tokens_per_second"], row["thinking_tokens"], row["answer_tokens"])
        shown.add_row(
            *(str(row[name]) for name in ("streams", "answers", "failed")), *times, *("–" if value is None else str(value) for value in speeds)
        )
    return shown


def _pair(ends: dict[str, float | None]) -> str:
    return " / ".join("–" if value is None else f"{value:.2f}" for value in ends.values())
