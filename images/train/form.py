"""How a conversation is written for one model: the prompt as the chat template renders it for a server, and our own completion.

Published templates cut the reasoning out of the assistant's turn, so that the completion is built here: reasoning, closing tag, answer,
end of turn. Reasoning of earlier turns is not in the prompt, as it is not in what a client sends.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conversation import Conversation, RefusedError
from program import BROKEN, ProgramError


@dataclass(frozen=True)
class Pair:
    """A row as the model sees it; lengths in tokens."""

    question: str
    expected: str | None
    prompt: str
    completion: str
    prompt_tokens: int
    thinking_tokens: int
    completion_tokens: int

    @property
    def tokens(self) -> int:
        """Length of the row."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Form:
    """The template, the tags and the end of a turn of one model."""

    tokenizer: Any
    open: str
    close: str
    turn_end: str
    forbidden: tuple[str, ...]

    @classmethod
    def of(cls, tokenizer: Any, think: dict[str, Any], model: Path) -> Form:
        """Read the form off a model's template; ProgramError (6) when the token that ends a turn is not one at which servers stop."""
        mark = "ANSWER"
        turns = [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": mark}]
        end = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(mark)[2].strip() or tokenizer.eos_token
        stops = json.loads((model / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
        ids = tokenizer.encode(end, add_special_tokens=False)
        if len(ids) != 1 or ids[0] not in (stops if isinstance(stops, list) else [stops]):
            message = f"the template ends a turn with {end!r} (tokens {ids}), where generation stops at {stops}"
            raise ProgramError(message, "the model would never learn to stop: correct base.family", BROKEN)
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        return cls(tokenizer, think["open"], think["close"], end, tuple(sorted(special - {think["open"], think["close"]})))

    def write(self, said: Conversation, expected: str | None) -> Pair:
        """Write a conversation whose last turn reasons, if only by an empty text; ProgramError (6) when its reasoning or its end did not survive."""
        messages = said.messages()
        prompt = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        thought = f"{self._lead(prompt)}{said.answer.reasoning or ''}\n{self.close}"
        completion = f"{thought}\n\n{said.answer.content}{self.turn_end}"
        ids, thinking = self.ids(completion), len(self.ids(thought))
        close, end = self.ids(self.close)[0], self.ids(self.turn_end)[0]
        shown = all(message["content"] in prompt for message in messages)
        sound = shown and ids.count(close) == 1 and ids.index(close) == thinking - 1 and ids[-1] == end
        if not sound or self.tokenizer.decode(ids) != completion:
            raise ProgramError(f"tokens lose the form of this row: {completion!r}", "check base.think and base.family against the model", BROKEN)
        return Pair(said.question, expected, prompt, completion, len(self.ids(prompt)), thinking, len(ids))

    def _lead(self, prompt: str) -> str:
        """Return what stands between the prompt and the reasoning: nothing where the template opens the thinking by itself."""
        if prompt.endswith(f"{self.open}\n"):
            return ""
        return "\n" if prompt.endswith(self.open) else f"{self.open}\n"

    def ids(self, text: str) -> list[int]:
        """Return a text's tokens, nothing added."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def check(self, text: str) -> str:
        """Return a text without its outer space; RefusedError when it holds a tag or a control token, which would break the form."""
        return clean(text, (self.open, self.close), self.forbidden)


@dataclass(frozen=True)
class Characters:
    """The form of a file that is looked at without a model: what is asked and answered, measured in characters."""

    open: str = "<think>"
    close: str = "</think>"

    def write(self, said: Conversation, expected: str | None) -> Pair:
        """Write a conversation without a template."""
        prompt = "\n\n".join(message["content"] for message in said.messages())
        thought = f"{self.open}\n{said.answer.reasoning or ''}\n{self.close}"
        completion = f"{thought}\n\n{said.answer.content}"
        return Pair(said.question, expected, prompt, completion, len(prompt), len(thought), len(completion))

    def check(self, text: str) -> str:
        """Return a text without its outer space; RefusedError when it holds a tag."""
        return clean(text, (self.open, self.close), ())


def clean(text: str, tags: tuple[str, str], forbidden: tuple[str, ...]) -> str:
    """Return a text without its outer space; RefusedError when it holds one of the tags or of the forbidden tokens."""
    opened, closed = map(text.count, tags)
    if opened != closed:
        raise RefusedError("unclosed tag")
    if opened:
        raise RefusedError("tag inside a text" if opened == 1 else "doubled tag")
    if any(token in text for token in forbidden):
        raise RefusedError("control token inside a text")
    return text.strip()
