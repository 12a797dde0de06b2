"""Prints, as Markdown, what a finished store holds: seconds of each step, and the table of base against tuned per engine and quantisation.

    python3 benchmarks/steps.py [STORE]

Seconds are those of the run that made the step, installation of its environment included; the figures are read from record.json and report.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def newest_report(store: Path) -> dict[str, Any]:
    """Return the report of the store's last verify step."""
    paths = sorted(store.glob("verify-*/report.json"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise SystemExit(f"{store} holds no finished run; `make demo` makes one")
    return dict(json.loads(paths[-1].read_text(encoding="utf-8")))


def step_rows(store: Path) -> list[str]:
    """Return one row a step, the newest of each name, in the order in which they were made."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(store.glob("*/record.json"), key=lambda path: path.stat().st_mtime)]
    newest = {record["step"]: record for record in records}
    return [f"| {name} | {record['seconds']:.1f} | {sum(file['size'] for file in record['files']) / 1e6:.1f} |" for name, record in newest.items()]


def score_rows(report: dict[str, Any]) -> list[str]:
    """Return one row an endpoint."""
    rows = []
    for seen in report["observed"]["endpoints"]:
        shares = f"{seen['right']}/{seen['marked']} | {seen['thinking']}/{seen['asked']}"
        rows.append(f"| {seen['engine']} | {seen['variant']} | {'base' if seen['base'] else 'tuned'} | {shares} |")
    return rows


def main(store: Path) -> None:
    """Print both tables."""
    report = newest_report(store)
    print("| step | seconds | MB left |\n| --- | --- | --- |", *step_rows(store), sep="\n")
    print("\n| engine | quantisation | model | right | thinks |\n| --- | --- | --- | --- | --- |", *score_rows(report), sep="\n")
    print("\n" + "\n".join(f"* {note}" for note in report["observed"].get("notes", [])))
    print(f"\nVerdict: {report['verdict']}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(".thinkship"))
