"""The report for people: one self-contained HTML page and the tables of the terminal, both rendered from report.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from rich.table import Table

from toolkit import console

TEMPLATE = Path(__file__).with_name("report.html.j2")
NOTES = 3
"""Notes on differing answers that the terminal shows."""
COLOURS = {"pass": "green", "fail": "bold red", "skip": "yellow"}


def write_html(report: Mapping[str, Any], path: Path) -> None:
    """Write the page of a report."""
    path.write_text(html(report), encoding="utf-8")


def html(report: Mapping[str, Any]) -> str:
    """Return the page of a report: one file, no resource from elsewhere, readable with scripts switched off."""
    pairs = report["observed"].get("agreement", [])
    return _template().render(
        report=report,
        rows=comparison(report["observed"]["endpoints"]),
        grid=grid(report["checks"]),
        columns=list(dict.fromkeys(check["name"] for check in report["checks"])),
        matrix=matrix(pairs),
        transcripts=transcripts(report["observed"].get("answers", {})),
        gguf=report["observed"].get("gguf", {}).get("types", {}),
        dataset=audit(report["observed"].get("dataset", {})),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def comparison(endpoints: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a tuned endpoint with the base of the same engine beside it; a base alone is a row too."""
    everything = list(endpoints)
    bases = {numbers["engine"]: numbers for numbers in everything if numbers["base"]}
    tuned = [numbers for numbers in everything if not numbers["base"]]
    rows = [{"engine": numbers["engine"], "variant": numbers["variant"], "tuned": numbers, "base": bases.get(numbers["engine"])} for numbers in tuned]
    alone = [base for name, base in bases.items() if name not in {row["engine"] for row in rows}]
    return rows + [{"engine": base["engine"], "variant": base["variant"], "tuned": None, "base": base} for base in alone]


def grid(checks: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return the status of every check, endpoint by endpoint; the base of an engine has a row of its own."""
    rows: dict[str, dict[str, str]] = {}
    for check in checks:
        label = "/".join(filter(None, (check["engine"], check["variant"], "base" if check["name"] == "base" else "")))
        rows.setdefault(label, {})[check["name"]] = check["status"]
    return rows


def matrix(pairs: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Return the agreement of every endpoint with every other, row by row."""
    table: dict[str, dict[str, Mapping[str, Any]]] = {}
    for pair in pairs:
        table.setdefault(pair["one"], {})[pair["other"]] = pair
        table.setdefault(pair["other"], {})[pair["one"]] = pair
    return table


def transcripts(answers: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Return question by question what each endpoint thought and answered."""
    questions: dict[str, list[dict[str, Any]]] = {}
    for label, replies in answers.items():
        for reply in replies:
            questions.setdefault(reply["question"], []).append({"endpoint": label, **reply})
    return questions


def audit(stats: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the dataset's facts as lines of name, training rows and held-out rows; a fact of the whole stands in the first column."""
    train, held_out = (dict(flat(stats.get(part, {}))) for part in ("train", "eval"))
    lines = [(name, train.get(name, "–"), held_out.get(name, "–")) for name in dict.fromkeys((*train, *held_out))]
    whole = {key: value for key, value in stats.items() if key not in ("train", "eval")}
    return lines + [(name, value, "") for name, value in flat(whole)]


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Return nested facts as lines of name and value."""
    if isinstance(value, Mapping):
        return [line for key, part in value.items() for line in flat(part, f"{name} {key}".strip().replace("_", " "))]
    if isinstance(value, float):
        return [(name, f"{value:.4g}")]
    return [(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]


def show(report: Mapping[str, Any]) -> None:
    """Print the report's numbers, what did not pass with its remedy, and the verdict."""
    console.show(_numbers_table(report))
    for check in report["checks"]:
        if check["status"] != "pass":
            console.say(f"\n{check['status']}: {check['name']}, {check['engine']} {check['variant']}: {check['message']}")
            if check["remedy"]:
                console.say(f"fix: {check['remedy']}")
    notes = report["observed"].get("notes", [])
    for note in notes[:NOTES]:
        console.say(f"note: {note}")
    if len(notes) > NOTES:
        console.say(f"note: {len(notes) - NOTES} more pairs of endpoints differ; report.html has them all")
    console.say(f"verdict: {report['verdict']}")


def _numbers_table(report: Mapping[str, Any]) -> Table:
    """Return the table of the terminal, made for 80 columns; `before` is the base model on the same engine."""
    statuses = grid(report["checks"])
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("endpoint", "right", "before", "thinks", "before", "tok/s", "checks"):
        table.add_column(column, justify="left" if column in ("endpoint", "checks") else "right", no_wrap=column != "checks")
    for row in comparison(report["observed"]["endpoints"]):
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


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda share: f"{share:.0%}"
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
