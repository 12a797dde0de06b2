"""An estimate is a sum of named terms, each with its source, so that it can be read, checked and corrected term by term."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.fit import GIB


@dataclass(frozen=True)
class Term:
    """One part of the memory."""

    name: str
    bytes: float
    source: str


@dataclass(frozen=True)
class Estimate:
    """What a program holds at most."""

    terms: tuple[Term, ...]
    """What the program itself allocates; torch's `max_memory_allocated` where torch does."""
    outside: tuple[Term, ...] = ()
    """What comes on top on the card: CUDA's context and the allocator's unused rest."""

    @property
    def allocated(self) -> float:
        """Bytes of the program's own."""
        return sum(term.bytes for term in self.terms)

    @property
    def total(self) -> float:
        """Bytes of the card, as nvidia-smi counts them."""
        return self.allocated + sum(term.bytes for term in self.outside)

    def __str__(self) -> str:
        """Return the sum and its terms in GiB, the large ones first."""
        parts = sorted((*self.terms, *self.outside), key=lambda term: -term.bytes)
        shown = ", ".join(f"{term.name} {gib(term.bytes)}" for term in parts if term.bytes >= 0.05 * GIB)
        return f"{gib(self.total)} GiB" + (f" ({shown})" if shown else "")


def gib(size: float) -> str:
    """Return bytes in GiB with as many digits as matter."""
    return f"{size / GIB:.1f}" if size >= GIB else f"{size / GIB:.2f}"
