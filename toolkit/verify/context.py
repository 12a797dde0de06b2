"""The check `context`: a prompt beyond the context is refused with words, and an answer that fills it says that it was cut.

Neither may hang, nor lose the prompt's beginning in silence. Lengths are told by the server's own count, so that no tokenizer is needed. What an
engine is known to do instead is said. It does not prove how long a context the model can really use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.engines import engine
from toolkit.engines.chat import Chat
from toolkit.errors import FailedError, RefusedError
from toolkit.verify import Expectations, Finding, Reply

WORDS = (4, 36)
"""Words of the two short prompts by which a word's tokens are counted."""
BEYOND = 1.25
"""How far the long prompt goes beyond the context."""
MOST = 8192
"""Longest context up to which prompts are sent that a server reads before it answers."""
LEFT = 24
"""Tokens that are left of the context for an answer that is to fill it; it is asked for four times as many."""
ROOM = 0.95
"""Share of its tokens that a prompt which is answered whole must count."""
REMEDY = "serve with the context that the recipe names, and with a limit that refuses (a proxy, or another engine)"


@dataclass(frozen=True)
class Measure:
    """How many tokens the server counts in a prompt of so many words."""

    few: int
    each: float

    def words(self, tokens: float) -> int:
        """Return the words of a prompt of about so many tokens, and not more."""
        return WORDS[0] + int((tokens - self.few) / self.each)

    def tokens(self, words: int) -> int:
        """Return the tokens of a prompt of so many words."""
        return int(self.few + (words - WORDS[0]) * self.each)


@dataclass(frozen=True)
class Outcome:
    """What became of one request, and whether that is a fault."""

    said: str
    fault: bool = False


def check(chat: Chat, expectations: Expectations, replies: Sequence[Reply]) -> Finding:
    """Send a prompt longer than the context, and one that leaves little of it; errors as `Chat.ask`, but for a refusal."""
    name, context, habits = chat.endpoint.engine, expectations.context, engine(chat.endpoint.engine).habits
    if context is None or not habits.limits_context:
        why = "the context length is not known" if context is None else f"{name} holds requests to no context length"
        return expectations.skipped("context", name, why)
    if habits.cuts_prompts and context > MOST:
        why = f"{name} shortens a prompt beyond its context and reads the rest, which takes long at {context} tokens"
        return expectations.skipped("context", name, why)
    measure = _measure(chat)
    if measure is None:
        return expectations.skipped("context", name, "the server tells no prompt_tokens")
    outcomes = [_beyond(chat, measure, context)]
    if habits.endless and context <= MOST:
        outcomes.append(_filled(chat, measure, context))
    return expectations.finding(
        "context",
        name,
        status="fail" if any(outcome.fault for outcome in outcomes) else "pass",
        message="; ".join(outcome.said for outcome in sorted(outcomes, key=lambda outcome: not outcome.fault)),
        remedy=REMEDY if any(outcome.fault for outcome in outcomes) else "",
        evidence={"context": context, "tokens_a_word": round(measure.each, 3)},
    )


def _prompt(words: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": "one " * words}]


def _measure(chat: Chat) -> Measure | None:
    """Count two short prompts; None where the server counts none."""
    few, many = (chat.ask(_prompt(words), 1).prompt_tokens for words in WORDS)
    return None if few is None or many is None or many <= few else Measure(few, (many - few) / (WORDS[1] - WORDS[0]))


def _beyond(chat: Chat, measure: Measure, context: int) -> Outcome:
    """Say what becomes of a prompt longer than the context."""
    words = measure.words(context * BEYOND)
    sent, name = measure.tokens(words), chat.endpoint.engine
    try:
        seen = chat.ask(_prompt(words), 1).prompt_tokens or 0
    except RefusedError:
        return Outcome(f"a prompt of {sent} tokens, beyond the context of {context}, is refused with words")
    except FailedError as error:
        return Outcome(f"a prompt of {sent} tokens, beyond the context of {context}, is not refused with a 4xx: {error.message}", fault=True)
    if seen >= sent * ROOM:
        return Outcome(f"a prompt of {sent} tokens is answered whole: the server's context is longer than the recipe's {context}")
    lost = f"of a prompt of {sent} tokens, beyond the context, {seen} are read and the others dropped without a word"
    known = engine(name).habits.cuts_prompts
    return Outcome(f"{lost}; known of {name}: clients must watch usage.prompt_tokens" if known else lost, fault=not known)


def _filled(chat: Chat, measure: Measure, context: int) -> Outcome:
    """Say what becomes of an answer that never ends by itself and has little of the context left."""
    words = measure.words(context - LEFT)
    try:
        answer = chat.ask(_prompt(words), 4 * LEFT, extra_body=dict(engine(chat.endpoint.engine).habits.endless))
    except RefusedError:
        return Outcome(f"an answer that may not fit behind {measure.tokens(words)} tokens is refused with words")
    except FailedError as error:
        return Outcome(f"an answer that does not fit into the context: {error.message}", fault=True)
    if answer.finish != "length":
        return Outcome(f"an answer that fills the context ends with finish_reason {answer.finish}", fault=True)
    return Outcome(f"an answer that fills the context has finish_reason length after {answer.completion_tokens} tokens")
