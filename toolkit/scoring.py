"""The options by which a command line says which held-out questions are asked and how the answers are marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

QUESTIONS = click.option(
    "--questions", type=click.Path(path_type=Path), help="Held-out questions: JSON lines with `question` and, to be marked, `expected`."
)
METRICS = click.Choice(["numeric", "exact", "choice", "judge"])
MOST = click.IntRange(1)


def scoring(command: Any) -> Any:
    """Give a command the options by which an endpoint's answers to held-out questions are marked."""
    for option in (
        click.option("--against", type=click.Path(path_type=Path), help="Earlier report.json over the same questions: say improved or worse."),
        click.option("--judge-model", help="With --metric judge: the name of the model that marks. Its key is read from JUDGE_API_KEY."),
        click.option("--judge-url", help="With --metric judge: the address of the model that marks, as http://host:port/v1."),
        click.option("--parallel", type=MOST, help="Questions asked at once; 1 if not given."),
        click.option("--max-tokens", type=MOST, help="Budget of one answer, reasoning included; 512 if not given."),
        click.option("--at-least", type=click.FloatRange(0, 1), help="Least share of right answers; measured only if not given."),
        click.option("--limit", type=MOST, help="Ask only the first n questions."),
        click.option("--metric", type=METRICS, help="How the answers are marked; numeric if not given."),
        QUESTIONS,
    ):
        command = option(command)
    return command
