"""The check `errors`: what is no request is refused with a 4xx and an error object, within a bounded time.

It proves that a client's mistake is told to the client on the four kinds of mistake below; it does not prove that every mistake is found.
What an engine is known to do instead (`Engine.habits.lenient`) is said and does not fail; a hang or a broken connection always does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from toolkit.engines import Endpoint, engine
from toolkit.engines.wire import Response, exchange, sent_away
from toolkit.errors import NotReadyError
from toolkit.verify import Expectations, Finding

SECONDS = 30.0
"""Longest time in which a bad request is to be refused."""
REMEDY = "put a proxy that checks requests before the server, or a newer version of it; evidence.answers says what it answered"


def bodies(model: str) -> dict[str, bytes]:
    """Return the bad requests by name; each would be answered at once, were it taken for a good one."""
    good: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 1}
    # -7 and not -1, which some servers document as `without end`; the stop letters end the answer of one that takes -7 for the same.
    wrong: dict[str, dict[str, Any]] = {
        "unknown model": {"model": f"{model}-that-nobody-serves"},
        "negative max_tokens": {"max_tokens": -7, "stop": ["a", "e", "i", "o"]},
        "messages of a wrong type": {"messages": "Say hello."},
    }
    made = {name: json.dumps({**good, **changes}).encode() for name, changes in wrong.items()}
    return {**made, "broken JSON": json.dumps(good).encode()[:-1]}


def check(endpoint: Endpoint, expectations: Expectations) -> Finding:
    """Send every bad request at once and hold the answers against the contract and the engine's habits."""
    requests, seconds = bodies(endpoint.model), min(SECONDS, expectations.timeout)
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = dict(zip(requests, pool.map(lambda body: _outcome(endpoint, body, seconds), requests.values()), strict=True))
    known = engine(endpoint.engine).habits.lenient
    habits = {name: outcome for name, outcome in answers.items() if known.get(name) == outcome}
    faults = {name: outcome for name, outcome in answers.items() if outcome != "refused" and name not in habits}
    return expectations.finding(
        "errors",
        endpoint.engine,
        status="fail" if faults else "pass",
        message=_message(answers, faults, habits),
        remedy=REMEDY if faults else "",
        evidence={"answers": answers, "known of this engine": sorted(habits)},
    )


def _message(answers: Mapping[str, str], faults: Mapping[str, str], habits: Mapping[str, str]) -> str:
    refused = sum(outcome == "refused" for outcome in answers.values())
    lines = [f"{refused} of {len(answers)} bad requests are refused with a 4xx and an error object"]
    if faults:
        lines.append(", ".join(f"{name}: {outcome}" for name, outcome in faults.items()))
    if habits:
        lines.append("known of this engine: " + ", ".join(f"{name}: {outcome}" for name, outcome in habits.items()))
    return "; ".join(lines)


def _outcome(endpoint: Endpoint, body: bytes, seconds: float) -> str:
    """Return `refused` for a 4xx with an error object, `answered`, `no error object`, another status, or why there is no answer.

    NotReadyError where the server deals with no request at all, a bad one or a good one.
    """
    try:
        reply = exchange(f"{endpoint.url}/chat/completions", body, timeout=seconds, key=endpoint.api_key)
    except NotReadyError as error:
        return error.message
    if away := sent_away(endpoint.url, reply.status, reply.headers):
        raise away
    if 200 <= reply.status < 300:
        return "answered"
    if 400 <= reply.status < 500:
        return "refused" if _tells(reply) else "no error object"
    return str(reply.status)


def _tells(reply: Response) -> bool:
    """Say whether an answer is an object whose `error` holds words, as OpenAI's clients read it."""
    try:
        error = reply.json()["error"]
    except (ValueError, TypeError, LookupError):
        return False
    return bool(error.get("message") if isinstance(error, dict) else error)
