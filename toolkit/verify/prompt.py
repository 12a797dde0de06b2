"""Prompt parity: the prompt that the live server makes of a conversation is the one that the HF chat template makes.

Proven by text or by token ids where the server shows them, else by behaviour: the same prompt length and the same greedy continuation
when the template's text is sent as a plain completion. It covers the conversations below, without tools.
"""

from __future__ import annotations

from typing import Any

from toolkit.chat_template import ChatTemplate
from toolkit.engines import Engine, Message, engine
from toolkit.engines.chat import Chat
from toolkit.errors import FailedError, ThinkshipError
from toolkit.verify import Expectations, Finding

TOKENS = 12
"""Length of the continuation that is compared where the server shows no prompt."""


def _turns(*contents: str, system: str | None = None) -> list[Message]:
    roles = ("user", "assistant")
    turns: list[Message] = [{"role": roles[number % 2], "content": text} for number, text in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system else []) + turns


CORPUS: dict[str, list[Message]] = {
    "one question": _turns("What is 47 + 85?"),
    "system prompt": _turns("What is 1 + 1?", system="Answer in one sentence."),
    "several turns": _turns("What is 2 + 2?", "The answer is 4.", "And twice that?"),
    "braces": _turns("Explain {{ .Prompt }} and {% if x %} and ${HOME} and \\n."),
    "Chinese": _turns("患者咳嗽三天，最可能的诊断是什么？", system="你是医生。"),
    "emoji and accents": _turns("Café ☕ or thé 🫖? naïve coöperation"),
    "white space": _turns("def f(x):\n\n    return x  # two  spaces\n\tand a tab"),
    "outer white space": _turns("  def f(x):\n    return x\n"),
    "quotes": _turns("He said \"hi\" and 'bye'; <b>&amp;</b>"),
}
"""Conversations on which templates are known to go apart.

Left out is what Ollama changes by its own rules: a late system turn, two turns of one role in a row.
"""


def check(name: str, expectations: Expectations, chat: Chat) -> Finding:
    """Compare the prompts of the corpus."""
    made: dict[str, Any] = {"name": "prompt", "engine": name, "variant": expectations.variant}
    if expectations.template is None:
        return Finding(
            **made, status="skip", required=False, message="no HF checkpoint was given to compare with", remedy="give one with --model-dir"
        )
    try:
        how, differences = _compare(engine(name), chat, expectations.template)
        used = engine(name).template(chat.endpoint)
    except ThinkshipError as error:
        return Finding(**made, status="fail", message=f"the server cannot be asked for its prompts: {error.message}", remedy=error.remedy)
    equal = len(CORPUS) - len(differences)
    return Finding(
        **made,
        status="fail" if differences else "pass",
        message=f"{equal} of {len(CORPUS)} prompts equal the HF chat template's, compared by {how}; the server used {used}",
        remedy="serve with the template of modelfiles/ (the checkpoint's, the GGUF's and the Modelfile's derive from it)" if differences else "",
        evidence={"compared_by": how, "template": used, "conversations": list(CORPUS), "differences": differences[:5]},
    )


def _compare(server: Engine, chat: Chat, template: ChatTemplate) -> tuple[str, list[dict[str, str]]]:
    """Return what was compared, and where the two differ."""
    probe = server.rendered(chat.endpoint, CORPUS["one question"])
    how = "text" if probe.text is not None else "token ids" if probe.ids is not None else "behaviour"
    compare = {"text": _text, "token ids": _ids, "behaviour": _behaviour}[how]
    differences = []
    for title, messages in CORPUS.items():
        wanted = template.render(messages)
        seen = compare(server, chat, messages, wanted)
        if seen:
            differences.append({"conversation": title, "template": wanted, "server": seen})
    return how, differences


def _text(server: Engine, chat: Chat, messages: list[Message], wanted: str) -> str:
    seen = server.rendered(chat.endpoint, messages).text or "(nothing)"
    return "" if seen == wanted else seen


def _ids(server: Engine, chat: Chat, messages: list[Message], wanted: str) -> str:
    seen, expected = server.rendered(chat.endpoint, messages).ids, server.tokens(chat.endpoint, wanted)
    return "" if seen and seen == expected else f"token ids {seen}, expected {expected}"


def _behaviour(_: Engine, chat: Chat, messages: list[Message], wanted: str) -> str:
    answer = chat.ask(messages, TOKENS)
    text, tokens = chat.complete(wanted, TOKENS)
    if answer.prompt_tokens is None or tokens is None:
        raise FailedError("the server tells no prompt length", "the prompt cannot be compared with this server")
    if answer.prompt_tokens != tokens:
        return f"a prompt of {answer.prompt_tokens} tokens, the template's has {tokens}"
    said, plain = (answer.reasoning or answer.text).strip(), text.strip()
    # Both are cut after the same number of tokens; a tag that the parser took out makes the first one shorter.
    same = bool(said and plain) and (plain.startswith(said) or said.startswith(plain))
    return "" if same else f"goes on with {said!r}, the template's prompt with {plain!r}"
