"""Requests out of the ordinary, sent side by side where the server answers side by side: what only some clients ask for, or only once a week."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from toolkit.engines import engine
from toolkit.engines.chat import Chat
from toolkit.errors import ThinkshipError
from toolkit.verify import Expectations, Finding, Reply, characters, context, ends, injection, quoting, switch, tokens, truncation

Edge = Callable[[Chat, Expectations, Sequence[Reply]], Finding]
EDGES: dict[str, Edge] = {
    "truncation": truncation.check,
    "quoting": quoting.check,
    "switch": switch.check,
    "characters": characters.check,
    "ends": ends.check,
    "tokens": tokens.check,
    "injection": injection.check,
    "context": context.check,
}


def checks(chat: Chat, expectations: Expectations, replies: Sequence[Reply]) -> list[Finding]:
    """Return a finding of each check, failed where its requests are not answered."""

    def one(name: str) -> Finding:
        try:
            return EDGES[name](chat, expectations, replies)
        except ThinkshipError as error:
            return expectations.finding(name, chat.endpoint.engine, status="fail", message=error.message, remedy=error.remedy)

    width = len(EDGES) if engine(chat.endpoint.engine).habits.batches else 1
    with ThreadPoolExecutor(min(width, max(expectations.parallel, 1))) as pool:
        return list(pool.map(one, EDGES))
