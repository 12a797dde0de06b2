"""Prompt parity: the prompt that the live server makes of a conversation is the one that the HF chat template makes.

Proven by text or by token ids where the server shows them, and there by the length of the prompt that a chat is really answered from; else by
behaviour: the same prompt length and the same greedy continuation when the template's text is sent as a plain completion. Where tools cannot be
offered or past reasoning not be sent back, that conversation is left out and said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from toolkit.chat_template import ChatTemplate
from toolkit.engines import Engine, Message, engine
from toolkit.engines.chat import Chat
from toolkit.errors import FailedError, InvalidError, ThinkshipError
from toolkit.verify import Expectations, Finding
from toolkit.verify.conversations import CORPUS, WEATHER, called, quoted, remembered

TOKENS = 12
"""Length of the continuation that is compared where the server shows no prompt."""
SENT = ("one question", "system prompt", "several turns", "tags typed by the user")
"""Conversations that are also sent as chats, for the length of the prompt that these are answered from."""
REMEDY = "serve with the template of modelfiles/ (the checkpoint's, the GGUF's and the Modelfile's derive from it)"
OVERRULED = "the Modelfile's TEMPLATE is not used: Ollama runs the GGUF's Jinja in its place, which can do more"
GO = "give the TEMPLATE the model's tags around .Thinking (modelfiles/<family>.gotmpl), leave it out, or start Ollama with OLLAMA_GO_TEMPLATE=1"


@dataclass(frozen=True)
class Talk:
    """One conversation as it is sent, and the prompt that the template makes of it."""

    title: str
    messages: Sequence[Message]
    wanted: str
    tools: tuple[Message, ...] = ()


Compare = Callable[[Engine, Chat, Talk, str], str]
"""From a conversation and the beginning token's text to how the server's prompt differs, empty where it does not."""


def talks(expectations: Expectations, template: ChatTemplate) -> list[Talk]:
    """Return the conversations that the template can render; one may know no system turn, no tools, or no arguments of a call."""
    tags = expectations.think
    plain = {**CORPUS, **quoted(tags.open, tags.close), "reasoning sent back": remembered()}
    made = [Talk(title, messages, wanted) for title, messages in plain.items() if (wanted := _rendered(template, messages))]
    offered = _rendered(template, called(as_text=False), tools=[WEATHER])
    if "sunny" in offered and offered != _rendered(template, called(as_text=False)):
        made.append(Talk("tools", called(), offered, (WEATHER,)))
    return made


def _rendered(template: ChatTemplate, messages: Sequence[Message], **variables: Any) -> str:
    """Return the template's prompt, empty where it refuses the conversation."""
    try:
        return template.render(messages, **variables)
    except InvalidError:
        return ""


def check(name: str, expectations: Expectations, chat: Chat) -> Finding:
    """Compare the prompts of the corpus."""
    template = expectations.template
    if template is None:
        made: dict[str, Any] = {"status": "skip", "required": False, "remedy": "give one with --model-dir"}
        return expectations.finding("prompt", name, **made, message="no HF checkpoint was given to compare with")
    asked = talks(expectations, template)
    if not asked:
        return expectations.finding("prompt", name, status="fail", message="the chat template refuses every conversation", remedy=REMEDY)
    try:
        how, differences = _compare(engine(name), chat, asked, template.tokens.get("bos_token", ""), expectations.parallel)
        used, overruled = engine(name).template(chat.endpoint), engine(name).overruled(chat.endpoint)
    except ThinkshipError as error:
        words = f"the server cannot be asked for its prompts: {error.message}"
        return expectations.finding("prompt", name, status="fail", message=words, remedy=error.remedy)
    equal = f"{len(asked) - len(differences)} of {len(asked)} prompts equal the HF chat template's, compared by {how}; the server used {used}"
    refused = [title for title in CORPUS if title not in {talk.title for talk in asked}]
    return expectations.finding(
        "prompt",
        name,
        status="fail" if differences or overruled else "pass",
        message=f"{equal}; {OVERRULED}" if overruled else equal,
        remedy=REMEDY if differences else GO if overruled else "",
        evidence={
            **{"compared_by": how, "template": used, "conversations": [talk.title for talk in asked]},
            **{"refused_by_the_template": refused, "differences": differences[:5]},
        },
    )


