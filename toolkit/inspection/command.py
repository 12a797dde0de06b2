"""`thinkship data inspect`: what a dataset holds, shown before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit.options import RUNNER, STORE


@click.command()
@click.argument("subject", metavar="RECIPE_OR_FILE", type=click.Path(path_type=Path))
@click.option("--model-dir", type=click.Path(path_type=Path), help="HF checkpoint or its tokenizer's files, instead of the recipe's base.")
@click.option("--samples", type=click.IntRange(0, 200), default=12, show_default=True, help="Rows of each source that are shown token by token.")
@click.option("--html", "page", type=click.Path(path_type=Path), help="Write the page here; <name>-data.html if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings for programs; the page is then written with --html alone.")
@RUNNER
@STORE
def inspect(subject: Path, page: Path | None, as_json: bool, **ways: Any) -> None:
    """Show what a dataset holds: lengths, shapes, dropped rows, duplicates, overlap, and rows as the model sees them."""
    from toolkit import console
    from toolkit.inspection import survey

    with console.quiet(as_json):
        found = survey.inspect(subject, survey.Ways(**ways))
    survey.show(found, page, as_json)
