"""Two reports side by side, as two releases of a model: verdicts, scores question by question, checks that changed.

It pairs the endpoints that both reports have; the same held-out questions must have been asked for a score to be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from toolkit.report.facts import Document, answers, label_of
from toolkit.verify.paired import Change, Paired, compare


@dataclass(frozen=True)
class Score:
    """One endpoint in both reports."""

    endpoint: str
    before: str
    """Right answers of those marked, as `48/50`."""
    after: str
    pair: Paired
    p: float
    change: Change


@dataclass(frozen=True)
class Turn:
    """A check whose outcome changed; `none` where a report does not have it."""

    endpoint: str
    name: str
    before: str
    after: str
    message: str
    """What the second report says, the first where the second says nothing."""


@dataclass(frozen=True)
class Difference:
    """What changed from one report to another, and what that amounts to."""

    verdicts: tuple[str, str]
    scores: tuple[Score, ...]
    turns: tuple[Turn, ...]
    only_before: tuple[str, ...]
    """Endpoints that the second report does not have."""
    only_after: tuple[str, ...]
    change: Change


def difference(before: Document, after: Document) -> Difference:
    """Compare two reports; the 5 % by which chance alone may show a change are shared out over the endpoints."""
    first, second = _endpoints(before), _endpoints(after)
    shared = [label for label in first if label in second]
    pairs = {label: compare(answers(before, first[label]), answers(after, second[label])) for label in shared}
    looks = max(1, sum(pair.questions > 0 for pair in pairs.values()))
    scores = tuple(Score(label, _right(first[label]), _right(second[label]), pair, pair.p, pair.change(looks)) for label, pair in pairs.items())
    turns, verdicts = tuple(_turns(before, after)), (before["verdict"], after["verdict"])
    gone, new = (tuple(label for label in these if label not in those) for these, those in ((first, second), (second, first)))
    return Difference(verdicts, scores, turns, gone, new, _change(verdicts, scores, turns))


def _endpoints(report: Document) -> dict[str, Document]:
    """Return the tuned endpoints by label."""
    return {numbers["label"]: numbers for numbers in report["observed"]["endpoints"] if not numbers["base"]}


def _right(numbers: Document) -> str:
    return f"{numbers['right']}/{numbers['marked']}" if numbers["right"] is not None else "–"


def _turns(before: Document, after: Document) -> Iterator[Turn]:
    """Yield the checks whose outcome differs; those of an endpoint that only one report has are no turn."""
    first, second = ({(label_of(check), check["name"]): check for check in report["checks"]} for report in (before, after))
    shared = {label for label, _ in first} & {label for label, _ in second}
    for label, name in (key for key in dict.fromkeys((*first, *second)) if key[0] in shared):
        one, other = first.get((label, name)), second.get((label, name))
        was, now = (check["status"] if check else "none" for check in (one, other))
        if was != now:
            yield Turn(label, name, was, now, (other or one or {})["message"])


def _change(verdicts: tuple[str, str], scores: tuple[Score, ...], turns: tuple[Turn, ...]) -> Change:
    """Return worse where anything is: a gain on one endpoint does not pay for a loss on another."""
    if verdicts == ("pass", "fail") or any(score.change == "worse" for score in scores) or any(turn.after == "fail" for turn in turns):
        return "worse"
    mended = any(turn.before == "fail" and turn.after == "pass" for turn in turns)
    if verdicts == ("fail", "pass") or mended or any(score.change == "improved" for score in scores):
        return "improved"
    return "no evidence"
