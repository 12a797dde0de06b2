"""Questions asked by so many clients at once, each answer streamed and timed: a closed loop, in which a client asks again when it was answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

from toolkit.engines import Answer
from toolkit.engines.chat import Chat, Piece
from toolkit.engines.reading import FIELDS
from toolkit.errors import ThinkshipError


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
    try:
        answer, pieces = chat.timed([{"role": "user", "content": question}], tokens, stream_options={"include_usage": True})
        return timing(answer, pieces, chat.think.close)
    except ThinkshipError as error:
        return error


def timing(answer: Answer, pieces: Sequence[Piece], close: str) -> Timing:
    """Take an answer's pieces apart into thinking and answer; `close` ends the thinking of a server that leaves it in the content."""
    thinking = _thinking(pieces, close if answer.where == "inline" else "")
    moments = [piece.seconds for piece in pieces]
    total = len(pieces) if answer.completion_tokens is None else answer.completion_tokens
    told = bool(answer.reasoning_tokens)
    thought = min((answer.reasoning_tokens or 0) if told else round(total * thinking / max(len(pieces), 1)), total)
    return Timing(
        first=moments[0] if moments else answer.seconds,
        first_answer=next((piece.seconds for piece in pieces[thinking:] if piece.text.strip()), None),
        last=moments[-1] if moments else answer.seconds,
        gaps=tuple(later - earlier for earlier, later in pairwise(moments)),
        thinking=thought,
        answer=total - thought,
        told=told,
    )


def _thinking(pieces: Sequence[Piece], close: str) -> int:
    """Return how many leading pieces are thinking: those in a field for it, or, inline, those up to the closing tag."""
    if not close:
        return sum(piece.field in FIELDS for piece in pieces)
    seen = ""
    for count, piece in enumerate(pieces, 1):
        seen += piece.text
        if close in seen:
            return count
    return len(pieces)
