"""The check `injection`: whether a special token's text typed by a user becomes that token, and with it a turn of somebody else.

It is seen by the prompt's length: eight more of them are eight more tokens, or many. Every server of this kind tokenises the rendered prompt as
one text and lets it happen, so that it is said and fails only where the recipe wants it refused (verify.injection) or a server did better before.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.engines import engine
from toolkit.engines.chat import Chat
from toolkit.verify import Expectations, Finding, Reply

MORE = 8
"""Special tokens by which the second question is longer."""


def check(chat: Chat, expectations: Expectations, replies: Sequence[Reply]) -> Finding:
    """Ask two questions of one token that differ by special tokens typed as text; errors as `Chat.ask`."""
    name = chat.endpoint.engine
    token = expectations.template.tokens.get("eos_token", "") if expectations.template else ""
    if len(token) < 2:
        return expectations.skipped("injection", name, "the model's end token is not known: give its checkpoint with --model-dir")
    short, long = (chat.ask([{"role": "user", "content": f"What is {token * count}?"}], 1).prompt_tokens for count in (1, 1 + MORE))
    if short is None or long is None:
        return expectations.skipped("injection", name, "the server tells no prompt_tokens")
    injected = long - short <= MORE
    fault = injected and (expectations.injection == "refuse" or not engine(name).habits.injectable)
    return expectations.finding(
        "injection",
        name,
        status="fail" if fault else "pass",
        required=fault or not injected,
        message=_message(token, injected),
        remedy=f"take {token} and its like out of what users send, in the service before the server" if fault else "",
        evidence={"token": token, "prompt_tokens": {"one": short, str(1 + MORE): long}, "injected": injected},
    )


def _message(token: str, injected: bool) -> str:
    if injected:
        return f"a {token} typed by a user becomes that token, as on every server that is known: take it out before the server"
    return f"a {token} typed by a user stays text"
