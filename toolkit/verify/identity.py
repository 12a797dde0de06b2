"""The identity contract: what is served is the merged model, to within what its quantisation may change.

The merge stage leaves the merged model's own greedy answers with the log-probability of each token (images/train/probes.py). The endpoint is
asked the same: its tokens must be the same up to late and few departures, and where they are, about as probable. It proves that these weights,
this tokenizer and this prompt are in the server; an adapter left out shows as the base's own answers. It cannot see a change that moves
no likely token, and it does not run where a server tells no tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from toolkit.engines.chat import Chat
from toolkit.errors import ThinkshipError
from toolkit.recipe import Think
from toolkit.verify import Expectations, Finding, Probe, Tokens

FILE = "probes.jsonl"
COARSE = ("q4_k_m", "bnb-nf4", "bnb-nf4-stored", "w4a16")
EQUAL, EQUAL_COARSE = 0.8, 0.5
"""Least shares of equal tokens unless the recipe names others: a real model is unsure of some tokens, and one that differs ends the comparison."""
DISTANCE, DISTANCE_COARSE = 0.05, 0.2
"""Largest mean distances in nats unless the recipe names others; another model of the same family lies above 0.25, the same one at another
quantisation within 0.07.
"""


@dataclass(frozen=True)
class Match:
    """How far an endpoint's answer goes along with a probe."""

    equal: int
    """Leading tokens that are the merged model's."""
    wanted: int
    as_base: int
    """Leading tokens that are the base's."""
    distance: float
    """Sum over the equal tokens of the distance of log-probabilities."""


def read(folder: Path) -> tuple[Probe, ...]:
    """Read what the merge stage left, nothing where there is none."""
    path = folder / FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines]
    return tuple(Probe(row["question"], tuple(zip(row["tokens"], row["logprobs"], strict=True)), tuple(row["base_tokens"])) for row in rows)


def check(name: str, expectations: Expectations, chat: Chat) -> Finding:
    """Ask every probe and hold the answers against the merged model's."""
    if not expectations.probes:
        return expectations.skipped("identity", name, "no answers of the merged model were given to compare with")
    try:
        said = _asked(chat, expectations)
    except ThinkshipError as error:
        return expectations.finding(
            "identity", name, status="fail", message=f"the server cannot be asked for its tokens: {error.message}", remedy=error.remedy
        )
    if not any(said):
        return expectations.skipped("identity", name, "the server tells no tokens with their log-probabilities")
    return _judged(name, expectations, [match(probe, tokens, expectations.think) for probe, tokens in zip(expectations.probes, said, strict=True)])


def _asked(chat: Chat, expectations: Expectations) -> list[Tokens]:
    def one(probe: Probe) -> Tokens:
        return chat.tokens([{"role": "user", "content": probe.question}], len(probe.wanted))

    with ThreadPoolExecutor(expectations.parallel) as pool:
        return list(pool.map(one, expectations.probes))


def match(probe: Probe, answer: Tokens, think: Think) -> Match:
    """Compare an answer with a probe up to the first token that differs; tags and white space aside, which Ollama leaves out with the tag."""
    said, wanted = ([pair for pair in tokens if _is_spoken(pair[0], think)] for tokens in (answer, probe.wanted))
    equal = _common((token for token, _ in said), (token for token, _ in wanted))
    distance = sum(abs(mine[1] - theirs[1]) for mine, theirs in zip(said[:equal], wanted, strict=False))
    base = (token for token in probe.base if _is_spoken(token, think))
    return Match(equal, len(wanted), _common((token for token, _ in said), base), distance)


def _is_spoken(token: str, think: Think) -> bool:
    return bool(token.strip()) and token.strip() not in (think.open, think.close)


def _common(one: Iterable[str], other: Iterable[str]) -> int:
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def allowed(expectations: Expectations) -> tuple[float, float]:
    """Return the least share of equal tokens and the largest distance for the variant that is served."""
    variant, coarse = expectations.quantization, expectations.quantization in COARSE
    equal = expectations.identity.equal.get(variant, EQUAL_COARSE if coarse else EQUAL)
    return equal, expectations.identity.distance.get(variant, DISTANCE_COARSE if coarse else DISTANCE)


def _judged(name: str, expectations: Expectations, matches: list[Match]) -> Finding:
    equal, wanted = sum(found.equal for found in matches), sum(found.wanted for found in matches)
    share, apart = equal / max(1, wanted), sum(found.distance for found in matches) / max(1, equal)
    least, most = allowed(expectations)
    passed = share >= least and apart <= most
    like_base = sum(found.as_base for found in matches) > equal
    seen = f"{share:.0%} of {wanted} greedy tokens are the merged model's, their log-probabilities {apart:.4f} nats apart"
    return expectations.finding(
        "identity",
        name,
        status="pass" if passed else "fail",
        message=f"{seen}; it answers as the base does: the adapter is not in it" if like_base else seen,
        remedy="" if passed else _remedy(like_base),
        evidence={"equal": round(share, 4), "tokens": wanted, "distance": round(apart, 5), "least": least, "most": most},
    )


def _remedy(like_base: bool) -> str:
    if like_base:
        return "serve the merge step's directory, or the GGUF that was made of it"
    return "serve the file that the recipe names, with its own tokenizer and template; a coarser quantisation than the recipe's shows like this too"
