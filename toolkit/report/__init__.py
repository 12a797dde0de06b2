"""What people and CI systems read of a verification, all rendered from report.json: the page, the terminal's tables, JUnit XML, two compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from toolkit import console
from toolkit.errors import BrokenError, UsageError
from toolkit.report.facts import Document


@dataclass(frozen=True)
class Files:
    """Where a report is to be written, beside what is shown."""

    json: Path | None = None
    html: Path | None = None
    junit: Path | None = None

    def require(self) -> None:
        """Check before anything long is done that the folders are there; UsageError names the one that is not."""
        for path in filter(None, (self.json, self.html, self.junit)):
            if path.is_dir() or not path.resolve().parent.is_dir():
                why = "it is a folder" if path.is_dir() else "its folder is not there"
                raise UsageError(f"{path} cannot be written: {why}", "name a file in a folder that is there")

    def write(self, report: Document) -> None:
        """Write what was asked for; UsageError where a file cannot be written."""
        from toolkit.report import junit, page

        makers: tuple[tuple[Path | None, Callable[[Document], str]], ...] = ((self.json, _json), (self.html, page.html), (self.junit, junit.xml))
        for path, make in makers:
            if path:
                _write(path, make(report))


NOWHERE = Files()
"""Nothing is to be written."""


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", "name a file in a folder of yours") from error


def _json(report: Document) -> str:
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def open_report(place: Path | None, pair: tuple[Path, Path] | None, files: Files, as_json: bool, size_limit: float | None = None) -> None:
    """Show one report, written anew where that is asked for, or compare two; UsageError for both or neither, then errors as `document.load`."""
    if (place is None) == (pair is None):
        raise UsageError("one report, or two to compare, must be named", "thinkship report STORE, or thinkship report --compare A B")
    if pair and (files != NOWHERE or size_limit is not None):
        raise UsageError("a page, JUnit XML and advice are made of one report, not of two", "thinkship report STORE --html FILE --junit FILE")
    if place and as_json:
        raise UsageError("--json prints a comparison; a report is JSON already", "read its report.json, or add --compare A B")
    if pair:
        compare(pair, as_json)
    elif place:
        _reread(place, files, size_limit)


def _reread(place: Path, files: Files, size_limit: float | None) -> None:
    from toolkit.report import document, terminal

    files.require()
    found = document.load(place)
    if size_limit is not None:
        found = _within(found, size_limit)
    files.write(found)
    console.say(f"{found['name']} ({document.find(place)})\n")
    terminal.show(found)


def _within(report: Document, size_limit: float) -> Document:
    """Return the report with another limit on the size of GGUF files; UsageError where it knows none."""
    observed = report["observed"]
    if not (observed.get("gguf") or {}).get("types"):
        raise UsageError("this report knows no GGUF files", "name the report of a recipe that serves with llamacpp or ollama")
    return {**report, "observed": {**observed, "gguf": {**observed["gguf"], "size_limit": size_limit}}}


def compare(places: tuple[Path, Path], as_json: bool = False) -> None:
    """Print how a second report differs from a first; BrokenError where it is worse."""
    from toolkit.report import document, terminal
    from toolkit.report.difference import difference

    before, after = (document.load(place) for place in places)
    found = difference(before, after)
    if as_json:
        console.emit_json(asdict(found))
    else:
        before_name, after_name = (f"{report['name']} ({document.find(place)})" for report, place in zip((before, after), places, strict=True))
        terminal.show_difference((before_name, after_name), found)
    if found.change == "worse":
        raise BrokenError("the second report is worse than the first", "do not release it before the points above are mended")
