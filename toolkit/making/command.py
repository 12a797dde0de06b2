"""`thinkship data make` as it is typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit.options import ENGINES, POSITIVE, STORE


@click.command("make")
@click.argument("questions", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Rows, as JSON lines; the journal lies beside it.")
@click.option("--url", help="The teacher, as http://host:port/v1; the running server's if not given.")
@click.option("--model", help="Served name; the endpoint's first if not given.")
@click.option("--engine", type=ENGINES, help="What the endpoint runs on, where known.")
@click.option("--api-key-file", type=click.Path(path_type=Path), help="File with the API key; OPENAI_API_KEY if not given.")
@click.option("--samples", type=click.IntRange(1), default=1, show_default=True, help="How often a question is asked at most.")
@click.option("--keep", type=click.IntRange(1), default=1, show_default=True, help="Answers kept a question; it is asked no more once it has them.")
@click.option("--check", type=click.Choice(["exact", "numeric", "choice", "none"]), help="How an answer is compared with the expected one.")
@click.option("--parallel", type=click.IntRange(1, 256), default=4, show_default=True, help="Questions asked at once.")
@click.option("--rate", type=POSITIVE, help="Requests a minute at most.")
@click.option("--max-tokens", type=click.IntRange(1), help="Tokens of one answer, reasoning included; the server's own limit if not given.")
@click.option("--temperature", type=click.FloatRange(0), help="The server's own if not given.")
@click.option("--system", help="System prompt.")
@click.option("--prompt-file", type=click.Path(path_type=Path), help="Text in which {question} stands for the question.")
@click.option("--timeout", type=POSITIVE, default=600.0, show_default=True, help="Seconds one answer may take.")
@click.option("--price-in", type=click.FloatRange(0), help="Price of a million prompt tokens.")
@click.option("--price-out", type=click.FloatRange(0), help="Price of a million completion tokens.")
@click.option("--estimate", is_flag=True, help="Ask the first few questions, say what the rest will take, and end.")
@click.option("--yes", is_flag=True, help="Do not ask whether to go on after the estimate.")
@STORE
def make(questions: Path, **order: Any) -> None:
    """Ask a teacher for reasoning and answers to a list of questions, and keep those whose answer checks; a killed run goes on where it was."""
    from toolkit.making import session

    session.make(questions, session.Order(**order))
