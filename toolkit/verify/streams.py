"""Many streams at once: each answers its own question (`concurrency`), and one that is hung up on gives its place back (`cancellation`).

A stream counts as mixed where it is far nearer to the known answer of another question than to its own, or holds many words that only the
other one's answer has. Small differences, as batching makes them, are none. That a place is free again is seen by how soon the next
requests are answered; where an abandoned answer would have ended within that time by itself, nothing is proven.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from difflib import SequenceMatcher
from functools import partial
from threading import Barrier
from typing import TypeVar

from toolkit.engines import Answer, engine
from toolkit.engines.chat import Chat
from toolkit.errors import FailedError, ThinkshipError
from toolkit.verify import Expectations, Finding, Reply

TOKENS = 16
"""Length of the streams that are compared."""
MOST = 16
"""Most streams at once."""
FOREIGN = 1 / 3
"""Share of words that only another question's answer has, from which a stream counts as mixed."""
GRACE = 5.0
"""Seconds by which requests after abandoned streams may be later than three times the usual."""
LONG = "Count from 1 to 1000, each number in words."

Given = TypeVar("Given")
Got = TypeVar("Got")


def concurrency(chat: Chat, expectations: Expectations, replies: Sequence[Reply]) -> Finding:
    """Ask some of the answered questions again, as streams that start together."""
    finding = _maker("concurrency", chat, expectations)
    known = list({reply.question: reply for reply in replies if not reply.error}.values())[: _width(chat, expectations)]
    if len(known) < 2:
        return finding(status="skip", required=False, message="there are not two answered questions to ask at once")
    began = time.monotonic()
    streams = _together(lambda reply: _stream(chat, reply.question), known)
    seconds = time.monotonic() - began
    if not any(map(_said, streams)):
        return finding(status="skip", required=False, message=f"the first {TOKENS} tokens of a stream hold no text to compare")
    faults = [f"{reply.question} → {fault}" for reply, stream in zip(known, streams, strict=True) if (fault := _fault(reply, stream, known))]
    return finding(
        status="fail" if faults else "pass",
        message=f"{len(known) - len(faults)} of {len(known)} streams at once answer their own question" + (f"; {faults[0]}" if faults else ""),
        remedy="serve one request at a time (serve.parallel: 1) until the server, or the proxy before it, is mended" if faults else "",
        evidence={"streams": len(known), "seconds": round(seconds, 2), "faults": faults[:5]},
    )


def _stream(chat: Chat, question: str) -> Answer | ThinkshipError:
    try:
        return chat.stream([{"role": "user", "content": question}], TOKENS)
    except ThinkshipError as error:  # even a refused connection tells here only that so many are too many
        return error


def _fault(asked: Reply, stream: Answer | ThinkshipError, known: Sequence[Reply]) -> str:
    """Return how a stream breaks the contract, empty where it is its own question's."""
    if isinstance(stream, ThinkshipError):
        return stream.message
    said, own = _said(stream), _said(asked)
    for other in known:
        theirs = _said(other)
        if _distance(said, theirs) < _distance(said, own) / 2 or _is_foreign(said, own, theirs):
            return f"{said[:80]!r}, which belongs to {other.question!r}"
    return ""


def _said(answer: Answer | Reply | ThinkshipError) -> str:
    if isinstance(answer, ThinkshipError):
        return answer.message
    return " ".join(f"{answer.reasoning} {answer.text}".split())


def _distance(said: str, whole: str) -> float:
    """Return 0 for the beginning of an answer to 1 for something else altogether."""
    return 1 - SequenceMatcher(None, said, whole[: len(said)], autojunk=False).ratio()


def _is_foreign(said: str, own: str, theirs: str) -> bool:
    """Say whether many words of a stream are another answer's alone."""
    words, mine, other = said.split(), set(own.split()), set(theirs.split())
    return sum(word in other and word not in mine for word in words) >= max(len(words) * FOREIGN, 3)


def cancellation(chat: Chat, expectations: Expectations, grace: float = GRACE) -> Finding:
    """Hang up on as many long streams as are answered at once, and ask as many short questions then."""
    finding, width = _maker("cancellation", chat, expectations), _width(chat, expectations)
    extra = dict(engine(chat.endpoint.engine).habits.endless)
    remedy = "let the server, and the proxy before it, end an answer whose client has gone"
    try:
        before = _seconds(chat, width)
        seen = _together(lambda _: chat.abandon([{"role": "user", "content": LONG}], 2, extra), range(width))
    except FailedError as error:
        return finding(status="fail", message=f"{width} streams at once are not answered: {error.message}", remedy=error.remedy)
    if min(seen) < 2:
        return finding(status="skip", required=False, message="a stream comes in one piece and cannot be hung up on")
    limit = 3 * before + grace
    try:
        with replace(chat, timeout=min(chat.timeout, limit)) as hurried:
            after = _seconds(hurried, width)
    except FailedError as error:
        return finding(status="fail", message=f"after {width} abandoned streams, {width} requests: {error.message}", remedy=remedy)
    return finding(
        status="pass",
        message=f"after {width} abandoned streams {width} requests are answered in {after:.1f} s, before them in {before:.1f} s",
        evidence={"abandoned": width, "before": round(before, 2), "after": round(after, 2), "limit": round(limit, 2)},
    )


def _seconds(chat: Chat, width: int) -> float:
    """Return how long it takes to answer short requests at once."""
    began = time.monotonic()
    _together(lambda number: chat.ask([{"role": "user", "content": f"What is {number} plus 1?"}], 2), range(width))
    return time.monotonic() - began


def _together(call: Callable[[Given], Got], given: Sequence[Given]) -> list[Got]:
    """Call once a value, all started at one moment, and return the results in order."""
    start = Barrier(len(given))

    def one(value: Given) -> Got:
        start.wait()
        return call(value)

    with ThreadPoolExecutor(len(given)) as pool:
        return list(pool.map(one, given))


def _width(chat: Chat, expectations: Expectations) -> int:
    """Return how many streams are sent at once: as many as the server answers at once, and two where it answers one after the other."""
    return min(max(expectations.parallel, 2), MOST) if engine(chat.endpoint.engine).habits.batches else 2


def _maker(name: str, chat: Chat, expectations: Expectations) -> Callable[..., Finding]:
    return partial(expectations.finding, name, chat.endpoint.engine)
