"""What a report's page and tables show, taken from report.json: rows, grids and transcripts as plain values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from toolkit.quality import breaches, is_limited
from toolkit.verify import paired

Document = Mapping[str, Any]
"""report.json as data."""
COLUMNS = ("format", "MB", "mean KL", "99 %", "same top", "perplexity", "right", "tok/s", "limits")
"""What stands above the cells of a file."""


def comparison(report: Document) -> list[dict[str, Any]]:
    """Return one row a tuned endpoint with the base of the same engine beside it; a base alone is a row too.

    `change` is the paired test of base and tuned over the questions that both answered, None where there is nothing to pair.
    """
    endpoints = report["observed"]["endpoints"]
    bases = {numbers["engine"]: numbers for numbers in endpoints if numbers["base"]}
    tuned = [numbers for numbers in endpoints if not numbers["base"]]
    rows = [_row(report, numbers, bases.get(numbers["engine"])) for numbers in tuned]
    served = {numbers["engine"] for numbers in tuned}
    return rows + [_row(report, None, base) for name, base in bases.items() if name not in served]


def _row(report: Document, tuned: Document | None, base: Document | None) -> dict[str, Any]:
    some = tuned or base or {}
    pair = paired.compare(answers(report, base), answers(report, tuned))
    shown = {"engine": some["engine"], "variant": some["variant"], "label": f"{some['engine']} {some['variant']}".strip()}
    return {**shown, "tuned": tuned, "base": base, "change": pair if pair.questions else None}


def answers(report: Document, numbers: Document | None) -> list[Document]:
    """Return an endpoint's replies, none for no endpoint."""
    return list(report["observed"].get("answers", {}).get(numbers["label"], ())) if numbers else []


def label_of(check: Document) -> str:
    """Return the endpoint of a check as `engine/variant`; the base of an engine is an endpoint of its own."""
    return "/".join(filter(None, (check["engine"], check["variant"], "base" if check["name"] == "base" else "")))


def grid(checks: Iterable[Document]) -> dict[str, dict[str, str]]:
    """Return the status of every check, endpoint by endpoint."""
    rows: dict[str, dict[str, str]] = {}
    for check in checks:
        rows.setdefault(label_of(check), {})[check["name"]] = check["status"]
    return rows


def open_points(checks: Iterable[Document]) -> list[Document]:
    """Return why a verdict is not a pass: the checks that failed, then the required ones that were not made."""
    listed = list(checks)
    failed = [check for check in listed if check["status"] == "fail"]
    return failed + [check for check in listed if check["status"] == "skip" and check["required"]]


def elsewhere(report: Document) -> str:
    """Say in one sentence that the adapter was trained elsewhere, by whom and what is not known of it; empty where it was trained here."""
    adapter = report["observed"].get("adapter")
    return _origin("The adapter", adapter) if adapter else ""


def further(report: Document) -> list[str]:
    """Say the same of each adapter that was served beside the recipe's own."""
    return [_origin(f"The adapter {name}, served beside it,", adapter) for name, adapter in (report["observed"].get("adapters") or {}).items()]


def _origin(subject: str, adapter: Document) -> str:
    made_by = adapter["trainer"]
    name = " ".join(filter(None, (made_by.get("name"), made_by.get("version")))) or "a trainer that its files do not name"
    told = adapter.get("losses_told", 0)
    losses = f"its own record of {told} losses was not checked" if told else "how its loss fell is not known"
    return f"{subject} was trained elsewhere, by {name} ({adapter['source']}, {adapter['kind']} of rank {adapter['rank']}): {losses}."


def reasons(report: Document) -> list[str]:
    """Say in sentences what a verdict rests on, the open points aside."""
    checks, rows = report["checks"], [row for row in comparison(report) if row["change"]]
    count = {status: sum(check["status"] == status for check in checks) for status in ("pass", "fail", "skip")}
    required = sum(check["required"] for check in checks)
    lines = [f"{len(checks)} checks, {required} of them required: {count['pass']} passed, {count['fail']} failed, {count['skip']} skipped."]
    lines += filter(None, (elsewhere(report), *further(report)))
    if rows:
        kinds = [row["change"].change(len(rows)) for row in rows]
        words = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("improved", "no evidence", "worse") if kind in kinds)
        lines.append(f"Right answers after the fine-tune against before, engine by engine: {words}.")
    return lines


