"""gguf.json and compress.json, what these stages measured of their files: held against the limits of the recipe that stand there too, and asked for
the best file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """One figure of a file, the key of its limit in the recipe, and how it is told."""

    figure: str
    limit: str
    words: str
    least: bool = False
    """Whether the limit is a lower one."""

    def breach(self, kind: str, seen: Mapping[str, Any], limits: Mapping[str, Any], section: str) -> str:
        """Say how a file breaks its limit, nothing where it keeps it, has none or was not measured."""
        limit, value = limits.get(self.limit, {}).get(kind), seen.get(self.figure)
        if limit is None or value is None or (value >= limit if self.least else value <= limit):
            return ""
        return f"{self.words} {value:.4f}, {section}/{self.limit}/{kind} allows {limit:g}"


MEASURES = (
    Measure("mean_kl", "max_kl", "mean KL divergence"),
    Measure("top1", "min_top1", "share of the same likeliest token", least=True),
    Measure("perplexity_growth", "max_perplexity_growth", "growth of the perplexity"),
)


def breaches(kind: str, gguf: Mapping[str, Any], section: str = "gguf") -> list[str]:
    """Return how a file breaks its limits, which the recipe states in the named section."""
    seen, limits = gguf["types"].get(kind, {}), gguf.get("limits", {})
    return [words for measure in MEASURES if (words := measure.breach(kind, seen, limits, section))]


def is_limited(kind: str, gguf: Mapping[str, Any]) -> bool:
    """Say whether the recipe has a limit for a file."""
    return any(kind in limits for limits in gguf.get("limits", {}).values())


def recommended(gguf: Mapping[str, Any], size_limit: float | None = None) -> tuple[str | None, str]:
    """Return the type of the best file, and why in a sentence: the nearest to the reference within `size_limit` MB, the smallest good one without.

    A file that breaks a limit is never recommended; without a limit on the size, one that has no limit to keep is not either.
    """
    limit = size_limit if size_limit is not None else gguf.get("size_limit")
    files = {kind: seen for kind, seen in gguf["types"].items() if seen.get("bytes") and seen.get("mean_kl") is not None}
    good = {kind: seen for kind, seen in files.items() if not breaches(kind, gguf)}
    if limit is None:
        known = [kind for kind in good if is_limited(kind, gguf) or kind == gguf.get("reference")]
        best = min(known, key=lambda kind: good[kind]["bytes"], default=None)
        return best, f"{_told(best, good[best])} is the smallest file that keeps the recipe's limits" if best else "no file keeps the recipe's limits"
    fitting = [kind for kind in good if good[kind]["bytes"] <= limit * 1e6]
    best = min(fitting, key=lambda kind: (good[kind]["mean_kl"], good[kind]["bytes"]), default=None)
    if best:
        return best, f"{_told(best, good[best])} is the nearest to 16 bits within {limit:g} MB"
    smallest = min(good, key=lambda kind: good[kind]["bytes"], default=None)
    return None, f"no good file is within {limit:g} MB" + (f"; the smallest is {_told(smallest, good[smallest])}" if smallest else "")


def _told(kind: str, seen: Mapping[str, Any]) -> str:
    return f"{kind} ({seen['bytes'] / 1e6:.0f} MB, KL {seen['mean_kl']:.2g})"
