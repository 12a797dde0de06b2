"""Everything a person reads on the terminal: steps, notes, progress, tables and errors. The only module that prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console as Rich
from rich.console import RenderableType
from rich.markup import escape

from toolkit.errors import ThinkshipError

if TYPE_CHECKING:
    from rich.progress import Progress

_out = Rich(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)  # a log or a pipe has no 80 columns
_err = Rich(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def say(text: str = "") -> None:
    """Print one line as it is."""
    _out.print(escape(text))


def remark(text: str) -> None:
    """Say something beside the result, so that what a program reads stays as it is."""
    _err.print(f"[dim]{escape(text)}[/]")


def show(table: RenderableType) -> None:
    """Print a table or another rich object."""
    _out.print(table)


def emit_json(value: Any) -> None:
    """Print a value as JSON for another program."""
    _out.print(json.dumps(value, indent=2, ensure_ascii=False), markup=False)


@contextmanager
def quiet(wanted: bool = True) -> Iterator[None]:
    """Print nothing but errors while the block runs, where that is wanted: what follows is for a program."""
    _out.quiet = wanted
    try:
        yield
    finally:
        _out.quiet = False


def step(name: str, identity: str, state: str) -> None:
    """Print the line that opens a step: its name, its id and what becomes of it."""
    colour = {"run": "cyan", "done": "green", "skip": "dim", "resume": "yellow"}.get(state, "white")
    _out.print(f"[{colour}]{state:>6}[/]  [bold]{escape(name)}[/]  [dim]{identity}[/]")


def note(text: str) -> None:
    """Print a fact below the running step."""
    _out.print(f"        {escape(text)}")


def error(problem: ThinkshipError) -> None:
    """Print an error and its remedy."""
    _err.print(f"[bold red]error:[/] {escape(problem.message)}")
    if problem.remedy:
        _err.print(f"[bold]fix:[/] {escape(problem.remedy)}")


class Bar:
    """A progress bar that appears with the first report and stays silent where no person watches."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._task = progress, progress.add_task("", total=None, visible=False)

    def report(self, done: int, total: int, text: str) -> None:
        """Set how far the work is."""
        self._progress.update(self._task, completed=done, total=total, description=escape(text), visible=True)


@contextmanager
def bar() -> Iterator[Bar]:
    """Show a progress bar while the block runs."""
    # imported here: commands that only look, such as plan, need no bar and should answer at once
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("        {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_out, transient=True, disable=not _out.is_terminal) as progress:
        yield Bar(progress)
