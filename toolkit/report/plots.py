"""The plots of the page, drawn from report.json: score, thinking and time of each endpoint, divergence of each GGUF file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from markupsafe import Markup

from toolkit.quality import recommended
from toolkit.report.drawing import Axes, Line, Point, Span, Words, lines, plane
from toolkit.report.facts import Document, answers, comparison

Measure = Callable[[Document], float]


@dataclass(frozen=True)
class Plot:
    """A drawing with its heading and what it shows in one sentence."""

    title: str
    note: str
    drawing: Markup


def plots(report: Document) -> list[Plot]:
    """Return the plots for which the report has data."""
    rows = comparison(report)
    drawn = (_score(rows), _thinking(report, rows), _seconds(report, rows), _speed(rows), _divergence(report))
    return [plot for plot in drawn if plot]


def _score(rows: Sequence[dict[str, Any]]) -> Plot | None:
    marked = [row for row in rows if any(side and side["right"] is not None for side in (row["base"], row["tuned"]))]
    drawn = [Line(row["label"], _both(row, _share_words), tuple(_sides(row, _interval))) for row in marked]
    note = "Share of held-out questions answered rightly, with Wilson's 95 % interval."
    return _lines("score", "Right answers", note, drawn, (1.0, lambda share: f"{share:.0%}"))


def _share_words(numbers: Document) -> str:
    return f"{numbers['right']}/{numbers['marked']}" if numbers["right"] is not None else "–"


def _interval(kind: str, numbers: Document) -> Span | None:
    return Span(kind, numbers["interval"][0], numbers["score"], numbers["interval"][1]) if numbers["interval"] else None


def _thinking(report: Document, rows: Iterable[dict[str, Any]]) -> Plot | None:
    note = "Characters of reasoning in an answer: all answers, the middle half as a box, the median as a dot."
    drawn = list(_spread(report, rows, lambda reply: len(reply["reasoning"].strip()), lambda number: f"{number:.0f}"))
    return _lines("thinking", "Length of thinking", note, drawn, (_end(drawn), lambda number: f"{number:g}"))


def _seconds(report: Document, rows: Iterable[dict[str, Any]]) -> Plot | None:
    note = "Seconds from question to end, questions asked at once slowing each other down: all answers, middle half, median."
    drawn = list(_spread(report, rows, lambda reply: reply["seconds"], lambda number: f"{number:.2g} s" if number < 10 else f"{number:.0f} s"))
    return _lines("seconds", "Time of an answer", note, drawn, (_end(drawn), lambda number: f"{number:g} s"))


def _speed(rows: Iterable[dict[str, Any]]) -> Plot | None:
    drawn = [Line(row["label"], _both(row, _speed_words), spans) for row in rows if (spans := tuple(_sides(row, _rate)))]
    return _lines("speed", "Tokens a second", "Of one request, thinking included.", drawn, (_end(drawn), lambda number: f"{number:g}"))


def _speed_words(numbers: Document) -> str:
    return f"{numbers['tokens_per_second']:g}/s" if numbers["tokens_per_second"] else "–"


def _rate(kind: str, numbers: Document) -> Span | None:
    speed = numbers["tokens_per_second"]
    return Span(kind, 0.0, speed, speed) if speed else None


def _divergence(report: Document) -> Plot | None:
    gguf = report["observed"].get("gguf") or {}
    measured = {kind: seen for kind, seen in gguf.get("types", {}).items() if seen.get("mean_kl") is not None and seen.get("bytes")}
    if len(measured) < 2:
        return None
    best, limit = recommended(gguf)[0], gguf.get("size_limit")
    points = [_file(kind, seen, kind == best) for kind, seen in measured.items()]
    note = "Kullback-Leibler divergence from the 16-bit file on held-out rows, mean and 99th percentile: lower left is better."
    note += f" The dashed line is the size limit of {limit:g} MB." if limit else ""
    title = "Divergence against file size"
    return Plot(title, note, plane("divergence", title, points, Axes("file size, MB", "KL, nats a token", limit)))


def _file(kind: str, seen: Document, best: bool) -> Point:
    size, high = seen["bytes"] / 1e6, seen.get("p99_kl") or seen["mean_kl"]
    words = f"{size:.0f} MB, {seen['mean_kl']:.2g} nats a token, {high:.2g} at 99 %" + (", recommended" if best else "")
    return Point(kind, size, seen["mean_kl"], words, high, best)


def _sides(row: dict[str, Any], span: Callable[[str, Document], Span | None]) -> Iterator[Span]:
    for kind, numbers in (("before", row["base"]), ("after", row["tuned"])):
        made = span(kind, numbers) if numbers else None
        if made:
            yield made


def _both(row: dict[str, Any], words: Callable[[Document], str]) -> str:
    """Say `before → after`, or the one that there is."""
    return " → ".join(words(numbers) for numbers in (row["base"], row["tuned"]) if numbers)


def _spread(report: Document, rows: Iterable[dict[str, Any]], measure: Measure, words: Words) -> Iterator[Line]:
    """Yield each endpoint's spread of a number over its answers; answers that failed have none."""
    for row in rows:
        sides = {kind: answers(report, row[side]) for kind, side in (("before", "base"), ("after", "tuned"))}
        values = {kind: sorted(measure(reply) for reply in replies if not reply["error"]) for kind, replies in sides.items()}
        seen = {kind: numbers for kind, numbers in values.items() if numbers}
        if seen:
            shown = " → ".join(words(median(numbers)) for numbers in seen.values())
            yield Line(row["label"], shown, tuple(_box(kind, numbers) for kind, numbers in seen.items()))


def _box(kind: str, numbers: Sequence[float]) -> Span:
    """Return the span of sorted numbers: all of them, the middle half and the median."""
    first, middle, third = quantiles(numbers, n=4, method="inclusive") if len(numbers) > 1 else (numbers[0],) * 3
    return Span(kind, numbers[0], middle, numbers[-1], (first, third))


def _end(drawn: Iterable[Line]) -> float:
    """Return where a scale from 0 must end for every mark to be on it; 10 where all are 0."""
    return max((span.high for line in drawn for span in line.spans), default=0.0) or 10.0


def _lines(name: str, title: str, note: str, drawn: Sequence[Line], scale: tuple[float, Words]) -> Plot | None:
    return Plot(title, note, lines(name, title, drawn, scale)) if drawn else None
