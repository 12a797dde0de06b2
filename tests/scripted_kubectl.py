"""A kubectl that answers by a script: for each question a list of answers, of which the last is repeated; every question is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolkit import process
from toolkit.process import Command, Completed

Answer = tuple[str, str, int]


def says(value: Any) -> Answer:
    """Return a good answer."""
    return (value if isinstance(value, str) else json.dumps(value), "", 0)


def refuses(words: str, code: int = 1) -> Answer:
    """Return a refusal."""
    return ("", words + "\n", code)


LOST = refuses("Unable to connect to the server: dial tcp 10.0.0.1:6443: connect: connection refused")
MISSING = refuses('Error from server (NotFound): "x" not found')
THERE = refuses('Error from server (AlreadyExists): jobs.batch "x" already exists')


class Scripted:
    """Stands in for the process seam, where kubectl is called by it; the program itself is called in test_kubectl.py and in tests/cluster."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        """Every question, in order, with the object that it brought."""
        self.interrupt = ""
        """Word of a question at which the user interrupts."""
        self._script: list[tuple[set[str], list[Answer]]] = []
        monkeypatch.setattr(process, "run", self._run)
        monkeypatch.setattr(process, "which", lambda tool, remedy: Path(tool))

    def answers(self, **script: list[Answer]) -> None:
        """Take a script: `get_job=[…]` answers what holds the words get and job; the first that fits answers."""
        self._script = [(set(name.split("_")), list(given)) for name, given in script.items()]

    def was_asked(self, *words: str) -> list[str]:
        """Return the questions that hold these words."""
        return [line for line in self.asked if all(word in line for word in words)]

    def _run(self, command: Command, *, log: Path | None = None, timeout: float | None = None, on_line: Any = None, check: bool = True) -> Completed:
        assert command.argv[0] == "kubectl"
        words = set(command.argv)
        brought = ""
        if "--filename" in command.argv:
            brought = Path(command.argv[command.argv.index("--filename") + 1]).read_text(encoding="utf-8")
            words.add(json.loads(brought)["kind"].lower())
        self.asked.append(" ".join(command.argv) + " " + brought)
        if self.interrupt and self.interrupt in words:
            self.interrupt = ""
            raise KeyboardInterrupt
        out, err, code = self._answer(words, command)
        if log:
            with log.open("a", encoding="utf-8") as sink:
                sink.write(err)
        for line in out.splitlines() if on_line else ():
            on_line(line)
        return Completed(code, out)

    def _answer(self, words: set[str], command: Command) -> Answer:
        for wanted, answers in self._script:
            if wanted <= words:
                return answers.pop(0) if len(answers) > 1 else answers[0]
        raise AssertionError(f"no answer to {command}")


def pod(name: str = "p-1", made: str = "2026-01-01T00:00:00Z", phase: str = "Running", **status: Any) -> dict[str, Any]:
    """Return a pod with the states of its containers: `open`, `stage`, `seal`; a number is an exit code."""
    conditions = status.pop("conditions", [])
    found = {"phase": phase, "conditions": conditions, **{key: status.pop(key) for key in ("reason", "message") if key in status}}
    states = {key: value if isinstance(value, dict) else {"terminated": {"exitCode": value}} for key, value in status.items()}
    rows = [{"name": key, "image": f"thinkship/{key}:1", "state": state} for key, state in states.items()]
    found |= {
        "initContainerStatuses": [row for row in rows if row["name"] != "seal"],
        "containerStatuses": [row for row in rows if row["name"] == "seal"],
    }
    return {"metadata": {"name": name, "creationTimestamp": made}, "status": found}


def pods(*several: dict[str, Any]) -> Answer:
    """Return a list of pods."""
    return says({"items": list(several)})


def job(*conditions: tuple[str, str], at: str = "2025-12-31T00:00:00Z") -> Answer:
    """Return a Job with its conditions: (type, message)."""
    found = [{"type": kind, "status": "True", "message": words, "lastTransitionTime": at} for kind, words in conditions]
    return says({"status": {"conditions": found}})


def log(*lines: Any, second: int = 1) -> Answer:
    """Return a container's output with its times; what is no text is an event."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    return says("".join(f"2026-01-01T00:00:{second:02}.{number:09}Z {text}\n" for number, text in enumerate(texts)))


RUNNING: dict[str, Any] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
