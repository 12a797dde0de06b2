"""The journal beside the output: a first line with the settings, then one line an answer, each on the disk before the next is asked for.

A kill costs the answers that were under way and no other. A half-written last line is dropped; a broken one in the middle is refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from toolkit.engines import Answer
from toolkit.errors import InvalidError, NotReadyError, UsageError
from toolkit.making import Unit

HEAD = b'{"journal": '
"""How every journal begins."""
Key = tuple[str, int]
"""What a line is found by: the SHA-256 of the question's text, and the sample's number."""


class Line(BaseModel):
    """One answer as it was given, marked by nobody yet."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    question: str
    sample: int
    reasoning: str
    text: str
    finish: str | None
    where: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    reasoning_tokens: int | None
    seconds: float

    def answer(self) -> Answer:
        """Return it as the engines give it."""
        return Answer(**self.model_dump(exclude={"question", "sample"}))


def key(unit: Unit) -> Key:
    """Return what finds a unit again in another run, whatever else stands in the file of questions then."""
    return hashlib.sha256(unit.item.text.encode()).hexdigest(), unit.sample


def beside(output: Path) -> Path:
    """Return where an output's journal lies."""
    return output.with_name(f"{output.name}.journal")


@contextmanager
def opened(path: Path, settings: Mapping[str, Any]) -> Iterator[Journal]:
    """Open or begin a journal for this process alone; one that is left without an answer is removed.

    UsageError where it cannot be written or was begun with other settings, NotReadyError where another process writes it, InvalidError
    with the line that is no journal's.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", "name an --output in a folder of yours") from error
    try:
        _alone(file, path)
        journal = Journal(file, path, _recovered(file, path, settings))
        try:
            yield journal
        finally:
            if not journal.answers:
                path.unlink()
    finally:
        os.close(file)


class Journal:
    """The answers so far, and the file that more are added to."""

    def __init__(self, file: int, path: Path, answers: dict[Key, Answer]) -> None:
        self._file, self.path, self.answers = file, path, answers

    def add(self, unit: Unit, answer: Answer) -> None:
        """Put an answer on the disk; NotReadyError where there is no room for it."""
        question, sample = key(unit)
        line = Line(question=question, sample=sample, **{name: value for name, value in asdict(answer).items() if name != "deltas"})
        _write(self._file, self.path, line.model_dump())
        self.answers[question, sample] = answer


def _alone(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise NotReadyError(f"another `thinkship data make` writes {path}", "wait for its end, or name another --output") from error


def _recovered(file: int, path: Path, settings: Mapping[str, Any]) -> dict[Key, Answer]:
    data = path.read_bytes()
    if data[: len(HEAD)] != HEAD[: len(data)]:
        raise InvalidError(f"{path}: no journal of `thinkship data make`", "name another --output")
    whole = data[: data.rfind(b"\n") + 1]
    if not whole:
        os.ftruncate(file, 0)
        _write(file, path, {"journal": 1, **settings})
        return {}
    first, *lines = [_parsed(path, number, line) for number, line in enumerate(whole.split(b"\n")[:-1], 1)]
    _same(path, first, {"journal": 1, **settings})
    try:
        found = [Line.model_validate(line) for line in lines]
    except ValidationError as error:
        raise InvalidError(f"{path}: a line is no journal's: {error.errors()[0]['msg']}", "name another --output") from error
    os.ftruncate(file, len(whole))  # what follows is a line that a kill cut in two
    return {(line.question, line.sample): line.answer() for line in found}


def _parsed(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise InvalidError(f"{path}:{number}: broken JSON: {error}", "remove that line: its question is then asked again") from error


def _same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    other = [f"{name} {found.get(name)!r}, not {value!r}" for name, value in wanted.items() if found.get(name) != value]
    if other:
        raise UsageError(f"{path} was begun with {'; '.join(other)}", "ask as it was begun, or name another --output")


def _write(file: int, path: Path, value: Mapping[str, Any]) -> None:
    line = memoryview((json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
    try:
        while line:
            line = line[os.write(file, line) :]
        os.fsync(file)
    except OSError as error:
        raise NotReadyError(f"{path} cannot be written: {error.strerror}", "make room, then run the same command again to go on") from error
