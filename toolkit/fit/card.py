"""A graphics card: by name, by its memory alone, or the one that nvidia-smi sees here."""

from __future__ import annotations

import difflib
import json
import re
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from toolkit import process
from toolkit.errors import UsageError
from toolkit.fit import MIB

CARDS = Path(__file__).with_name("cards.json")
AMOUNT = re.compile(r"^(\d+(?:\.\d+)?)\s*(GiB|GB|G)$", re.IGNORECASE)
SPARE, SPARE_LEAST = 0.06, 512 * MIB
"""What is left free of a card: a display, another process's context, the estimate's own error."""
FP8, FP8_WEIGHTS, BITSANDBYTES, INTEGERS = 8.9, 7.5, 7.0, 7.5
"""Least compute capabilities: to compute in FP8; to hold weights in it, which Marlin kernels widen again (vLLM, docs/features/quantization);
for bitsandbytes in vLLM; for its integer kernels (w4a16, int8)."""
DRIVER = 580
"""Least NVIDIA driver of the locked environments: their torch is built for CUDA 13 (requirements.lock, nvidia-cuda-runtime 13.0)."""
QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,compute_cap,driver_version", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Card:
    """One card; what is not known of it is None."""

    name: str
    memory: int
    """Bytes, all of it."""
    capability: float | None = None
    bandwidth: float | None = None
    """Of its memory, bytes a second."""
    flops: float | None = None
    """Dense bf16 operations a second, as published."""
    driver: str = ""

    @property
    def usable(self) -> int:
        """Bytes that may be planned with."""
        return self.memory - max(int(self.memory * SPARE), SPARE_LEAST)

    @property
    def driver_too_old(self) -> bool:
        """Whether its driver cannot run the locked environments."""
        major = self.driver.partition(".")[0]
        return major.isdigit() and int(major) < DRIVER

    def __str__(self) -> str:
        """Return its name and memory."""
        return f"{self.name} ({self.memory / (1 << 30):.1f} GiB)"


def named(text: str) -> Card:
    """Return a card by name, as `RTX 4090`, or by memory, as `24GiB`; UsageError with the nearest name where it is not known.

    Card makers write GB and mean GiB, so both are read as GiB.
    """
    amount = AMOUNT.match(text.strip())
    if amount:
        return Card(f"card of {amount[1]} GiB", int(float(amount[1]) * (1 << 30)))
    found = _match(text)
    if found:
        return found
    near = difflib.get_close_matches(text, _table(), 1, 0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(f"no card is known as {text!r}", f"{hint}name its memory, as 24GiB, or one of {', '.join(_table())}")


def smaller(stated: str | None, machine: Card | None) -> Card | None:
    """Return the card to plan for: the one that a recipe states, unless the machine's has less memory."""
    found = [card for card in (named(stated) if stated else None, machine) if card]
    return min(found, key=lambda card: card.memory, default=None)


def checked(text: str) -> str:
    """Return a card's name as it is; ValueError where it is not known, for a recipe's own check."""
    try:
        named(text)
    except UsageError as error:
        raise ValueError(f"{error.message}: {error.remedy}") from error
    return text


def _match(text: str) -> Card | None:
    """Find the card whose name's words all stand in the text; the one with the most words wins, then the nearest in length."""
    words = _words(text)
    if words & {"laptop", "mobile"}:  # another card under the same name, with less memory
        return None
    fitting = [card for card in _table().values() if _words(card.name) <= words]
    return max(fitting, key=lambda card: (len(_words(card.name)), len(card.name)), default=None) or _only(words)


def _only(words: frozenset[str]) -> Card | None:
    """Return the one card whose name holds all the words: `A100` is two cards, `H100` is one."""
    holding = [card for card in _table().values() if words <= _words(card.name)]
    return holding[0] if words and len(holding) == 1 else None


def _words(text: str) -> frozenset[str]:
    plain = re.sub(r"(\d+)\s*(?:GiB|GB)", r"\1gb", text, flags=re.IGNORECASE)
    return frozenset(re.findall(r"[a-z0-9]+", plain.lower())) - {"nvidia", "geforce", "tesla"}


@cache
def _table() -> dict[str, Card]:
    rows = json.loads(CARDS.read_text(encoding="utf-8"))["cards"]
    return {name: Card(name, row["mib"] * MIB, row["capability"], row["bandwidth"] * 1e9, row["tflops"] * 1e12) for name, row in rows.items()}


def present() -> tuple[Card, ...]:
    """Return the cards that nvidia-smi sees on this machine; none where it is missing or fails."""
    if not shutil.which(QUERY[0]):
        return ()
    seen = process.run(process.Command(QUERY), timeout=20, check=False)
    return tuple(_seen(line) for line in seen.output.splitlines() if line.count(",") == 3) if seen.code == 0 else ()


def _seen(line: str) -> Card:
    name, memory, capability, driver = (part.strip() for part in line.split(","))
    known = _match(name)
    return Card(
        name,
        int(float(memory)) * MIB,
        float(capability),
        known.bandwidth if known else None,
        known.flops if known else None,
        driver,
    )
