"""Which samples are still worth asking: never more at a time than a question still lacks, so that no answer is paid for and thrown away."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable

from toolkit.making import Item, Unit


class Agenda:
    """The units to ask, in their order; `settled` says of a unit whether its answer is kept, None where it has none yet."""

    def __init__(self, items: Iterable[Item], samples: int, keep: int, settled: Callable[[Unit], bool | None]) -> None:
        self._later: dict[Item, deque[Unit]] = {}
        first: list[tuple[int, Unit]] = []
        for item in items:
            marks = {unit: settled(unit) for unit in (Unit(item, sample) for sample in range(samples))}
            lacking = max(0, keep - sum(mark is True for mark in marks.values()))
            waiting = deque(unit for unit, mark in marks.items() if mark is None) if lacking else deque()
            first += [(number, waiting.popleft()) for number in range(min(lacking, len(waiting)))]
            self._later[item] = waiting
        # every question once, then every question again
        self._ready = deque(unit for _, unit in sorted(first, key=lambda pair: pair[0]))
        self._open = Counter(unit.item for unit in self._ready)
        self.most = len(self._ready) + sum(map(len, self._later.values()))
        """How many units may become answers yet, those under way counted."""

    def next(self) -> Unit | None:
        """Return the next unit to ask, None where there is none now."""
        return self._ready.popleft() if self._ready else None

    def settle(self, unit: Unit, kept: bool) -> None:
        """Take note of what became of a unit: one that is not kept makes room for another sample of its question."""
        later = self._later[unit.item]
        self._open[unit.item] -= 1
        self.most -= 1
        if not kept and later:
            self._ready.append(later.popleft())
            self._open[unit.item] += 1
        elif not self._open[unit.item]:  # enough are kept, or none is left to try
            self.most -= len(later)
            later.clear()

    def close(self) -> None:
        """Ask nothing more."""
        self.most -= len(self._ready) + sum(map(len, self._later.values()))
        self._ready.clear()
        self._later = {item: deque() for item in self._later}
