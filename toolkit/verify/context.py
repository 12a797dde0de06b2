"""The check `context`: a prompt beyond the context is refused with words, and neither hangs nor loses its beginning in silence.

The prompt's length is told by the server's own count, so that no tokenizer is needed. An engine that is known to shorten prompts is said to do
so. It does not prove how long a context the model can really use.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.engines import engine
from toolkit.engines.chat import Chat
from toolkit.errors import FailedError, RefusedError
from toolkit.verify import Expectations, Finding, Reply

WORDS = (4, 36)
"""Words of the two short prompts by which a word's tokens are counted."""
BEYOND = 1.25
"""How far the long prompt goes beyond the context."""
MOST = 8192
"""Longest context of an engine that shortens prompts at which it is asked: it reads what is left of them."""
ROOM = 0.95
"""Share of its tokens that a prompt which is answered whole must count."""
REMEDY = "serve with the context that the recipe names, and with a limit that refuses (a proxy, or another engine)"


def check(chat: Chat, expectations: Expectations, replies: Sequence[Reply]) -> Finding:
    """Send a prompt longer than the context; errors as `Chat.ask`, but for a refusal."""
    name, context, habits = chat.endpoint.engine, expectations.context, engine(chat.endpoint.engine).habits
    if context is None or not habits.limits_context:
        why = "the context length is not known" if context is None else f"{name} holds requests to no context length"
        return expectations.skipped("context", name, why)
    if habits.cuts_prompts and context > MOST:
        return expectations.skipped(
            "context", name, f"{name} shortens a prompt beyond its context and reads the rest, which takes long at {context} tokens"
        )
    few, many = (chat.ask(_prompt(words), 1).prompt_tokens for words in WORDS)
    if few is None or many is None or many <= few:
        return expectations.skipped("context", name, "the server tells no prompt_tokens")
    each = (many - few) / (WORDS[1] - WORDS[0])
    words = int(context * BEYOND / each)
    sent = int(few + (words - WORDS[0]) * each)
    fault, said = _outcome(chat, words, sent, name)
    made = {"status": "fail", "remedy": REMEDY} if fault else {"status": "pass"}
    return expectations.finding("context", name, **made, message=said, evidence={"context": context, "sent": sent})


def _prompt(words: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": "one " * words}]


def _outcome(chat: Chat, words: int, sent: int, name: str) -> tuple[bool, str]:
    """Return whether what became of the prompt is a fault, and what is to be said."""
    try:
        seen = chat.ask(_prompt(words), 1).prompt_tokens or 0
    except RefusedError:
        return False, f"a prompt of about {sent} tokens, beyond the context, is refused with words"
    except FailedError as error:
        return True, f"a prompt of about {sent} tokens, beyond the context, is not refused with a 4xx: {error.message}"
    if seen >= sent * ROOM:
        return False, f"a prompt of about {sent} tokens is answered whole: the server's context is longer than the recipe's"
    lost = f"of a prompt of about {sent} tokens, beyond the context, {seen} are read and the others dropped without a word"
    known = engine(name).habits.cuts_prompts
    return not known, f"{lost}; known of {name}: clients must watch usage.prompt_tokens" if known else lost
