"""The gate before a promotion: the candidate where it runs, held against the contracts and the held-out questions that its release passed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolkit.artifact import Record, read_record, verify_files
from toolkit.assessment import Verify
from toolkit.deployment.state import Deployed
from toolkit.engines import Endpoint
from toolkit.errors import BrokenError, NotReadyError
from toolkit.release.document import Release, ReleasedEngine
from toolkit.report import Files
from toolkit.verify import Expectations
from toolkit.verify.judge import Observation, judge
from toolkit.verify.observe import examine, expectations_of, summary

REMEDY = "copy the store's directories too, times and all (rsync --archive), or make them again: thinkship run RECIPE"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Gate:
    """What a candidate is held against."""

    name: str
    expected: Expectations
    verify: Verify
    facts: dict[str, Any]


def gate(release: Release, one: ReleasedEngine, store: Path) -> Gate:
    """Return what an engine of a release was verified with: its serve step's part of the recipe, the data set's held-out rows, the model's words.

    NotReadyError where a directory is missing, BrokenError where one was touched. Whether the model lies on a GPU and how its memory grows is
    seen on the machine where it runs, and was: that is not asked of a candidate. Nor is a public benchmark, which takes hours.
    """
    served = _sealed(store, release.step(one.step).directory)
    inputs = {key: store / release.step(name).directory for key, name in served.inputs.items()}
    for name in served.inputs.values():
        _sealed(store, release.step(name).directory)
    recipe = dict(served.recipe)
    expected = expectations_of(recipe, inputs["dataset"], inputs["model"] / "model")
    verify = Verify.model_validate(recipe["verify"]).model_copy(update={"benchmarks": ()})
    facts = {"gguf": json.loads((inputs["gguf"] / "gguf.json").read_text(encoding="utf-8"))} if "gguf" in inputs else {}
    return Gate(release.recipe, replace(expected, gpu=None, soak=None), verify, facts)


def require_files(one: ReleasedEngine, store: Path) -> None:
    """Check that a store holds what an engine serves; NotReadyError where a directory is missing, BrokenError where it holds other files."""
    records = {directory: _sealed(store, directory) for directory in dict.fromkeys(file.directory for file in one.files)}
    for file in one.files:
        known = {entry.path: entry.sha256 for entry in records[file.directory].held}
        if known.get(file.path.partition("/")[2]) != file.sha256:
            raise BrokenError(f"{store / file.path} is not the file that was released", "take the store in which the release was made")


def _sealed(store: Path, directory: str) -> Record:
    record = read_record(store / directory)
    if record is None:
        raise NotReadyError(f"the store {store} lacks {directory}", REMEDY)
    verify_files(store / directory, record)
    return record


def pass_through(endpoint: Endpoint, held: Gate, one: Deployed, folder: Path, progress: Progress) -> None:
    """Ask a candidate everything and leave the report in `folder`; BrokenError where its verdict is fail, NotReadyError where it does not answer."""
    replies, findings = examine(endpoint, held.expected, progress)
    seen = Observation(summary(endpoint, held.expected, replies), findings, tuple(replies))
    report = judge(held.name, held.verify, [seen], held.facts, f"the candidate {one.title} at {endpoint.url}")
    place = folder / f"report-{one.release.short}.json"
    Files(json=place, html=place.with_suffix(".html")).write(report.model_dump(mode="json", by_alias=True))
    if report.verdict != "pass":
        broken = dict.fromkeys(check.name for check in report.checks if check.status == "fail")
        message = f"the candidate {one.title} did not pass: {', '.join(broken) or 'a required check was skipped'}"
        raise BrokenError(message, f"each failed check names its remedy: thinkship report {place}")
