"""Everything a person reads on the terminal: steps, notes, progress, tables and errors. The only module that prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console as Rich
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.segment import Segment, Segments
from rich.style import Style
from rich.text import Text

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


def emit(text: str) -> None:
    """Print a text for another program, byte for byte."""
    sys.stdout.write(text)


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
    colour = {"run": "cyan", "done": "green", "skip": "dim", "freed": "dim", "resume": "yellow"}.get(state, "white")
    _out.print(f"[{colour}]{state:>6}[/]  [bold]{escape(name)}[/]  [dim]{identity}[/]")


def note(text: str) -> None:
    """Print a fact below the running step."""
    _out.print(f"        {escape(text)}")


def piece(text: str, style: str | None = None, *, aside: bool = False) -> None:
    """Write a part of a line at once and as it is, `aside` to standard error."""
    if text:
        written = Segments([Segment(text, Style.parse(style) if style else None)])  # anything else would turn tabs into spaces
        (_err if aside else _out).print(written, end="")


def watched() -> bool:
    """Say whether standard output is a terminal."""
    return _out.is_terminal


def ask(prompt: str) -> str:
    """Let a person type a line, with the keys and the history of readline; EOFError at Ctrl-D."""
    with suppress(ImportError):  # not every Python has it
        import readline  # noqa: F401 - its import is what gives input() these
    return input(prompt)


class Passing:
    """The end of a growing text, dimmed, above a line about it: drawn anew several times a second until it is cleared away."""

    def __init__(self, text: Callable[[], str], below: Callable[[], str]) -> None:
        from rich.live import Live

        self._canvas, self._text, self._below = Rich(highlight=False, emoji=False), text, below
        plain: Any = {"redirect_stdout": False, "redirect_stderr": False}
        self._live = Live(get_renderable=self._picture, console=self._canvas, refresh_per_second=10, transient=True, **plain)
        self._live.start()

    def _picture(self) -> RenderableType:
        """Return as much as fits the terminal: what is taller cannot be cleared away."""
        lines = Text(self._text(), style="dim").wrap(self._canvas, self._canvas.width)
        return Group(*lines[-max(self._canvas.height - 3, 1) :], Text(self._below(), style="dim cyan"))

    def clear(self) -> None:
        """Take it away."""
        self._live.stop()


def confirmed(question: str) -> bool:
    """Ask a person yes or no, no being what Enter says; where nobody watches, nobody is asked and it is yes."""
    if not (_out.is_terminal and sys.stdin.isatty()):
        return True
    try:
        return _out.input(f"{escape(question)} [dim](y/N)[/] ").strip().casefold() in ("y", "yes")
    except EOFError:
        return False


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
