"""The inspection on the terminal: one column a source, and the lines that want attention below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from toolkit import console

NAMES = {"source": "training", "holdout": "held-out"}


def show(found: Mapping[str, Any]) -> None:
    """Print the table and what stands out."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", *(NAMES[name] for name in found["parts"])):
        table.add_column(column)
    for name in facts(found):
        table.add_row(name, *(facts(found)[name]))
    console.show(table)
    for line in attention(found):
        console.say(line)


def facts(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the facts of each source side by side, by the name of the fact."""
    unit, parts = found["unit"], list(found["parts"].values())
    return {
        "rows kept": [f"{part['kept']} of {part['read']}" for part in parts],
        "shape": [part["shape"] for part in parts],
        "reasoning in": [", ".join(part["reasoning_in"]) or "–" for part in parts],
        f"{unit} p50 / p90 / p99": [" / ".join(str(part["tokens"][mark]) for mark in ("p50", "p90", "p99")) for part in parts],
        f"longest, of {found['max_length']}" if found["max_length"] else "longest": [str(part["tokens"]["max"]) for part in parts],
        "share of thinking": [f"{part['thinking_share']:.0%}" for part in parts],
        "duplicates": [f"{part['duplicates']['rows']}, nearly {part['near_duplicates']['rows']}" for part in parts],
    }


def attention(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each reason that drops rows and for overlap with the held-out rows."""
    for name, part in found["parts"].items():
        for dropped in part["dropped"]:
            yield f"{NAMES[name]}: {dropped['count']} dropped: {dropped['reason']}, first {dropped['examples'][0]['place']}"
    if found["overlap"]:
        exact, near = found["overlap"]["rows"], found["overlap"]["near"]["rows"]
        if exact:
            yield f"{exact} held-out questions are trained on: the dataset stage will refuse them"
        if near:
            yield f"{near} held-out questions are nearly trained on"
