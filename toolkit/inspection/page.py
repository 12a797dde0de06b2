"""The page of an inspection: one self-contained file in the style of report.html, rendered from inspection.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from toolkit.inspection.table import NAMES, attention, facts
from toolkit.report.drawing import Bar, bars

FOLDER = Path(__file__).parent
STYLES = (FOLDER.parent / "report" / "page.css", FOLDER / "page.css")


def html(found: Mapping[str, Any]) -> str:
    """Return the page: one file, no script, no resource from elsewhere."""
    return _template().render(
        found=found,
        style=Markup("\n".join(path.read_text(encoding="utf-8") for path in STYLES)),
        names=NAMES,
        facts=facts(found),
        attention=list(attention(found)),
        plots=list(_plots(found)),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _plots(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the histograms of each source: lengths against the limit, and the lengths of thinking."""
    unit, limit = found["unit"], found["max_length"]
    for name, part in found["parts"].items():
        if part["histogram"]:
            title = f"Length of {NAMES[name]} rows"
            note = "Prompt and completion together" + (f"; what is longer than {limit} {unit} is dropped, never cut." if limit else ".")
            mark = (limit, f"max_length {limit}") if limit else None
            yield {"title": title, "note": note, "drawing": _drawn(f"{name}-lengths", title, part["histogram"], unit, mark)}
        if part["thinking"]:
            title = f"Length of thinking, {NAMES[name]} rows"
            note = f"{part['thinking_share']:.0%} of what is supervised lies inside the thinking."
            yield {"title": title, "note": note, "drawing": _drawn(f"{name}-thinking", title, part["thinking"], unit, None)}


def _drawn(name: str, title: str, bins: Sequence[Sequence[int]], unit: str, limit: tuple[float, str] | None) -> Markup:
    return bars(name, title, [Bar(*one) for one in bins], (unit, "rows"), limit)


def _visible(text: str) -> str:
    """Return a piece as it is shown: an arrow stands for a line's end, which then follows."""
    return text.replace("\n", "↵\n") or "·"


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda share: f"{share:.0%}"
    environment.filters["visible"] = _visible
    return environment.from_string((FOLDER / "page.html.j2").read_text(encoding="utf-8"))
