"""What the rest will take, from the first answers: requests, tokens, time and, where prices are known, cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from toolkit.engines import Answer


@dataclass(frozen=True)
class Prices:
    """What a million tokens cost, in any currency."""

    prompt: float | None = None
    completion: float | None = None

    def of(self, prompt: float, completion: float) -> float | None:
        """Return the cost of so many tokens, None where a price is not known."""
        if self.prompt is None or self.completion is None:
            return None
        return (prompt * self.prompt + completion * self.completion) / 1e6


@dataclass(frozen=True)
class Tokens:
    """Tokens of answers together; `told` is how many of the answers came with a count."""

    answers: int
    told: int
    prompt: int
    completion: int

    @classmethod
    def of(cls, answers: Iterable[Answer]) -> Tokens:
        """Add up what the server told."""
        all_ = tuple(answers)
        told = [answer for answer in all_ if answer.completion_tokens is not None]
        return cls(len(all_), len(told), sum(a.prompt_tokens or 0 for a in told), sum(a.completion_tokens or 0 for a in told))

    def words(self, prices: Prices) -> str:
        """Return them in words, with their cost."""
        if not self.told:
            return "the server tells no token counts"
        cost = prices.of(self.prompt, self.completion)
        return f"{self.prompt:,} prompt + {self.completion:,} completion tokens" + (
            f", cost {cost:,.{2 if cost >= 1 else 4}f}" if cost is not None else ""
        )


@dataclass(frozen=True)
class Estimate:
    """The rest of the work."""

    requests: int
    """At most: a question whose answer is kept early is not asked again."""
    tokens: Tokens
    seconds: float

    def words(self, prices: Prices) -> str:
        """Return it in one line."""
        return f"at most {self.requests:,} more requests: about {self.tokens.words(prices)}, {clock(self.seconds)}"


def rest(measured: Iterable[Answer], requests: int, parallel: int, rate: float | None) -> Estimate | None:
    """Reckon the rest from answers that took as long as the others will, `rate` in requests a minute; None without an answer to go by."""
    known = tuple(measured)
    if not known:
        return None
    seen = Tokens.of(known)
    share = requests / seen.told if seen.told else 0.0
    tokens = Tokens(requests, seen.told, round(seen.prompt * share), round(seen.completion * share))
    working = requests * sum(answer.seconds for answer in known) / len(known) / min(parallel, max(requests, 1))
    return Estimate(requests, tokens, max(working, requests * 60.0 / rate if rate else 0.0))


def clock(seconds: float) -> str:
    """Return a time in the units that a person would say it in."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
