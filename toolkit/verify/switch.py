"""The check `switch`: a client that asks for no thinking gets an answer without it, or is told, or the model thinks as ever and the parser knows.

Whether there is a switch is read off the chat template (`enable_thinking`). The one thing that must not be is reasoning sent as the answer;
where an engine is known for that on templates without a switch, it is said. It proves nothing of how good the answers without thinking are.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.chat_template import ChatTemplate
from toolkit.engines import Answer, engine
from toolkit.engines.chat import Chat
from toolkit.errors import RefusedError
from toolkit.verify import Expectations, Finding, Reply
from toolkit.verify.think import sound

TOKENS = 16
"""First tokens by which it is seen what is sent; more than the words that are compared."""
SAME = 12
"""Leading characters by which an answer is taken for the reasoning it was before."""
REMEDY = "let clients that want no thinking use a model or template with a switch, and the parser of its family"


def has_switch(template: ChatTemplate) -> bool:
    """Say whether a template renders another prompt where thinking is switched off."""
    asked = [{"role": "user", "content": "?"}]
    return template.render(asked) != template.render(asked, enable_thinking=False)


def check(chat: Chat, expectations: Expectations, replies: Sequence[Reply]) -> Finding:
    """Ask a question again with the thinking switched off; errors as `Chat.ask`, but for a refusal."""
    name, known = chat.endpoint.engine, sound(chat, expectations, replies)
    if known is None:
        return expectations.skipped("switch", name, "no answer keeps the think contract: there is nothing to switch off")
    switch = None if expectations.template is None else has_switch(expectations.template)
    try:
        answer = chat.ask([{"role": "user", "content": known.question}], TOKENS, extra_body=dict(engine(name).habits.unthinking))
    except RefusedError as error:
        return expectations.finding("switch", name, status="pass", message=f"thinking cannot be switched off, and that is told: {error.message}")
    outcome = _outcome(answer, known, expectations)
    fault, words = _judged(name, outcome, switch)
    evidence = {
        "outcome": outcome,
        "reasoning": answer.reasoning,
        "answer": answer.text,
        "prompt_tokens": [known.prompt_tokens, answer.prompt_tokens],
    }
    status, remedy = ("fail", REMEDY) if fault else ("pass", "")
    return expectations.finding("switch", name, status=status, message=words, remedy=remedy, evidence={"has_switch": switch, **evidence})


def _outcome(answer: Answer, known: Reply, expectations: Expectations) -> str:
    """Return `off`, `on`, or `misread` where the reasoning is sent as the answer."""
    tags = expectations.think
    if tags.open in answer.text or tags.close in answer.text or (answer.where == "inline" and known.where != "inline"):
        return "misread"
    if answer.reasoning.strip():
        return "on"
    # The same prompt and the same words: nothing was switched off but the parser. A closed prompt has tokens more.
    begun = known.reasoning.strip()[:SAME]
    same = answer.prompt_tokens == known.prompt_tokens and bool(begun) and answer.text.strip().startswith(begun)
    return "misread" if same else "off"


def _judged(name: str, outcome: str, switch: bool | None) -> tuple[bool, str]:
    """Return whether that is a fault, and what is to be said."""
    if outcome == "off":
        return False, "thinking can be switched off: the answer comes without reasoning"
    if outcome == "misread":
        words = "with thinking switched off the model thinks all the same, and its reasoning is sent as the answer"
        known = switch is False and engine(name).habits.believes_in_switch
        return not known, f"{words}; known of {name} where the template has no switch: clients must not ask for it" if known else words
    if switch:
        return True, "the template can switch thinking off, and the server does not: the model thinks all the same"
    why = "the template has no switch" if switch is False else "whether the template has a switch is not known"
    return False, f"thinking cannot be switched off ({why}): the model thinks as ever, and its reasoning stays apart"
