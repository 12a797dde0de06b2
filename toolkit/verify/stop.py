"""The stop contract: every answer ends by itself and not before its end, and nothing of the prompt's skeleton leaks into it.

It proves that the end token was learnt and is honoured by the server. That an answer stops too early is told where it is the beginning, word for
word, of what the data set or the merged model itself answers; of an answer in words of its own it cannot be told.
"""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.verify import Expectations, Finding, Reply

REMEDY = "check that the end token was supervised in training and stands in eos_token_id, in the Modelfile's stops and in the GGUF"
CUT = "look for a stop text in the Modelfile, the server's settings or a proxy that stands in good answers too"


def fault(reply: Reply, markers: tuple[str, ...], whole: tuple[str, ...] = ()) -> str:
    """Return how an answer breaks the contract, empty where it keeps it; `whole` are answers to the question, without tags and white space."""
    if reply.error:
        return reply.error
    if reply.finish != "stop":
        tokens = f" after {reply.completion_tokens} tokens" if reply.completion_tokens else ""
        return f"finish_reason {reply.finish}{tokens}"
    leaked = [marker for marker in markers if marker in reply.text or marker in reply.reasoning]
    if leaked:
        return f"{', '.join(leaked)} in the answer"
    said = bare(reply.reasoning + reply.text)
    longer = next((text for text in whole if text.startswith(said) and text != said), "")
    return f"cut before {longer[len(said) :][:20]!r}" if longer and said not in whole else ""


def bare(text: str, *tags: str) -> str:
    """Return a text without white space and without these tags."""
    for tag in tags:
        text = text.replace(tag, "")
    return "".join(text.split())


def wholes(expectations: Expectations) -> Mapping[str, tuple[str, ...]]:
    """Return for each question the answers that are known: the data set's, and the beginning of the merged model's."""
    tags = (expectations.think.open, expectations.think.close, *expectations.markers())
    known: dict[str, tuple[str, ...]] = {}
    for question in expectations.questions:
        known[question.text] = (bare(question.completion, *tags),) if question.completion else ()
    for probe in expectations.probes:
        known[probe.question] = (*known.get(probe.question, ()), bare("".join(token for token, _ in probe.wanted), *tags))
    return known


def check(name: str, expectations: Expectations, replies: list[Reply]) -> Finding:
    """Hold all replies against the contract; the same share must keep it as the think contract."""
    markers, known = expectations.markers(), wholes(expectations)
    faults = [f"{reply.question} → {problem}" for reply in replies if (problem := fault(reply, markers, known.get(reply.question, ())))]
    good, asked = len(replies) - len(faults), len(replies)
    passed = asked > 0 and good / asked >= expectations.think_at_least
    cut = sum("→ cut before" in line for line in faults)
    return expectations.finding(
        "stop",
        name,
        status="pass" if passed else "fail",
        message=f"{good} of {asked} answers end by themselves and leak no control token" + (f"; {cut} stop too early" if cut else ""),
        remedy="" if passed else CUT if cut else REMEDY,
        evidence={"ended": good, "asked": asked, "faults": faults[:5]},
    )
