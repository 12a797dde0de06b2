"""The check `ends`: checkpoint, template and live server agree on what ends an answer, and a client's own stop text ends it and does not leak.

Compared are the tokenizer's end token, generation_config's, the template's end of a turn, the end token that the server names and its stops.
What a server does not tell is not compared. That answers do end is the check `stop`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from toolkit.chat_template import ChatTemplate
from toolkit.engines import Answer, Ends, engine
from toolkit.engines.chat import Chat
from toolkit.verify import Expectations, Finding, Reply
from toolkit.verify.think import sound

WORD = re.compile(r"[^\W\d_]{3,}")
"""A word to stop at."""
AFTER = 12
"""Characters of the reasoning before it, so that something is left."""
TOKENS = 48
"""Budget of the answer that is to be stopped."""
CONTROL = ("<|", "<｜")
"""How the text of a control token begins."""
REMEDY = "make eos_token, generation_config.json, the GGUF's header and the Modelfile's stops name the same tokens: run the stages again"


def of_model(model: Path) -> Ends | None:
    """Read at what a checkpoint's answers end, with every special token of its vocabulary as possible stops; None without a tokenizer."""
    if not (model / "tokenizer.json").is_file() or not (model / "generation_config.json").is_file():
        return None
    added = {token["id"]: token["content"] for token in json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]}
    ids = json.loads((model / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    chosen = tuple(ids) if isinstance(ids, list) else () if ids is None else (ids,)
    return Ends(tuple(added[number] for number in chosen if number in added), chosen, tuple(added.values()))


def check(chat: Chat, expectations: Expectations, replies: Sequence[Reply]) -> Finding:
    """Compare what is written and what is told, and stop one answer at a word of its own; errors as `Engine.ends` and `Chat.ask`."""
    name, known = chat.endpoint.engine, sound(chat, expectations, replies)
    told, faults = engine(name).ends(chat.endpoint), []
    if expectations.ends:
        faults += [*_written(expectations.ends, expectations.template), *_served(expectations.ends, told, expectations.template)]
    word = _word(known) if known else ""
    if known and word:
        faults += _stopped(chat, known, word)
    if not expectations.ends and not word:
        return expectations.skipped("ends", name, "no checkpoint was given to compare with, and no answer has a word to stop at")
    return expectations.finding(
        "ends",
        name,
        status="fail" if faults else "pass",
        message="; ".join(faults) or _message(expectations.ends, told, word, name),
        remedy=REMEDY if faults else "",
        evidence={
            "checkpoint": list(expectations.ends.tokens) if expectations.ends else None,
            "server": {"tokens": list(told.tokens), "ids": list(told.ids), "stops": told.stops and list(told.stops)},
            "stopped_at": word,
        },
    )


def _message(wanted: Ends | None, told: Ends, word: str, name: str) -> str:
    keeps = engine(name).habits.keeps_stops
    stopped = f"a client's stop at {word!r} is honoured" + (f", and left in the answer, as is known of {name}" if keeps else " and does not leak")
    parts = [f"answers end at {' and '.join(wanted.tokens)}" + (", the server says the same" if told.tokens or told.ids else "")] if wanted else []
    return "; ".join(parts + [stopped] * bool(word))


def _written(wanted: Ends, template: ChatTemplate | None) -> Iterator[str]:
    """Yield where the checkpoint's own files contradict each other."""
    if not wanted.ids:
        yield "generation_config.json names no end token"
    if template is None:
        return
    token = template.tokens.get("eos_token")
    if token and token not in wanted.tokens:
        yield f"the tokenizer's eos_token is {token}, generation_config.json ends at {', '.join(wanted.tokens)}"
    closed = template.render([{"role": "user", "content": "?"}, {"role": "assistant", "content": "VVV"}], False).rpartition("VVV")[2].strip()
    if closed and not closed.startswith(wanted.tokens):
        yield f"the template ends a turn with {closed}, generation_config.json ends at {', '.join(wanted.tokens)}"


def _served(wanted: Ends, told: Ends, template: ChatTemplate | None) -> Iterator[str]:
    """Yield where the live server contradicts the checkpoint."""
    yield from (
        f"the server's end token is {token}, the checkpoint ends at {', '.join(wanted.tokens)}" for token in told.tokens if token not in wanted.tokens
    )
    yield from (f"the server's end token is number {number}, the checkpoint's are {wanted.ids}" for number in told.ids if number not in wanted.ids)
    if told.stops is None:
        return
    end = template.tokens.get("eos_token", "") if template else ""
    if end and end not in told.stops:
        yield f"{end}, which ends an answer, is not among the server's stops"
    foreign = [stop for stop in told.stops if stop.startswith(CONTROL) and stop not in (wanted.stops or ())]
    if foreign:
        yield f"the server stops at {', '.join(foreign)}, which this model does not have"


def _word(known: Reply) -> str:
    """Return a word early in the reasoning that stands nowhere before it, empty where there is none."""
    text = known.reasoning.strip()
    return next((found.group() for found in WORD.finditer(text, AFTER) if found.group() not in text[: found.start()]), "")


def _stopped(chat: Chat, known: Reply, word: str) -> Iterator[str]:
    """Yield how a stop text given by the client is not honoured, whole and streamed."""
    messages = [{"role": "user", "content": known.question}]
    for title, answer in (("", chat.ask(messages, TOKENS, stop=[word])), ("streamed, ", chat.stream(messages, TOKENS, stop=[word]))):
        if _leaks(answer, word, engine(chat.endpoint.engine).habits.keeps_stops):
            yield f"{title}a client's stop at {word!r} is not honoured: it stands in the answer"
        elif answer.finish != "stop":
            yield f"{title}a client's stop at {word!r} ends with finish_reason {answer.finish}"


def _leaks(answer: Answer, word: str, kept: bool) -> bool:
    """Say whether the stop text, or what follows it, stands in an answer; `kept` allows the text at its end."""
    said = (answer.reasoning + answer.text).strip()
    return word in (said.removesuffix(word) if kept else said)
