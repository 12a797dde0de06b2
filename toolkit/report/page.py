"""report.html: one self-contained page, rendered from report.json."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from toolkit.quality import recommended
from toolkit.report import facts
from toolkit.report.facts import Document
from toolkit.report.plots import plots

FOLDER = Path(__file__).parent
WORD = 24
"""Characters of a text that stands in a line with others; a longer one has a line of its own."""


def html(report: Document) -> str:
    """Return the page of a report: one file, no resource from elsewhere, readable with scripts switched off."""
    observed, style, script = report["observed"], _text("page.css"), _text("page.js")
    gguf = observed.get("gguf") or {}
    return _template().render(
        report=report,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        reasons=facts.reasons(report),
        open_points=facts.open_points(report["checks"]),
        rows=facts.comparison(report),
        plots=plots(report),
        grid=facts.grid(report["checks"]),
        names=list(dict.fromkeys(check["name"] for check in report["checks"])),
        matrix=facts.matrix(observed.get("agreement", [])),
        transcripts=facts.transcripts(report),
        files=facts.files(report),
        guidance=facts.guidance(gguf),
        best=recommended(gguf) if gguf.get("types") else None,
        adapter=observed.get("adapter"),
        elsewhere=facts.elsewhere(report),
        dataset=facts.audit(observed.get("dataset") or {}),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _is_plain(values: Sequence[Any]) -> bool:
    """Say whether a list is read best as one line: numbers, or words without a break."""
    return bool(values) and all(isinstance(part, int | float) or (isinstance(part, str) and len(part) <= WORD) for part in values)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda share: f"{share:.0%}"
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    environment.tests["plain_list"] = _is_plain
    environment.globals["label_of"] = facts.label_of
    return environment.from_string(_text("page.html.j2"))
