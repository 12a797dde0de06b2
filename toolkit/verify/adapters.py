"""Several adapters on one base: each answers as itself, asked in turn and all at once (`adapters`).

Every adapter's reference (images/train/reference.py) holds what base and adapter say to the same held-out questions. Each question is put to one
adapter after the other, then all questions to all adapters together, so that batches mix them and each finds in the server's caches what another
one's prompt left there. It proves that each name, or number, leads to its own adapter and that none colours another's answers; of two adapters
whose references are alike nothing can be told, and the finding says so. It does not prove this of more adapters at once than the server's slots,
nor of the base, which vLLM serves beside them under a name of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import combinations, zip_longest
from typing import Any

from toolkit.engines import engine
from toolkit.engines.chat import Chat
from toolkit.errors import ThinkshipError
from toolkit.verify import Expectations, Finding, Probe
from toolkit.verify.identity import Match, allowed, match

Voices = Mapping[str, tuple[Probe, ...]]
"""The name of each adapter with what it says; the recipe's own comes first."""
REMEDY = (
    "give each name its own adapter; where one colours another, let no prompt be cached across adapters (llama.cpp: --cache-ram 0 and "
    "cache_prompt: false; vLLM: --no-enable-prefix-caching), or serve each from a server of its own"
)
UNTOLD = "leave enough memory for the merge stage to ask the merged model"


@dataclass(frozen=True)
class Heard:
    """One adapter's answer to one question."""

    name: str
    match: Match
    stranger: str
    """The other adapter whose answer it is rather than its own, empty where there is none."""


def checks(chat: Chat, expectations: Expectations) -> Iterator[Finding]:
    """Yield the finding `adapters` where further adapters are served."""
    if not expectations.adapters:
        return
    name = chat.endpoint.engine
    voices = {chat.endpoint.model: expectations.probes, **expectations.adapters}
    silent = [one for one, probes in voices.items() if not probes]
    if silent:
        message = f"there are no answers of {', '.join(silent)} to compare with"
        yield expectations.finding("adapters", name, status="skip", message=message, remedy=UNTOLD)
        return
    try:
        widths = {"in turn": 1, "at once": max(expectations.parallel, 2)}
        rounds = {when: _heard(chat, expectations, voices, width) for when, width in widths.items()}
    except ThinkshipError as error:
        message = f"not every adapter can be asked for its tokens: {error.message}"
        yield expectations.finding("adapters", name, status="fail", message=message, remedy=error.remedy or REMEDY)
        return
    yield _judged(name, expectations, voices, rounds)


def _heard(chat: Chat, expectations: Expectations, voices: Voices, width: int) -> list[Heard]:
    """Ask `width` questions at once: the first question of every adapter, then the second of every one, and so on."""
    names, known = tuple(voices), engine(chat.endpoint.engine)
    asked = [(name, probe) for row in zip_longest(*voices.values()) for name, probe in zip(names, row, strict=True) if probe]
    with ExitStack() as stack:
        chats = {one: stack.enter_context(replace(chat, endpoint=known.addressed(chat.endpoint, names, one))) for one in names}

        def ask(pair: tuple[str, Probe]) -> Heard:
            name, probe = pair
            answer = chats[name].tokens([{"role": "user", "content": probe.question}], len(probe.wanted))
            others = {other: same for other, probes in voices.items() if other != name for same in probes if same.question == probe.question}
            matches = {other: match(same, answer, expectations.think) for other, same in others.items()}
            mine = match(probe, answer, expectations.think)
            return Heard(name, mine, _stranger(mine, matches, allowed(expectations)[0]))

        with ThreadPoolExecutor(width) as pool:
            return list(pool.map(ask, asked))


def _stranger(mine: Match, others: Mapping[str, Match], least: float) -> str:
    """Return whose answer it is rather than the adapter's own: the greater part of what another says from where the two part.

    Where rounding chose another word, an answer may go along with another adapter's for a little; that tells nothing.
    """
    nearest = max(others, key=lambda other: others[other].equal, default="")
    further = others[nearest].equal - mine.equal if nearest else 0
    return nearest if further > 0 and further >= least * (others[nearest].wanted - mine.equal) else ""


def _judged(name: str, expectations: Expectations, voices: Voices, rounds: Mapping[str, list[Heard]]) -> Finding:
    least, most = allowed(expectations)
    seen = {f"{one} {when}": _shares(heard, one) for one in voices for when, heard in rounds.items()}
    faults = [f"{found.name} answers as {found.stranger} {when}" for when, heard in rounds.items() for found in heard if found.stranger]
    faults += [
        f"{one}: {share:.0%} of the greedy tokens are its own, {apart:.4f} nats apart"
        for one, (share, apart) in seen.items()
        if share < least or apart > most
    ]
    faults = list(dict.fromkeys(faults))
    alike = [f"{one} and {other}" for one, other in combinations(voices, 2) if _alike(voices[one], voices[other])]
    told = "; ".join(f"{one} {share:.0%}" for one, (share, _) in seen.items())
    unsure = f"; {', '.join(alike)} answer alike, so that neither could be taken for the other here" if alike else ""
    return expectations.finding(
        "adapters",
        name,
        status="fail" if faults else "pass",
        message=("; ".join(faults[:4]) if faults else f"{len(voices)} adapters on one base answer as themselves: {told}") + unsure,
        remedy=REMEDY if faults else "",
        evidence=_evidence(seen, faults, least, most),
    )


def _shares(heard: list[Heard], name: str) -> tuple[float, float]:
    """Return the share of equal tokens of one adapter, and how far apart their log-probabilities are on average."""
    mine = [found.match for found in heard if found.name == name]
    equal = sum(found.equal for found in mine)
    return equal / max(1, sum(found.wanted for found in mine)), sum(found.distance for found in mine) / max(1, equal)


def _alike(one: tuple[Probe, ...], other: tuple[Probe, ...]) -> bool:
    theirs = {probe.question: tuple(token for token, _ in probe.wanted) for probe in other}
    return all(theirs.get(probe.question, ()) == tuple(token for token, _ in probe.wanted) for probe in one)


def _evidence(seen: Mapping[str, tuple[float, float]], faults: list[str], least: float, most: float) -> dict[str, Any]:
    shares = {one: {"equal": round(share, 4), "distance": round(apart, 5)} for one, (share, apart) in seen.items()}
    return {"adapters": shares, "faults": faults[:10], "least": least, "most": most}
