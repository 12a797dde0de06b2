"""Questions asked by so many clients at once, each answer streamed and timed: a closed loop, in which a client asks again when it was answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

from toolkit.engines import Answer
from toolkit.engines.chat import Chat
from toolkit.errors import ThinkshipError


@dataclass(frozen=True)
class Moment:
    """One piece of a streamed answer."""

    seconds: float
    """When it came, counted from the request."""
    has_reasoning: bool
    """Whether there was reasoning by then."""
    in_text: bool
    """Whether it added to the answer more than white space."""


@dataclass(frozen=True)
class Timing:
    """One answer: moments in seconds since its request, and tokens."""

    first: float
    """The first piece of any kind."""
    first_answer: float | None
    """The first piece of the answer that is no white space, None where there is none, as in an answer that is cut off while thinking."""
    last: float
    gaps: tuple[float, ...]
    """Seconds between neighbouring pieces."""
    thinking: int
    answer: int
    told: bool
    """Whether the server told the tokens of the thinking; if not, all tokens are shared out by the number of pieces."""

    @property
    def tokens(self) -> int:
        """Tokens of thinking and answer."""
        return self.thinking + self.answer

    @property
    def speed(self) -> float | None:
        """Tokens a second after the first, None for a single piece."""
        return (self.tokens - 1) / (self.last - self.first) if self.last > self.first else None


@dataclass(frozen=True)
class Level:
    """What so many streams at once came to."""

    streams: int
    seconds: float
    """From the first request to the end of the last answer."""
    timings: tuple[Timing, ...]
    errors: tuple[str, ...]


Progress = Callable[[int, int, str], None]


def level(chat: Chat, questions: Sequence[str], streams: int, tokens: int, progress: Progress = lambda *_: None) -> Level:
    """Ask every question once, `streams` at once, each answered with at most `tokens` tokens; an answer that fails is kept as its error."""
    results: list[Timing | ThinkshipError] = []
    began = time.monotonic()
    with ThreadPoolExecutor(streams) as pool:
        for result in pool.map(lambda question: _timed(chat, question, tokens), questions):
            results.append(result)
            progress(len(results), len(questions), f"answers, {streams} at once")
    timings = tuple(result for result in results if isinstance(result, Timing))
    errors = tuple(result.message for result in results if isinstance(result, ThinkshipError))
    return Level(streams, time.monotonic() - began, timings, errors)


def _timed(chat: Chat, question: str, tokens: int) -> Timing | ThinkshipError:
    moments: list[Moment] = []
    before = answer = Answer("", "", None)
    try:
        began = time.monotonic()
        for answer in chat.live([{"role": "user", "content": question}], tokens, stream_options={"include_usage": True}):
            if moment := grown(before, answer, time.monotonic() - began):
                moments.append(moment)
            before = answer
    except ThinkshipError as error:
        return error
    return timing(answer, moments)


def grown(before: Answer, after: Answer, seconds: float) -> Moment | None:
    """Return what came between two states of a streamed answer, None where nothing did."""
    if (before.reasoning, before.text) == (after.reasoning, after.text):
        return None
    new = after.text.removeprefix(before.text)
    return Moment(seconds, bool(after.reasoning), bool(new.strip()) and after.text != before.text)


def timing(answer: Answer, moments: Sequence[Moment]) -> Timing:
    """Take an answer's pieces apart into thinking and answer.

    A server that leaves the thinking in the content, without the opening tag, shows what it was only by its closing tag: until then there is no
    reasoning, and nothing counts as answer.
    """
    inline = answer.where == "inline"
    seconds = [moment.seconds for moment in moments]
    told, total = bool(answer.reasoning_tokens), len(moments) if answer.completion_tokens is None else answer.completion_tokens
    spoken = [moment.in_text and (moment.has_reasoning or not inline) for moment in moments]
    first = spoken.index(True) if True in spoken else None
    thinking = (len(moments) if first is None else first) if answer.reasoning else 0
    thought = min((answer.reasoning_tokens or 0) if told else round(total * thinking / max(len(moments), 1)), total)
    return Timing(
        first=seconds[0] if seconds else answer.seconds,
        first_answer=None if first is None else seconds[first],
        last=seconds[-1] if seconds else answer.seconds,
        gaps=tuple(later - earlier for earlier, later in pairwise(seconds)),
        thinking=thought,
        answer=total - thought,
        told=told,
    )
