"""The conversation through pipes: one question a line comes in, answers alone go to standard output, thinking to standard error."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

from toolkit import console
from toolkit.chat.conversation import Conversation
from toolkit.engines import Answer
from toolkit.errors import BrokenError


def answer_all(conversation: Conversation, lines: Iterable[str]) -> None:
    """Answer line after line as one conversation, which `/clear` begins anew; errors as `answer`."""
    for line in lines:
        question = line.strip()
        if question == "/clear":
            conversation.clear()
        elif question:
            answer(conversation, question)


def answer(conversation: Conversation, question: str) -> None:
    """Write one answer; BrokenError where there is none, others as `Conversation.ask`.

    Nothing goes to standard output before the whole answer is there: where a server leaves thinking in the content, its end shows only
    then which part is the answer.
    """
    seen: Answer | None = None
    written = 0
    with closing(conversation.ask(question)) as growing:
        for seen in growing:
            console.piece(seen.reasoning[written:], "dim", aside=True)
            written = len(seen.reasoning)
    console.piece("\n" if written else "", aside=True)
    require(seen)
    assert seen is not None
    console.piece(f"{seen.text.strip()}\n")
    if seen.finish == "length":
        console.piece("(cut off at the limit of tokens)\n", aside=True)


def require(seen: Answer | None) -> None:
    """Raise BrokenError where an answer holds nothing but thinking."""
    if seen is None or not seen.text.strip():
        cut = seen is not None and seen.finish == "length"
        remedy = "allow more tokens with --max-tokens, or serve a longer context" if cut else "`thinkship verify` says what is wrong with the model"
        raise BrokenError(f"there is no answer{': the tokens ended while the model was thinking' if cut else ''}", remedy)
