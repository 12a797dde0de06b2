"""The command `thinkship bench`: what can be asked for; no logic lives here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit.options import ENGINES, POSITIVE, RUNNER, STORE
from toolkit.scoring import QUESTIONS


class Streams(click.ParamType[tuple[int, ...]]):
    """Numbers of streams at once, as `1,8,32`."""

    name = "streams"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> tuple[int, ...]:
        """Return the numbers in the order given."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers: name them as 1,8,32", parameter, context)
        if not all(1 <= number <= 1024 for number in numbers):
            self.fail(f"{value!r}: each must lie within 1 and 1024", parameter, context)
        return numbers


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option("--engine", type=ENGINES, help="With a recipe: which server is started and timed; with --url: what it is, where known.")
@click.option("--variant", help="With a recipe: quantisation to serve; the recipe's if not given.")
@click.option("--url", help="An OpenAI-compatible endpoint, as http://host:port/v1; the running server's if neither this nor a recipe is given.")
@click.option("--model", help="Served name; the endpoint's first if not given.")
@click.option("--api-key-file", type=click.Path(path_type=Path), help="File with the API key of --url; OPENAI_API_KEY if not given.")
@click.option("--streams", type=Streams(), default="1,8", show_default=True, help="How many are asked at once, one level after the other.")
@click.option("--requests", type=click.IntRange(1), help="Answers a level; twice its streams, at least 8, if not given.")
@click.option("--tokens", type=click.IntRange(1), default=256, show_default=True, help="Longest answer, reasoning included.")
@QUESTIONS
@click.option("--timeout", type=POSITIVE, default=120.0, show_default=True, help="Seconds one answer may take.")
@click.option("--json", "as_json", is_flag=True, help="Print for programs.")
@RUNNER
@STORE
def bench(recipe: Path | None, store: Path, **asked: Any) -> None:
    """Time an endpoint: first token, first token of the answer, tokens a second, latency; thinking apart from the answer."""
    from toolkit.bench import session

    session.run(recipe, store, session.Asked(**asked))
