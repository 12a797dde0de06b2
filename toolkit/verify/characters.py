"""The check `characters`: a stream is cut between characters and never inside one, whatever tokens a character is made of.

The model is held by a JSON schema to say Chinese and joined emoji, whose bytes lie in several tokens; where a server follows no schema, only
what the model said by itself was seen. It does not prove that a client's terminal shows them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from toolkit.engines import Answer
from toolkit.engines.chat import Chat
from toolkit.errors import RefusedError
from toolkit.verify import Expectations, Finding, Reply
from toolkit.verify.think import sound

TEXT = "患é👩‍🔬"
"""What the model is to say: characters of three bytes, of two, and of four with a joiner between them."""
ROOM = 64
"""Tokens for it beyond those of the known answer: a byte may take one."""
REMEDY = "update the server, or what passes its stream on: bytes of one character must stay in one chunk"
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"text": {"type": "string", "enum": [TEXT]}}, "required": ["text"]}


def check(chat: Chat, expectations: Expectations, replies: Sequence[Reply]) -> Finding:
    """Stream an answer that is held to hard characters; errors as `Chat.stream`, but for a schema that is refused."""
    name, known = chat.endpoint.engine, sound(chat, expectations, replies)
    if known is None:
        return expectations.skipped("characters", name, "no answer keeps the think contract: there is no stream to look at")
    wanted = {"type": "json_schema", "json_schema": {"name": "said", "schema": SCHEMA, "strict": True}}
    tokens = (known.completion_tokens or expectations.max_tokens) + ROOM
    try:
        answer = chat.stream([{"role": "user", "content": known.question}], tokens, response_format=wanted)
    except RefusedError as error:
        return expectations.skipped("characters", name, f"the server takes no JSON schema: {error.message}")
    broken = [delta for delta in answer.deltas if not is_text(delta)]
    if broken:
        words = f"{len(broken)} of {len(answer.deltas)} pieces of a stream hold half a character, as {broken[0]!r}"
        return expectations.finding("characters", name, status="fail", message=words, remedy=REMEDY, evidence={"broken": list(map(repr, broken[:5]))})
    if _said(answer) != TEXT:
        words = (
            "the server does not follow a JSON schema, and the model said nothing but plain letters" if answer.text.isascii() else "another text came"
        )
        return expectations.skipped("characters", name, f"{words}: {answer.text.strip()[:80]!r}")
    message = f"Chinese and joined emoji come whole in {len(answer.deltas)} pieces of a stream"
    return expectations.finding("characters", name, status="pass", message=message, evidence={"text": TEXT, "pieces": len(answer.deltas)})


def is_text(piece: str) -> bool:
    """Say whether a piece is whole characters: no replacement character, no half of a surrogate pair."""
    return "\ufffd" not in piece and not any("\ud800" <= rune <= "\udfff" for rune in piece)


def _said(answer: Answer) -> str | None:
    """Return the text in the JSON that the model was held to, None where there is none."""
    try:
        found = json.loads(answer.text)
    except ValueError:
        return None
    return found.get("text") if isinstance(found, dict) else None
