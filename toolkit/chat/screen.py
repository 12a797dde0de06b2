"""One answer on a terminal: thinking dimmed while it comes and folded to one line once the answer begins, the answer as it comes."""

from __future__ import annotations

import re

from toolkit import console
from toolkit.engines import Answer
from toolkit.recipe import Think

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters by which a text could steer the terminal; tab and newline are none of them."""
WINDOW = 8000
"""Characters of the thinking that are laid out anew several times a second."""


def plain(text: str) -> str:
    """Return a model's text without what would steer the terminal."""
    return CONTROL.sub("", text)


class Screen:
    """Takes an answer as it grows; `fold` lets the thinking disappear behind its length."""

    def __init__(self, fold: bool = True, think: Think | None = None) -> None:
        self._fold, self._think = fold, think or Think()
        self._passing: console.Passing | None = None
        self._thinking = self._text = ""
        self._pieces, self._seconds = 0, 0.0
        self._left = False
        """Whether the thinking is over."""

    def take(self, seen: Answer) -> None:
        """Show what is new."""
        reasoning, text = plain(seen.reasoning), plain(seen.text).lstrip("\n")
        if self._think.open.startswith(text.strip()):
            text = ""  # it may still become a tag
        if not text.startswith(self._text):
            # a server without a parser: what looked like the answer was thinking, as its closing tag has just told
            console.piece("\n(what stands above was thinking)\n", "dim")
            self._text, self._left = "", True
        elif reasoning != self._thinking and not self._left:
            self._show_thinking(reasoning, seen.seconds)
        self._thinking = reasoning
        if text:
            self._show_text(text)

    def end(self, seen: Answer) -> None:
        """Show how the answer ended: its tokens, whether it was cut off, whether there was any thinking."""
        self.stop()
        notes = (
            [f"{seen.completion_tokens} tokens, {seen.completion_tokens / max(seen.seconds, 0.001):.0f} a second"] if seen.completion_tokens else []
        )
        notes += [f"{seen.reasoning_tokens} of them thinking"] if seen.reasoning_tokens else []
        notes += [] if seen.reasoning.strip() else ["it did not think"]
        notes += [] if seen.text.strip() else ["it did not answer"]
        notes += ["cut off at the limit of tokens"] if seen.finish == "length" else []
        console.piece(f"({', '.join(notes)})\n" if notes else "", "dim")

    def stop(self) -> None:
        """Leave the line that is being written."""
        self._leave_thinking()
        if self._text:
            console.piece("\n")

    def _show_thinking(self, reasoning: str, seconds: float) -> None:
        if self._fold:
            self._passing = self._passing or console.Passing(self._end_of_thinking, lambda: self._length("thinking"))
        else:
            console.piece(reasoning[len(self._thinking) :], "dim")
        self._pieces, self._seconds = self._pieces + 1, seconds

    def _show_text(self, text: str) -> None:
        self._leave_thinking()
        console.piece(text[len(self._text) :])
        self._text = text

    def _leave_thinking(self) -> None:
        if self._left or not self._thinking:
            return
        self._left = True
        if self._passing:
            self._passing.clear()
            console.piece(f"{self._length('thought')}  /think shows it\n", "dim")
        else:
            console.piece("\n\n", "dim")

    def _length(self, verb: str) -> str:
        # one piece of a stream is one token, but for a server that sends several at once
        return f"{verb} for {self._seconds:.1f} s, about {self._pieces} tokens"

    def _end_of_thinking(self) -> str:
        text = self._thinking[-WINDOW:].strip()
        return (text.partition("\n")[2] or text) if len(self._thinking) > WINDOW else text
