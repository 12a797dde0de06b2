"""How the server says it serves: `context_length`, `quantization` and default `sampling` are what the recipe says.

Most servers tell it; where one hides its sampling, answers prove it: drawn with the server's defaults and drawn with the recipe's parameters, seed
for seed, they are the same. It proves nothing of parameters that the recipe does not state, and takes the server's word for its quantisation,
which `identity` holds against the weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolkit.assessment import Fidelity, Soak
from toolkit.engines import Endpoint, Settings, engine
from toolkit.engines.chat import Chat
from toolkit.engines.wire import is_loopback
from toolkit.errors import FailedError, ThinkshipError
from toolkit.render import FROM_GENERATION, context_size
from toolkit.verify import Expectations, Finding

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What every engine can be told of sampling, by generation_config.json's names."""
SEEDS, TOKENS = (1, 2, 3), 10
"""Answers that are drawn, and their length."""
OPEN = ({"role": "user", "content": "Make up a story about the sea."},)
"""A question that can be answered in many ways, so that other parameters draw another answer."""
NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
"""What is drawn with where nothing restricts the vocabulary: the server has not read the checkpoint's generation_config.json."""
WILD = {"temperature": 2.0, "top_p": 1.0, "top_k": 0}
"""What must draw other answers than the recipe's, or the model is too sure of its words for a draw to show anything."""
_SERVE = "serve with the recipe's context (serve.context; for Ollama num_ctx, sized by modelfile.answer_tokens)"
_CONTEXT = {
    True: f"{_SERVE}: long thinking is cut off in a smaller one",
    False: f"{_SERVE}: a larger one takes memory that was not planned",
}
FROM_OLLAMA = {theirs: ours for ours, theirs in FROM_GENERATION.items()}
"""Ollama's names of parameters -> generation_config.json's."""
Outcome = dict[str, Any]


def of_recipe(recipe: Mapping[str, Any], dataset: Path) -> dict[str, Any]:
    """Return what a slice of the serve stage says of how the model is served, what that may cost and on what it runs."""
    served, wanted, extra = recipe["serve"], recipe["verify"], recipe["modelfile"]
    own = {FROM_OLLAMA.get(name, name): value for name, value in extra["parameters"].items()} if recipe["engine"] == "ollama" else {}
    context = served["context"]
    if recipe["engine"] == "ollama":
        longest = json.loads((dataset / "stats.json").read_text(encoding="utf-8"))["longest_row"]
        context = own.get("num_ctx", context_size(longest, extra["answer_tokens"]))
    limits = {name: wanted.get(name) for name in ("gpu", "tokens_per_second_at_least")}
    soak = Soak.model_validate(wanted["soak"]) if wanted.get("soak") else None
    fidelity = Fidelity.model_validate(wanted.get("fidelity", {}))
    return {"context": context, "sampling": {**served["sampling"], **own}, "fidelity": fidelity, "soak": soak, **limits}


def of_checkpoint(folder: Path) -> dict[str, float]:
    """Return the sampling that a checkpoint's generation_config.json states, nothing where it has none."""
    path = folder / "generation_config.json"
    stated = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: stated[name] for name in SAMPLING if stated.get(name) is not None}


def told(endpoint: Endpoint) -> Settings:
    """Return what a server tells of itself; errors as `wire.ask`, FailedError where it tells it in a form that is not known."""
    try:
        return engine(endpoint.engine).settings(endpoint)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        message = f"{endpoint.root} tells its settings otherwise than {endpoint.engine} does ({type(error).__name__}: {error})"
        raise FailedError(message, "is it the engine that --engine says?") from error


def checks(chat: Chat, expectations: Expectations) -> Iterator[Finding]:
    """Yield the findings `context_length`, `quantization` and `sampling`."""
    name = chat.endpoint.engine
    try:
        seen = told(chat.endpoint)
    except ThinkshipError as error:
        status = "fail" if is_loopback(chat.endpoint.url) else "skip"  # a proxy may well keep such pages closed
        failed: Outcome = {"status": status, "message": f"the server cannot be asked for its settings: {error.message}", "remedy": error.remedy}
        outcomes: dict[str, Outcome] = dict.fromkeys(("context_length", "quantization", "sampling"), failed)
    else:
        parts = {"context_length": _context(name, seen, expectations), "quantization": _quantization(name, seen, expectations)}
        outcomes = {**parts, "sampling": _sampling(chat, seen, expectations)}
    for title, outcome in outcomes.items():
        yield expectations.finding(title, name, required=outcome["status"] != "skip", **outcome)


def _context(name: str, seen: Settings, expectations: Expectations) -> Outcome:
    wanted = expectations.context
    if wanted is None:
        return {"status": "skip", "message": "no context length was stated to compare with"}
    if seen.context is None:
        return {"status": "skip", "message": f"{name} tells no context length"}
    passed = wanted <= seen.context < wanted + engine(name).habits.context_step
    return {
        "status": "pass" if passed else "fail",
        "message": f"a request has {seen.context} tokens of context" + ("" if passed else f", the recipe says {wanted}"),
        "remedy": "" if passed else _CONTEXT[seen.context < wanted],
        "evidence": {"context": seen.context, "recipe": wanted},
    }