def matrix(pairs: Iterable[Document]) -> dict[str, dict[str, Document]]:
    """Return the agreement of every endpoint with every other, row by row."""
    table: dict[str, dict[str, Document]] = {}
    for pair in pairs:
        table.setdefault(pair["one"], {})[pair["other"]] = pair
        table.setdefault(pair["other"], {})[pair["one"]] = pair
    return table


def transcripts(report: Document) -> dict[str, list[dict[str, Any]]]:
    """Return question by question what each endpoint thought and answered, the tuned ones first."""
    bases = {numbers["label"] for numbers in report["observed"]["endpoints"] if numbers["base"]}
    questions: dict[str, list[dict[str, Any]]] = {}
    for label, replies in sorted(report["observed"].get("answers", {}).items(), key=lambda item: item[0] in bases):
        for reply in replies:
            questions.setdefault(reply["question"], []).append({"endpoint": label, "base": label in bases, **reply})
    return questions


@dataclass(frozen=True)
class File:
    """One GGUF file or stored checkpoint as tables show it."""

    kind: str
    seen: Document
    limits: str
    """`kept`, `broken`, `none`, or `reference`."""
    served: Document = field(default_factory=dict)
    """The numbers of an endpoint that served it."""

    def cells(self) -> tuple[str, ...]:
        """Return format, MB, KL (mean, 99th percentile), share of the same likeliest token, growth of the perplexity, score, tokens/s, limits."""
        kl = (self._number(f"{name}_kl", "{:.5f}" if name == "mean" else "{:.4f}") for name in ("mean", "p99"))
        return (
            self.kind,
            self._number("bytes", "{:.1f}", 1e-6),
            *kl,
            self._number("top1", "{:.1%}"),
            self._number("perplexity_growth", "{:+.2%}"),
            _written(self.served.get("score"), "{:.0%}"),
            _written(self.served.get("tokens_per_second"), "{:.0f}"),
            self.limits,
        )

    def _number(self, name: str, form: str, times: float = 1) -> str:
        value = self.seen.get(name)
        return _written(None if value is None else value * times, form)


def _written(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def files(report: Document) -> list[File]:
    """Return what was measured of each GGUF file and each stored checkpoint, with how it did where it was served first."""
    made = []
    for part, engines in (("gguf", ("llamacpp", "ollama")), ("compress", ("vllm",))):
        document = report["observed"].get(part) or {}
        for kind, seen in document.get("types", {}).items():
            served = (one for one in report["observed"]["endpoints"] if one["variant"] == kind and not one["base"] and one["engine"] in engines)
            made.append(File(kind, seen, _limits(kind, document), next(served, {})))
    return made


def guidance(gguf: Document) -> list[str]:
    """Say of each file what the importance matrix gained, and of all what it was made of; nothing where there is none."""
    matrix = gguf.get("imatrix")
    if not matrix:
        return []
    gains = [_gain(kind, seen) for kind, seen in gguf.get("types", {}).items() if seen.get("plain")]
    return [f"importance matrix from {matrix['texts']} texts of {matrix['tokens']} tokens: {'; '.join(gains) or 'not compared with none'}"]


def _gain(kind: str, seen: Document) -> str:
    before, after = seen["plain"]["mean_kl"], seen["mean_kl"]
    change = f" ({after / before - 1:+.0%})" if before else ""
    return f"{kind} mean KL {after:.5f} instead of {before:.5f}{change}"


def _limits(kind: str, gguf: Document) -> str:
    broken = breaches(kind, gguf)
    if broken:
        return "broken"
    return "kept" if is_limited(kind, gguf) else "reference" if kind == gguf.get("reference") else "none"


def audit(stats: Document) -> list[tuple[str, str, str]]:
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
