"""The verdict: what all endpoints showed, joined into one report; it passes only where every required check passed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from toolkit.assessment import Verify
from toolkit.verify import Finding, Reply, fidelity, gain
from toolkit.verify.agreement import Agreement, compare_all
from toolkit.verify.edges import EDGES
from toolkit.verify.interval import wilson
from toolkit.verify.observe import Observed

REQUIRED = (
    *("think", "stop", "prompt", "identity", "usage", "errors", *EDGES, "concurrency", "cancellation"),
    *("context_length", "quantization", "sampling", "fidelity", "hardware"),
)
"""Checks that must have been made of each served variant of the tuned model, if only to say why they could not."""

FROM_GGUF = ("llamacpp", "ollama")
"""Engines that serve the gguf stage's files."""


class Report(BaseModel):
    """report.json: the verdict and all that it rests on."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, use_attribute_docstrings=True)
    schema_version: Literal[1] = Field(default=1, alias="schema")
    verdict: Literal["pass", "fail"]
    name: str
    description: str = ""
    engines: dict[str, dict[str, Any]]
    """Each engine's own verdict, its version and what it served."""
    checks: tuple[Finding, ...]
    observed: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Observation:
    """What `observe` left of one endpoint."""

    endpoint: Observed
    findings: tuple[Finding, ...]
    replies: tuple[Reply, ...]

    @property
    def label(self) -> str:
        """Engine and variant, with `base` for the model before the fine-tune."""
        return "/".join(filter(None, (self.endpoint.engine, self.endpoint.variant, "base" if self.endpoint.base else "")))

    @classmethod
    def read(cls, directory: Path) -> Observation:
        """Read a serve step's directory."""
        findings = json.loads((directory / "findings.json").read_text(encoding="utf-8"))
        lines = (directory / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        return cls(
            Observed.model_validate_json((directory / "endpoint.json").read_bytes()),
            tuple(Finding.model_validate(finding) for finding in findings),
            tuple(Reply.model_validate_json(line) for line in lines),
        )


def judge(name: str, wanted: Verify, observations: Iterable[Observation], facts: Mapping[str, Any] | None = None, description: str = "") -> Report:
    """Join observations into a report; `facts` (gguf.json, stats.json, ...) are kept beside them, unjudged."""
    everything = tuple(observations)
    tuned, bases = ([seen for seen in everything if seen.endpoint.base is base] for base in (False, True))
    checks = [check for seen in tuned for check in (*seen.findings, *_missing(seen, wanted))]
    checks = _with_files(checks, tuned, (facts or {}).get("gguf"))
    checks += _gains(tuned, bases)
    checks += [check for seen in bases for check in _base_checks(seen, wanted)]
    compared = compare_all({seen.label: seen.replies for seen in tuned})
    return Report(
        verdict=verdict(checks),
        name=name,
        description=description,
        engines=by_engine(everything, checks),
        checks=tuple(checks),
        observed={
            **(facts or {}),
            "endpoints": [numbers(seen) for seen in everything],
            "agreement": [pair.model_dump(mode="json") for pair in compared],
            "notes": notes(compared),
            "answers": {seen.label: [reply.model_dump(mode="json") for reply in seen.replies] for seen in everything},
        },
    )


def verdict(checks: Iterable[Finding]) -> Literal["pass", "fail"]:
    """Return pass only where there are required checks, all of them passed, and none failed."""
    judged = tuple(checks)
    required = [check for check in judged if check.required]
    good = required and all(check.status == "pass" for check in required) and not any(check.status == "fail" for check in judged)
    return "pass" if good else "fail"


def by_engine(everything: Iterable[Observation], checks: Iterable[Finding]) -> dict[str, dict[str, Any]]:
    """Return each engine's own verdict, its version and what it served."""
    judged = tuple(checks)
    engines: dict[str, dict[str, Any]] = {}
    for seen in everything:
        name = seen.endpoint.engine
        found = engines.setdefault(name, {"version": seen.endpoint.version, "served": []})
        found["served"].append(seen.label)
        found["verdict"] = verdict(check for check in judged if check.engine == name)
    return engines


def numbers(seen: Observation) -> dict[str, Any]:
    """Return an endpoint's line in the table: its label, shares of 0 to 1 with their interval, and tokens a second of one request."""
    endpoint = seen.endpoint
    marked = sum(reply.right is not None for reply in seen.replies)
    return {
        "label": seen.label,
        **endpoint.model_dump(mode="json"),
        "marked": marked,
        "score": round(endpoint.right / marked, 4) if endpoint.right is not None else None,
        "think": round(endpoint.thinking / endpoint.asked, 4) if endpoint.asked else 0.0,
        "interval": [round(edge, 4) for edge in wilson(endpoint.right, marked)] if endpoint.right is not None else None,
        "tokens_per_second": round(endpoint.tokens / endpoint.seconds, 1) if endpoint.seconds else None,
    }


def notes(compared: Iterable[Agreement]) -> list[str]:
    """Say in words which endpoints answer differently, the largest rate first."""
    apart = sorted((pair for pair in compared if pair.different_answers), key=lambda pair: -pair.different)
    return [
        f"{pair.one} and {pair.other} answer {pair.different_answers} of {pair.questions} questions differently ({pair.different:.0%})"
        for pair in apart
    ]


def _missing(seen: Observation, wanted: Verify) -> Iterable[Finding]:
    """Yield a failed check for each required one that was not made: an absent proof must not pass."""
    names = {finding.name for finding in seen.findings}
    by_recipe = (*(("task",) if wanted.task else ()), *(("judge",) if wanted.task and wanted.task.judge else ()))
    for name in (*REQUIRED, *by_recipe, *(f"benchmark {benchmark.task}" for benchmark in wanted.benchmarks)):
        if name not in names:
            made: dict[str, Any] = {"name": name, "engine": seen.endpoint.engine, "variant": seen.endpoint.variant}
            yield Finding(**made, status="fail", message="the check was not made", remedy="run again; if it stays, this is a bug of thinkship")


def _with_files(checks: list[Finding], tuned: Iterable[Observation], gguf: Mapping[str, Any] | None) -> list[Finding]:
    """Put what the gguf stage measured of a served file in the place of what its server could not tell."""
    served = [(seen.endpoint.engine, seen.endpoint.variant) for seen in tuned if seen.endpoint.engine in FROM_GGUF]
    known = {(found.engine, found.variant): found for found in fidelity.of_files(served, gguf)} if gguf else {}
    return [known.get((check.engine, check.variant), check) if check.name == "fidelity" else check for check in checks]


def _base_checks(seen: Observation, wanted: Verify) -> Iterable[Finding]:
    """Yield whether the base model is bad enough at the task for the gain to be plain, where the recipe asks for that."""
    limit = wanted.task.base_at_most if wanted.task else None
    if limit is None or seen.endpoint.right is None:
        return
    right, asked = seen.endpoint.right, sum(reply.right is not None for reply in seen.replies)
    passed = right / asked <= limit
    yield Finding(
        name="base",
        engine=seen.endpoint.engine,
        variant=seen.endpoint.variant,
        status="pass" if passed else "fail",
        message=f"before the fine-tune {right} of {asked} held-out answers are right; at most {limit:.0%} wanted",
        remedy="" if passed else "the task is too easy to show a gain: choose a harder one, or drop verify.task.base_at_most",
        evidence={"right": right, "asked": asked},
    )


def _gains(tuned: Iterable[Observation], bases: Iterable[Observation]) -> Iterable[Finding]:
    """Yield for each tuned endpoint whether it is better than the base on the same engine."""
    before = {seen.endpoint.engine: seen.replies for seen in bases}
    for seen in tuned:
        found = gain.check(seen.endpoint.engine, seen.endpoint.variant, before.get(seen.endpoint.engine, ()), seen.replies)
        if found:
            yield found