def _quantization(name: str, seen: Settings, expectations: Expectations) -> Outcome:
    wanted = expectations.quantization
    if not wanted:
        return {"status": "skip", "message": "no quantisation was stated to compare with"}
    if seen.quantization is None:
        return {"status": "skip", "message": f"{name} tells no quantisation; identity measures what it does to the answers"}
    passed = seen.quantization == wanted
    return {
        "status": "pass" if passed else "fail",
        "message": f"the weights are {seen.quantization}" + ("" if passed else f", the recipe says {wanted}"),
        "remedy": "" if passed else f"serve model-{wanted}.gguf",
        "evidence": {"quantization": seen.quantization, "recipe": wanted},
    }


def _sampling(chat: Chat, seen: Settings, expectations: Expectations) -> Outcome:
    wanted = {name: float(value) for name, value in expectations.sampling.items() if name in SAMPLING}
    if not wanted:
        return {"status": "skip", "message": "no sampling parameters were stated to compare with"}
    if seen.sampling is None:
        return _drawn_sampling(chat, wanted)
    wrong = {name: seen.sampling.get(name) for name, value in wanted.items() if not _same(seen.sampling.get(name), value)}
    words = ", ".join(f"{name} is {_number(value)}, the recipe says {_number(wanted[name])}" for name, value in wrong.items())
    return {
        "status": "fail" if wrong else "pass",
        "message": f"without a word from the client {words}" if wrong else f"without a word from the client: {_listed(wanted)}",
        "remedy": "give the server the recipe's sampling: generation_config.json, the GGUF's header and the Modelfile's PARAMETERs" if wrong else "",
        "evidence": {"server": dict(seen.sampling), "recipe": wanted},
    }


def _same(seen: float | None, wanted: float) -> bool:
    return seen is not None and math.isclose(seen, wanted, rel_tol=1e-4, abs_tol=1e-6)


def _number(value: float | None) -> str:
    return "not set" if value is None else f"{value:g}"


def _listed(parameters: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in parameters.items())


def _drawn_sampling(chat: Chat, wanted: Mapping[str, float]) -> Outcome:
    """Compare answers drawn with the server's defaults and with the recipe's parameters."""
    server = engine(chat.endpoint.engine)
    if not server.sampled(wanted):
        return {"status": "skip", "message": f"{chat.endpoint.engine} tells no sampling parameters, and takes not all of them in a request"}
    try:
        first = _draws(chat, server.sampled(wanted))  # the prompt is cached from here on, for one answer as for the other
        own, theirs, wild = (_draws(chat, fields) for fields in ({}, server.sampled(wanted), server.sampled(WILD)))
        if why := _blind(first, theirs, wild):
            return {"status": "skip", "message": f"{chat.endpoint.engine} tells no sampling parameters, and {why}"}
        like_recipe = sum(map(_goes_along, own, theirs))
        neutral = like_recipe == 0 and all(map(_goes_along, own, _draws(chat, server.sampled(NEUTRAL))))
    except ThinkshipError as error:
        return {"status": "fail", "message": f"the server draws no answers: {error.message}", "remedy": error.remedy}
    return _drawn_outcome(like_recipe, neutral, wanted, {"defaults": own, "recipe": theirs})


def _blind(first: list[str], theirs: list[str], wild: list[str]) -> str:
    """Say why draws show nothing here, nothing where they do."""
    if not all(theirs):
        return "a draw holds no text"
    if not any(map(_goes_along, first, theirs)):
        return "one seed draws two answers"
    return "the model answers the same however it is sampled" if any(map(_goes_along, theirs, wild)) else ""


def _drawn_outcome(like_recipe: int, neutral: bool, wanted: Mapping[str, float], evidence: dict[str, Any]) -> Outcome:
    # Rounding may tip a draw now and then; other parameters change all of them.
    if like_recipe:
        message = f"{like_recipe} of {len(SEEDS)} answers drawn with the server's defaults are those of {_listed(wanted)}, seed for seed"
        return {"status": "pass", "message": message, "evidence": evidence}
    seen = f"they are those of {_listed(NEUTRAL)}: generation_config.json is not read" if neutral else "by seed and word"
    message = f"no answer drawn with the server's defaults is that of {_listed(wanted)}; {seen}"
    remedy = "have the server take its sampling from the checkpoint's generation_config.json (vLLM: leave --generation-config at auto)"
    return {"status": "fail", "message": message, "remedy": remedy, "evidence": evidence}


def _draws(chat: Chat, fields: Mapping[str, Any]) -> list[str]:
    answers = [chat.draw(OPEN, TOKENS, seed, fields) for seed in SEEDS]
    return [" ".join(f"{answer.reasoning} {answer.text}".split()) for answer in answers]


def _goes_along(one: str, other: str) -> bool:
    """Say whether two answers are the same as far as both go: one may have ended before the other."""
    return bool(one and other) and (one.startswith(other) or other.startswith(one))
