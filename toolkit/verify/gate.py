"""Every check of a live endpoint: those that only ask go side by side where the server answers side by side, those that load it alone.

Alone go the ones that send it nonsense, many streams at once, hang up on it or measure it: beside them another check's answers could be late or
lost, and the fault would have the wrong name. So does the one of several adapters: what lies in the server's caches must be what it put there.
So does the one that has a text's tokens scored: vLLM 0.32 with adapters beside the base ends on a CPU where such a request shares a batch
(punica_cpu.py, add_lora_logits).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from toolkit.engines import engine
from toolkit.engines.chat import Chat
from toolkit.verify import (
    Expectations,
    Finding,
    Reply,
    adapters,
    bad_requests,
    edges,
    fidelity,
    hardware,
    identity,
    memory,
    prompt,
    settings,
    stop,
    streams,
    task,
    think,
    usage,
)
from toolkit.verify import endpoint as operations

Check = Callable[[], Iterable[Finding]]


def findings(chat: Chat, expectations: Expectations, replies: Sequence[Reply]) -> Iterator[Finding]:
    """Yield the finding of each check, in one order whoever is done first; errors as `Chat.ask`, of the first check that has one."""
    endpoint, answers = chat.endpoint, list(replies)
    name = endpoint.engine
    yield from side_by_side(
        name,
        (
            lambda: [think.check(name, expectations, answers, chat)],
            lambda: [stop.check(name, expectations, answers)],
            lambda: [prompt.check(name, expectations, chat)],
            lambda: [identity.check(name, expectations, chat)],
            lambda: [task.check(name, expectations, answers)],
            lambda: [usage.check(name, expectations, answers, chat)],
            lambda: edges.checks(chat, expectations, answers),
            lambda: settings.checks(chat, expectations),
        ),
    )
    yield from adapters.checks(chat, expectations)
    yield from operations.checks(endpoint, expectations)
    yield bad_requests.check(endpoint, expectations)
    yield streams.concurrency(chat, expectations, answers)
    yield streams.cancellation(chat, expectations)
    yield fidelity.check(chat, expectations)
    yield hardware.check(endpoint, expectations, answers)
    yield from memory.checks(chat, expectations)


def side_by_side(name: str, checks: Sequence[Check]) -> Iterator[Finding]:
    """Yield what the checks find, in their order; an engine that answers one request after the other gets one check after the other."""
    with ThreadPoolExecutor(len(checks) if engine(name).habits.batches else 1) as pool:
        for found in pool.map(lambda check: list(check()), checks):
            yield from found
