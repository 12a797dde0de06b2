"""The server's memory stays flat: after hundreds of short requests its processes hold about as much as before (`memory`).

Made where the recipe or the command line asks for it, since it takes its time, and where the server's processes run on this machine. It counts
memory of the host, not of a GPU, and sees what grows with every request; what grows with long or with different prompts it does not see.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from toolkit import footprint
from toolkit.engines import engine
from toolkit.engines.chat import Chat
from toolkit.errors import ThinkshipError
from toolkit.verify import Expectations, Finding

QUESTIONS = tuple(f"What is {number} plus {number}?" for number in range(1, 17))
"""Asked round and round: a server may keep the prompts it has seen, and these few it has seen after the warm-up."""
WARM_UP = 0.2
"""Share of the requests that is sent before the first look: caches and allocators fill up."""
LOOKS = 5
"""Looks at the memory during the rest."""


def checks(chat: Chat, expectations: Expectations) -> Iterator[Finding]:
    """Yield the finding `memory` where a soak is asked for."""
    soak = expectations.soak
    if soak is None:
        return
    name = chat.endpoint.engine
    pids = footprint.serving(chat.endpoint.url)
    if not pids:
        yield expectations.skipped("memory", name, "the server's processes are not to be seen on this machine")
        return
    began = time.monotonic()
    try:
        seen = _looks(chat, soak.requests, expectations.parallel)
    except ThinkshipError as error:
        yield expectations.finding(
            "memory", name, status="fail", message=f"{soak.requests} requests are not all answered: {error.message}", remedy=error.remedy
        )
        return
    grown, seconds = seen[-1] - seen[0], time.monotonic() - began
    passed = grown <= soak.growth_at_most
    words = f"{soak.requests} requests in {seconds:.0f} s: memory went from {seen[0]:.0f} to {seen[-1]:.0f} MiB"
    yield expectations.finding(
        "memory",
        name,
        status="pass" if passed else "fail",
        message=words + ("" if passed else f", more than {soak.growth_at_most:g} MiB up"),
        remedy="" if passed else "look for what the server, or a plugin in it, keeps of each request; restart it by schedule until that is mended",
        evidence={"requests": soak.requests, "MiB": [round(value, 1) for value in seen], "growth": round(grown, 1), "limit": soak.growth_at_most},
    )


def _looks(chat: Chat, requests: int, parallel: int) -> list[float]:
    """Send the requests and return the MiB held after the warm-up and after each further part."""
    warm = int(requests * WARM_UP)
    ends = [warm + (requests - warm) * look // LOOKS for look in range(LOOKS + 1)]
    seen = []
    with ThreadPoolExecutor(parallel if engine(chat.endpoint.engine).habits.batches else 1) as pool:
        for start, end in zip((0, *ends), ends, strict=False):
            list(pool.map(lambda number: _one(chat, number), range(start, end)))
            # looked up anew: a server may have replaced a process meanwhile
            seen.append(footprint.private(footprint.serving(chat.endpoint.url)) / (1 << 20))
    return seen


def _one(chat: Chat, number: int) -> None:
    chat.ask([{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}], 1)
