"""Observations as a serve step leaves them, small enough to be read in a test."""

from __future__ import annotations

from toolkit.assessment import Task, Verify
from toolkit.verify import Finding, Reply
from toolkit.verify.judge import REQUIRED, Observation
from toolkit.verify.observe import Observed

TASK = Verify(task=Task(at_least=0.9, base_at_most=0.2))


def observation(
    engine: str = "llamacpp", variant: str = "f16", base: bool = False, answers: tuple[str, ...] = ("4", "5"), without: str = ""
) -> Observation:
    replies = tuple(Reply(question=f"q{n}", expected="4", text=text, reasoning="R", right=text == "4") for n, text in enumerate(answers))
    names = () if base else tuple(name for name in (*REQUIRED, "task") if name != without)
    findings = tuple(Finding(name=name, engine=engine, variant=variant, status="pass", message="seen") for name in names)
    endpoint = Observed(
        engine=engine,
        variant=variant,
        base=base,
        model="m",
        version="1",
        template="t",
        asked=len(replies),
        thinking=len(replies),
        right=sum(bool(reply.right) for reply in replies),
        tokens=20,
        seconds=2.0,
    )
    return Observation(endpoint, findings, replies)
