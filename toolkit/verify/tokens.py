"""The check `tokens`: the server splits texts into the token ids of the checkpoint's own tokenizer, and puts nothing around a prompt.

Ids are compared where the server shows them, on texts that tell tokenizers apart; the prompts' lengths, with any second beginning token in
them, on every server that counts. The ids were written down by the merge stage (`tokens.jsonl`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from toolkit.engines import engine
from toolkit.engines.chat import Chat
from toolkit.verify import Expectations, Finding, Reply, Tokenized

FILE = "tokens.jsonl"
REMEDY = "serve with the checkpoint's tokenizer: convert again (the gguf stage compares them), and set no other beginning token"


def read(folder: Path) -> tuple[Tokenized, ...]:
    """Read what the merge stage left, nothing where there is none."""
    path = folder / FILE
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line] if path.is_file() else []
    return tuple(Tokenized(row["text"], tuple(row["ids"]), row.get("question", "")) for row in rows)


def check(chat: Chat, expectations: Expectations, replies: Sequence[Reply]) -> Finding:
    """Compare token ids and prompt lengths; errors as `Engine.tokens` and `Chat.ask`."""
    name = chat.endpoint.engine
    if not expectations.tokenized:
        return expectations.skipped("tokens", name, "no token ids of the checkpoint were given to compare with")
    ids = dict(_ids(chat, expectations.tokenized))
    counts = dict(_counts(chat, expectations.tokenized, replies))
    if not ids and not counts:
        return expectations.skipped("tokens", name, "the server shows no token ids and tells no prompt_tokens")
    faults = [fault for fault in (*ids.values(), *counts.values()) if fault]
    compared = [f"{len(ids)} texts by their token ids"] * bool(ids) + [f"{len(counts)} prompts by their length"] * bool(counts)
    return expectations.finding(
        "tokens",
        name,
        status="fail" if faults else "pass",
        message=faults[0] if faults else f"the checkpoint's tokenizer: {', '.join(compared)}",
        remedy=REMEDY if faults else "",
        evidence={"texts": len(ids), "prompts": len(counts), "faults": faults[:5]},
    )


def _ids(chat: Chat, known: Sequence[Tokenized]) -> Iterator[tuple[str, str]]:
    """Yield each text with how its ids differ, empty where they do not; nothing where the server shows no ids."""
    server = engine(chat.endpoint.engine)
    for one in known:
        seen = server.tokens(chat.endpoint, one.text, alone=True)
        if seen is None:
            return
        yield one.text, "" if seen == one.ids else f"token ids of {one.text!r} are {list(seen[:16])}, the checkpoint's {list(one.ids[:16])}"


def _counts(chat: Chat, known: Sequence[Tokenized], replies: Sequence[Reply]) -> Iterator[tuple[str, str]]:
    """Yield each prompt with how its length differs, empty where it does not; those that the server counted."""
    counted = {reply.question: reply.prompt_tokens for reply in replies if reply.prompt_tokens is not None}
    for one in known:
        if one.question not in counted or not one.question:
            continue
        seen, wanted = counted[one.question], len(one.ids)
        more = ": a beginning token that the template does not have?" if seen == wanted + 1 else ""
        yield one.question, "" if seen == wanted else f"a prompt has {seen} tokens, by the checkpoint's tokenizer {wanted}{more}"
