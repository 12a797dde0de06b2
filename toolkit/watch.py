"""Repeats the health probe, counts what it saw, and says when a model stops answering or thinking and when it comes back."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NoReturn

from toolkit import console, gpus
from toolkit.gpus import Gpu
from toolkit.health import Health

OUTCOMES = {0: "thinks", 4: "no_answer", 6: "no_thinking"}
"""What a probe can end as, by its exit code."""


@dataclass(frozen=True)
class Seen:
    """What all probes so far showed; a value, so that the page's thread never reads half of it."""

    last: Health | None = None
    counts: Mapping[str, int] = field(default_factory=lambda: MappingProxyType(dict.fromkeys(OUTCOMES.values(), 0)))
    failures: int = 0
    """Probes in a row without an answer that thinks."""
    last_success: float | None = None
    """Unix time of the last answer that thinks."""
    failing_since: float | None = None
    """Unix time of the first of these failures."""
    gpus: tuple[Gpu, ...] = ()
    """The GPUs of the machine that watches, which is the server's own where it runs beside it."""

    def after(self, found: Health, now: float) -> Seen:
        """Return what is seen after one more probe, made at `now` in Unix time."""
        outcome = OUTCOMES[found.code]
        counts = MappingProxyType({**self.counts, outcome: self.counts[outcome] + 1})
        if found.thinks:
            return Seen(found, counts, 0, now)
        return Seen(found, counts, self.failures + 1, self.last_success, now if self.failing_since is None else self.failing_since)

    def told(self, found: Health, now: float) -> str:
        """Return in words what one more probe changes, empty where it is as the one before."""
        if self.last and self.last.code == found.code:
            return ""
        if found.thinks:
            after = f", after {self.failures} failed probes in {now - (self.failing_since or now):.0f} s" if self.failures else ""
            return f"answers and thinks{' again' if self.last_success else ''}{after}"
        if found.answers:
            return "STOPPED THINKING: answers without reasoning" if self.last and self.last.thinks else "answers, but does not think"
        return f"{'STOPPED ANSWERING' if self.last else 'does not answer'}: {found.message}"


class Watch:
    """Probes of one endpoint, one after the other, and what they showed."""

    def __init__(self, probe: Callable[[], Health]) -> None:
        self._probe, self.seen = probe, Seen()

    def once(self) -> None:
        """Probe, say what changed, and count."""
        found, now = self._probe(), time.time()
        words = self.seen.told(found, now)
        self.seen = replace(self.seen.after(found, now), gpus=gpus.seen())
        if words:
            console.say(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC  {found.model or 'the model'} {words}")

    def forever(self, every: float) -> NoReturn:
        """Probe every `every` seconds from start to start; one that takes longer is followed at once by the next."""
        while True:
            began = time.monotonic()
            self.once()
            time.sleep(max(0.0, every - (time.monotonic() - began)))


@contextmanager
def until_told() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the block, and nothing else of the program."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
