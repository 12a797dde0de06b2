"""What an operator expects of an endpoint beside its answers: a true list of models, a key that is asked for, and figures to watch.

It proves that the served name is listed, that no chat is answered without the key or with a wrong one, and that /metrics holds the engine's
own figures; it does not prove that other paths than the chat ask for the key, nor that the figures are right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from toolkit.engines import Endpoint, catalogue, engine
from toolkit.engines.wire import exchange, is_loopback, sent_away
from toolkit.errors import FailedError, NotReadyError
from toolkit.verify import Expectations, Finding

SECONDS = 15.0
"""Longest time that one of these requests may take."""
FIGURE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{.*\})? (?:[-+]?[0-9.]\S*|NaN|[-+]Inf)", re.MULTILINE)
"""A line of Prometheus' text format."""
REFUSED = (401, 403)


def checks(endpoint: Endpoint, expectations: Expectations) -> Iterator[Finding]:
    """Yield the findings `models`, `authentication` and `metrics`; NotReadyError where the endpoint is gone."""
    seconds = min(SECONDS, expectations.timeout)
    for name, check in (("models", _models), ("authentication", _authentication), ("metrics", _metrics)):
        status, message, remedy = check(endpoint, seconds)
        required = status != "skip"
        yield expectations.finding(name, endpoint.engine, status=status, message=message, remedy=remedy, required=required)


Outcome = tuple[Any, str, str]
"""Status, message and remedy of a finding."""


def _models(endpoint: Endpoint, seconds: float) -> Outcome:
    if not engine(endpoint.engine).habits.lists_models:
        return "skip", f"{endpoint.engine} lists the models of its cache, not the one it serves", ""
    try:
        names = catalogue.names(endpoint, seconds)
    except FailedError as error:
        return "fail", f"there is no list of models: {error.message}", "serve /v1/models: clients look there for the name to ask for"
    # Ollama lists `name:latest` for what is asked for as `name`.
    if endpoint.model in {*names, *(name.removesuffix(":latest") for name in names)}:
        return "pass", f"{endpoint.model} is one of {len(names)} listed", ""
    return "fail", f"{endpoint.model} is not listed, but {', '.join(names[:5]) or 'nothing'}", "serve the model under the name that clients are given"


def _authentication(endpoint: Endpoint, seconds: float) -> Outcome:
    if not endpoint.api_key:
        return "skip", "no API key is configured", ""
    answers = {title: _status(endpoint, key, seconds) for title, key in (("without a key", None), ("with a wrong key", "not-the-key"))}
    let_in = [f"{title}: {status}" for title, status in answers.items() if status not in REFUSED]
    if not let_in:
        return "pass", "a chat without the key, or with a wrong one, is refused", ""
    if endpoint.engine != "openai" and not engine(endpoint.engine).asks_for_key and is_loopback(endpoint.url):
        return "skip", f"{endpoint.engine} cannot ask for a key, and is asked directly", ""
    remedy = "give the server its key (API_KEY_FILE), or unset OPENAI_API_KEY where it is to serve everybody"
    return "fail", f"a chat is not refused with 401 or 403 ({', '.join(let_in)})", remedy


def _status(endpoint: Endpoint, key: str | None, seconds: float) -> int | str:
    """Return how a chat is answered, `no answer` where it is not; NotReadyError where the server takes no more requests now."""
    body = json.dumps({"model": endpoint.model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 1})
    try:
        reply = exchange(f"{endpoint.url}/chat/completions", body.encode(), timeout=seconds, key=key)
    except NotReadyError:
        return "no answer"
    if reply.status == 429 and (away := sent_away(endpoint.url, reply.status, reply.headers)):
        raise away
    return reply.status


def _metrics(endpoint: Endpoint, seconds: float) -> Outcome:
    own = engine(endpoint.engine).habits.metrics
    try:
        reply = exchange(f"{endpoint.root}/metrics", timeout=seconds, key=endpoint.api_key)
    except NotReadyError as error:
        return "fail", error.message, error.remedy
    figures = set(FIGURE.findall(reply.body.decode(errors="replace"))) if reply.status == 200 else set()
    ours = {name for name in figures if name.startswith(own)}
    if ours:
        return "pass", f"/metrics has {len(figures)} figures" + (f", {len(ours)} of them {own}*" if own else ""), ""
    if not own:
        return "skip", f"{endpoint.engine} has no metrics page" if endpoint.engine != "openai" else "the server has no page /metrics", ""
    if reply.status in (*REFUSED, 404) and not is_loopback(endpoint.url):
        return "skip", f"/metrics is closed to us ({reply.status}): ask behind the proxy", ""
    words = f"/metrics has no figure {own}*" if reply.status == 200 else f"/metrics answers {reply.status}"
    return "fail", words, "start the server with its figures on: --metrics for llama.cpp; for vLLM leave --disable-log-stats out"
