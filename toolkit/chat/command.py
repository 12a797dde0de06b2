"""`thinkship chat` as it is typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit.options import ENGINES, POSITIVE, RUNNER, STORE


@click.command("chat")
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option("--engine", type=ENGINES, help="Which of the recipe's servers, its first if not given; with --url what the endpoint runs on.")
@click.option("--url", help="An OpenAI-compatible endpoint, as http://host:port/v1; without it and a recipe the running server.")
@click.option("--model", help="Served name; the endpoint's first if not given.")
@click.option("--ask", "question", help="Ask this one question and end.")
@click.option("--no-fold", is_flag=True, help="Leave the thinking on the screen.")
@click.option("--system", help="System prompt.")
@click.option("--max-tokens", type=click.IntRange(1), help="Tokens of one answer, thinking included; the server's own limit if not given.")
@click.option("--temperature", type=click.FloatRange(0), help="The server's own if not given.")
@click.option("--timeout", type=POSITIVE, default=600.0, show_default=True, help="Seconds one answer may take.")
@click.option("--api-key-file", type=click.Path(path_type=Path), help="With --url: file with the API key; OPENAI_API_KEY if not given.")
@click.option("--variant", help="Quantisation to serve; the recipe's if not given.")
@RUNNER
@STORE
def chat(question: str | None, no_fold: bool, **given: Any) -> None:
    """Talk to a model: its thinking is dimmed and folds away. Through pipes a line of standard input is a question, and answers alone come out."""
    from toolkit.chat import talk
    from toolkit.chat.conversation import Manner

    manner = Manner(given.pop("system"), given.pop("max_tokens"), given.pop("temperature"))
    talk.talk(talk.Whom(**given), manner, question, not no_fold)
