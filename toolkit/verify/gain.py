"""Before and after: the marks of the base and of the tuned model on the questions that both answered through the same engine.

It proves whether the fine-tune changed how many of these questions are right by more than chance; other kinds of question it knows nothing of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolkit.verify import Finding, Reply, Status
from toolkit.verify.interval import wilson
from toolkit.verify.paired import mcnemar, verdict

STATUS: dict[str, Status] = {"improved": "pass", "no evidence": "skip", "worse": "fail"}
REMEDIES = {
    "improved": "",
    "no evidence": "ask more questions (verify.task.base_questions): five that change for the better and none for the worse are still chance",
    "worse": "look at the training rows and the chat template, train with a lower learning rate, or serve a finer quantisation",
}


def check(
    engine: str, variant: str, before: Sequence[Reply], after: Sequence[Reply], asked: str = "before and after the fine-tune"
) -> Finding | None:
    """Return the verdict on one endpoint, None where no question was answered and marked on both sides; `asked` says when.

    Without evidence the check is skipped and not required: whether that is enough is the recipe's to say, by verify.task.at_least.
    """
    marks = paired(before, after)
    if not marks:
        return None
    gained, lost = sum(new and not old for old, new in marks), sum(old and not new for old, new in marks)
    found, p = verdict(gained, lost), mcnemar(gained, lost)
    was, became = (_share([pair[side] for pair in marks]) for side in (0, 1))
    return Finding(
        name="gain",
        engine=engine,
        variant=variant,
        status=STATUS[found],
        required=found != "no evidence",
        message=f"{found}: of {len(marks)} questions asked {asked}, {_words(became)} right after and {_words(was)} before;"
        f" {gained} gained, {lost} lost (McNemar's exact p {p:.2g})",
        remedy=REMEDIES[found],
        evidence={"verdict": found, "questions": len(marks), "gained": gained, "lost": lost, "p": p, "before": was, "after": became},
    )


def paired(before: Sequence[Reply], after: Sequence[Reply]) -> list[tuple[bool, bool]]:
    """Return the two marks of each question that both sides answered."""
    old = {reply.question: reply.right for reply in before if not reply.error and reply.right is not None}
    return [(bool(old[reply.question]), reply.right) for reply in after if not reply.error and reply.right is not None and reply.question in old]


def _share(marks: Sequence[bool]) -> dict[str, Any]:
    return {"right": sum(marks), "interval": [round(edge, 4) for edge in wilson(sum(marks), len(marks))]}


def _words(share: dict[str, Any]) -> str:
    low, high = share["interval"]
    return f"{share['right']} (95 % interval {low:.0%} to {high:.0%})"
