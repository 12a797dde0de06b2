"""Reports on the terminal: the table of endpoints, what did not pass with its remedy, the verdict; and two reports against each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from toolkit import console
from toolkit.quality import recommended
from toolkit.report.difference import Difference
from toolkit.report.facts import COLUMNS, Document, comparison, files, grid, guidance, reasons

NOTES = 3
"""Notes on differing answers that the terminal shows."""
COLOURS = {"pass": "green", "fail": "bold red", "skip": "yellow"}
CHANGES = {"improved": "green", "no evidence": "yellow", "worse": "bold red"}


def show(report: Document) -> None:
    """Print the report's numbers, what did not pass with its remedy, and the verdict."""
    console.show(_numbers_table(report))
    _show_files(report)
    for (status, name, message, remedy), endpoints in _open(report["checks"]).items():
        console.say(f"\n{status}: {name}, {', '.join(endpoints)}: {message}")
        if remedy:
            console.say(f"fix: {remedy}")
    notes = report["observed"].get("notes", [])
    for note in notes[:NOTES]:
        console.say(f"note: {note}")
    if len(notes) > NOTES:
        console.say(f"note: {len(notes) - NOTES} more pairs of endpoints differ; report.html has them all")
    for remark in (report["observed"].get("adapter") or {}).get("remarks", ()):
        console.say(f"adapter: {remark}")
    for reason in reasons(report):
        console.say(reason)
    console.say(f"verdict: {report['verdict']}")


def _open(checks: Iterable[Document]) -> dict[tuple[str, str, str, str], list[str]]:
    """Return the checks that did not pass, those that say the same of several endpoints together."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for check in checks:
        if check["status"] != "pass":
            key = (check["status"], check["name"], check["message"], check["remedy"])
            found.setdefault(key, []).append(f"{check['engine']} {check['variant']}".strip())
    return found


def _show_files(report: Document) -> None:
    """Print how near each file is to the 16-bit model, and which GGUF file to take."""
    rows, gguf = files(report), report["observed"].get("gguf") or {}
    if not rows:
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("format", "limits") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.cells())
    console.say("")
    console.show(table)
    for words in guidance(gguf):
        console.say(words)
    if gguf.get("types"):
        console.say(f"recommended: {recommended(gguf)[1]}")


def _numbers_table(report: Document) -> Table:
    """Return the table of the terminal, made for 80 columns; `before` is the base model on the same engine."""
    statuses = grid(report["checks"])
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("endpoint", "right", "before", "thinks", "before", "tok/s", "checks"):
        table.add_column(column, justify="left" if column in ("endpoint", "checks") else "right", no_wrap=column != "checks")
    for row in comparison(report):
        tuned, base = row["tuned"], row["base"]
        some = tuned or base
        before = f"{base['right']}/{base['marked']}" if base and base["right"] is not None else "–"
        pairs = (_right(tuned), before, _think(tuned), _think(base))
        table.add_row(some["label"], *pairs, str(some["tokens_per_second"] or ""), _marks(statuses.get(some["label"], {})))
    return table


def _marks(statuses: Mapping[str, str]) -> str:
    """Return `pass`, or the names of the checks that did not pass."""
    open_points = [f"[{COLOURS[status]}]{name} {status}[/]" for name, status in statuses.items() if status != "pass"]
    return ", ".join(open_points) or ("[green]pass[/]" if statuses else "")


def _right(numbers: Mapping[str, Any] | None) -> str:
    if not numbers or numbers["right"] is None:
        return "–"
    low, high = numbers["interval"]
    return f"{numbers['right']}/{numbers['marked']} {low * 100:.0f}–{high:.0%}"


def _think(numbers: Mapping[str, Any] | None) -> str:
    return f"{numbers['thinking']}/{numbers['asked']}" if numbers else "–"


def show_difference(names: tuple[str, str], found: Difference) -> None:
    """Print how the second of two reports differs from the first, and in one word what that amounts to."""
    console.say(f"A: {names[0]}, verdict {found.verdicts[0]}\nB: {names[1]}, verdict {found.verdicts[1]}\n")
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("endpoint", "right in A", "right in B", "B against A", "question by question"):
        table.add_column(column, no_wrap=column != "question by question")
    for score in found.scores:
        told = score.pair.words() if score.pair.questions else "no question was answered in both"
        table.add_row(escape(score.endpoint), score.before, score.after, f"[{CHANGES[score.change]}]{score.change}[/]", told)
    console.show(table)
    for words, labels in (("only in A", found.only_before), ("only in B", found.only_after)):
        if labels:
            console.say(f"{words}: {', '.join(labels)}")
    for turn in found.turns:
        console.say(f"\n{turn.endpoint}: {turn.name} went from {turn.before} to {turn.after}: {turn.message}")
    console.say(f"\nB against A: {found.change}")
