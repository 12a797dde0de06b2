"""The command line run in this process, as a person meets it: a new interpreter each time would cost the suite its ten seconds."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from toolkit.cli import main
from toolkit.stages import ROOT


@dataclass(frozen=True)
class Done:
    """How the command line ended."""

    returncode: int
    stdout: str
    stderr: str


def thinkship(*arguments: object) -> Done:
    """Run the command line from the repository's folder."""
    out, err = io.StringIO(), io.StringIO()
    with argv_of(arguments), contextlib.chdir(ROOT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def argv_of(arguments: Iterable[object]) -> Iterator[None]:
    before, sys.argv = sys.argv, ["thinkship", *map(str, arguments)]
    try:
        yield
    finally:
        sys.argv = before
