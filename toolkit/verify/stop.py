"""The stop contract: every answer ends by itself, and nothing of the prompt's skeleton leaks into it.

It proves that the end token was learnt and is honoured by the server; it cannot tell an answer that stops too early.
"""

from __future__ import annotations

from toolkit.verify import Expectations, Finding, Reply

REMEDY = "check that the end token was supervised in training and stands in eos_token_id, in the Modelfile's stops and in the GGUF"


def fault(reply: Reply, markers: tuple[str, ...]) -> str:
    """Return how an answer breaks the contract, empty where it keeps it."""
    if reply.error:
        return reply.error
    if reply.finish != "stop":
        tokens = f" after {reply.completion_tokens} tokens" if reply.completion_tokens else ""
        return f"finish_reason {reply.finish}{tokens}"
    leaked = [marker for marker in markers if marker in reply.text or marker in reply.reasoning]
    return f"{', '.join(leaked)} in the answer" if leaked else ""


def check(name: str, expectations: Expectations, replies: list[Reply]) -> Finding:
    """Hold all replies against the contract; the same share must keep it as the think contract."""
    markers = expectations.markers()
    faults = [f"{reply.question} → {problem}" for reply in replies if (problem := fault(reply, markers))]
    good, asked = len(replies) - len(faults), len(replies)
    passed = asked > 0 and good / asked >= expectations.think_at_least
    return Finding(
        name="stop",
        engine=name,
        variant=expectations.variant,
        status="pass" if passed else "fail",
        message=f"{good} of {asked} answers end by themselves and leak no control token",
        remedy="" if passed else REMEDY,
        evidence={"ended": good, "asked": asked, "faults": faults[:5]},
    )
