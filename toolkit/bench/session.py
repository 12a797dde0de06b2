"""One session of `bench`: who is timed, with which questions, and what is printed of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from toolkit import console, questions, runs, service
from toolkit.bench.figures import figures, table
from toolkit.bench.load import level
from toolkit.endpoints import Address
from toolkit.engines import Endpoint
from toolkit.engines.chat import Chat
from toolkit.errors import FailedError, UsageError
from toolkit.recipe import EngineName
from toolkit.store import Store

GENERAL = (
    "Why is the sky blue?",
    "Is 91 a prime number?",
    "How many days are there from 3 March to 17 May?",
    "Name three rivers of Asia and the seas that they flow into.",
    "What is 48 + 77?",
    "A train leaves at 9:40 and arrives at 13:05. How long does it travel?",
    "Explain in two sentences what a hash function is.",
    "Which weighs more, a litre of water or a litre of oil?",
    "What is the next number: 2, 6, 12, 20?",
    "Translate `good morning` into French, German and Spanish.",
    "Who wrote `Faust`, and when did its first part appear?",
    "Why does ice float on water?",
)
"""Asked where no questions are given."""


@dataclass(frozen=True)
class Asked:
    """What the command line asks for; field by field the options of `bench`."""

    engine: EngineName | None
    variant: str | None
    url: str | None
    model: str | None
    api_key_file: Path | None
    streams: tuple[int, ...]
    requests: int | None
    tokens: int
    questions: Path | None
    timeout: float
    as_json: bool
    runner: str

    def count(self, streams: int) -> int:
        """Return how many answers a level is measured by: each stream asks more than once, so that it is not the start alone that counts."""
        return self.requests or max(8, 2 * streams)


def run(recipe: Path | None, store: Path, asked: Asked) -> None:
    """Time an endpoint level by level and print the figures; FailedError where a level has no answer at all."""
    if recipe and asked.url:
        raise UsageError("a recipe and --url were both given", "name the recipe, whose engine is started and timed, or the endpoint alone")
    given = [question.text for question in questions.read(asked.questions)] if asked.questions else []
    with _endpoint(recipe, store, asked) as (endpoint, held_out):
        rows = _levels(endpoint, given or held_out, asked)
    if asked.as_json:
        console.emit_json(
            {"schema": 1, "url": endpoint.url, "model": endpoint.model, "engine": endpoint.engine, "tokens": asked.tokens, "levels": rows}
        )
    else:
        _show(endpoint, rows)
    silent = [row for row in rows if not row["answers"]]
    if silent:
        raise FailedError(f"no answer with {silent[0]['streams']} streams at once: {silent[0]['errors'][0]}", "look at the server's log")


@contextmanager
def _endpoint(recipe: Path | None, store: Path, asked: Asked) -> Iterator[tuple[Endpoint, Sequence[str]]]:
    """Yield who is timed and the questions that belong to it; a recipe's engine that does not run yet ends with the block."""
    if not recipe:
        address = Address(asked.url, asked.model, asked.engine, asked.api_key_file)
        yield address.endpoint(store, min(asked.timeout, 10.0)), GENERAL
        return
    if not asked.engine:
        raise UsageError("which of the recipe's engines is to be timed?", "name it with --engine")
    with service.served(recipe, asked.engine, store, asked.variant, asked.runner) as endpoint:
        dataset = next(step for step in runs.steps(recipe, (asked.engine,)) if step.name == "dataset")
        rows = (Store(store).directory(dataset) / "eval.jsonl").read_text(encoding="utf-8").splitlines()
        yield endpoint, [json.loads(row)["question"] for row in rows]


def _levels(endpoint: Endpoint, given: Sequence[str], asked: Asked) -> list[dict[str, Any]]:
    """Measure every level after one answer that is not counted; the levels go on through the questions, so that few prompts are cached."""
    source = cycle(given)
    rows = []
    with Chat(endpoint, timeout=asked.timeout) as chat, console.bar() as bar:
        level(chat, list(islice(source, 1)), 1, asked.tokens)
        for streams in asked.streams:
            rows.append(figures(level(chat, list(islice(source, asked.count(streams))), streams, asked.tokens, bar.report)))
    return rows


def _show(endpoint: Endpoint, rows: Sequence[dict[str, Any]]) -> None:
    console.say(f"{endpoint.model} at {endpoint.url} ({endpoint.engine}); seconds as p50 / p95, thinking and answer in mean tokens\n")
    console.show(table(rows))
    for row in rows:
        for error in row["errors"]:
            console.say(f"{row['streams']} streams: {error}")
        if row["cut_while_thinking"]:
            console.say(f"{row['streams']} streams: {row['cut_while_thinking']} answers were cut off while thinking; give them more --tokens")
    if any(row["thinking_tokens_told_by"] != "the server" for row in rows):
        console.say("\nThe server does not tell how many tokens were thinking: they are shared out by the number of streamed pieces.")