def _compare(server: Engine, chat: Chat, asked: Sequence[Talk], bos: str, parallel: int) -> tuple[str, list[dict[str, str]]]:
    """Return what was compared, and where the two differ."""
    probe = server.rendered(chat.endpoint, asked[0].messages)
    how = "text" if probe.text is not None else "token ids" if probe.ids is not None else "behaviour"
    compare: Compare = {"text": _text, "token ids": _ids, "behaviour": _behaviour}[how]

    def one(talk: Talk) -> str:
        seen = compare(server, chat, talk, bos)
        return seen or (_sent(server, chat, talk) if talk.title in SENT and how != "behaviour" else "")

    with ThreadPoolExecutor(parallel if server.habits.batches else 1) as pool:
        seen = zip(asked, pool.map(one, asked), strict=True)
        return how, [{"conversation": talk.title, "template": talk.wanted, "server": words} for talk, words in seen if words]


def _text(server: Engine, chat: Chat, talk: Talk, bos: str) -> str:
    seen = server.rendered(chat.endpoint, talk.messages, talk.tools).text or "(nothing)"
    if talk.tools:
        return "" if canonical(seen) == canonical(talk.wanted) else seen
    # llama.cpp takes a beginning token off the text that it puts there as a token itself: its number is the check `tokens`' affair.
    return "" if seen in (talk.wanted, talk.wanted.removeprefix(bos)) else seen


def canonical(text: str) -> str:
    """Write each line that is JSON with sorted keys and one spacing: servers differ in both, and in Go's HTML escapes."""

    def one(line: str) -> str:
        try:
            return json.dumps(json.loads(line), sort_keys=True, ensure_ascii=False)
        except ValueError:
            return line

    return "\n".join(map(one, text.split("\n")))


def _ids(server: Engine, chat: Chat, talk: Talk, _: str) -> str:
    seen = server.rendered(chat.endpoint, talk.messages, talk.tools).ids
    expected = server.tokens(chat.endpoint, talk.wanted, alone=True)
    return "" if seen and seen == expected else f"token ids {seen}, expected {expected}"


def _sent(server: Engine, chat: Chat, talk: Talk) -> str:
    """Return how the prompt of a chat is longer or shorter than the one that the server shows, as a proxy or a second beginning token makes it."""
    expected = server.tokens(chat.endpoint, talk.wanted, alone=True)
    counted = chat.ask(talk.messages, 1).prompt_tokens if expected is not None else None
    if expected is None or counted is None or counted == len(expected):
        return ""
    return f"a chat is answered from a prompt of {counted} tokens, the template's has {len(expected)}"


def _behaviour(_: Engine, chat: Chat, talk: Talk, bos: str) -> str:
    long = TOKENS if talk.title in CORPUS else 1
    offered = {"tools": list(talk.tools)} if talk.tools else {}
    answer = chat.ask(talk.messages, long, **offered)
    text, tokens = chat.complete(talk.wanted, long)
    if answer.prompt_tokens is None or tokens is None:
        raise FailedError("the server tells no prompt length", "the prompt cannot be compared with this server")
    if answer.prompt_tokens != tokens:
        return f"a prompt of {answer.prompt_tokens} tokens, the template's has {tokens}"
    said, plain = (answer.reasoning or answer.text).strip(), text.strip()
    # Both are cut after the same number of tokens; a tag that the parser took out makes the first one shorter.
    same = long == 1 or (bool(said and plain) and (plain.startswith(said) or said.startswith(plain)))
    return "" if same else f"goes on with {said!r}, the template's prompt with {plain!r}"
