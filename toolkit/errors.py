"""The whole error tree: one class and one exit code a kind of failure, each with its remedy."""

from __future__ import annotations


class ThinkshipError(Exception):
    """What went wrong and how to mend it; printed as two lines, `error:` and `fix:`."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message, self.remedy = message, remedy


class UsageError(ThinkshipError):
    """The command line asks for something that does not exist (exit code 2)."""

    exit_code = 2


class InvalidError(ThinkshipError):
    """The recipe or the data is wrong (exit code 3)."""

    exit_code = 3


class NotReadyError(ThinkshipError):
    """The machine lacks something: a tool, space, a free port, a reachable index (exit code 4)."""

    exit_code = 4


class BusyError(NotReadyError):
    """An endpoint takes no more requests for now (exit code 4); `wait` is the seconds that it asks for, None where it names none."""

    def __init__(self, message: str, remedy: str = "", wait: float | None = None) -> None:
        super().__init__(message, remedy)
        self.wait = wait


class FailedError(ThinkshipError):
    """A program that should have worked ended otherwise (exit code 5)."""

    exit_code = 5


class RefusedError(FailedError):
    """A server understood a request and refused it with a 4xx."""


class BrokenError(ThinkshipError):
    """A contract is broken: an artefact or an endpoint is not what it claims to be (exit code 6)."""

    exit_code = 6


BY_CODE: dict[int, type[ThinkshipError]] = {kind.exit_code: kind for kind in (UsageError, InvalidError, NotReadyError, FailedError, BrokenError)}
"""A stage program ends with these codes too (images/*/program.py); the runner turns them back into the class."""
