"""How a runner and a stage program talk: args.json in, JSON lines on standard output (images/*/program.py), and the settings it runs under."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolkit import console, process
from toolkit.errors import BY_CODE, FailedError, ThinkshipError
from toolkit.pipeline import Task
from toolkit.plan import Step

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
QUIET = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONDONTWRITEBYTECODE": "",  # set by some shells; without cached bytecode importing transformers takes 19 s instead of 6
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}


def write_arguments(step: Step, task: Task) -> Path:
    """Write the args.json of a step into its scratch folder and return its path."""
    places = {"output": str(task.output.resolve()), "scratch": str(task.scratch.resolve())}
    places |= {"downloads": str(task.downloads.resolve())} if task.downloads else {}
    given = {"inputs": {name: str(path.resolve()) for name, path in task.inputs.items()}, **places, "recipe": step.recipe}
    path = task.scratch.resolve() / "args.json"
    path.write_text(json.dumps(given, indent=2, ensure_ascii=False), encoding="utf-8")
    return path


class Events:
    """Reads what a stage program says on its standard output (the protocol of images/*/program.py)."""

    def __init__(self) -> None:
        self.error: dict[str, str] | None = None
        self._context = console.bar()

    def __enter__(self) -> Events:
        self._bar = self._context.__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        self._context.__exit__(*problem)

    def read(self, line: str) -> None:
        """Take one line; what is no event is the program's own chatter and stays in its log."""
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, TypeError, KeyError):
            return
        if kind == "note":
            console.note(event["text"])
        elif kind == "progress":
            self._bar.report(event["done"], event["total"], f"{event['unit']} {event.get('text', '')}")
        elif kind == "error":
            self.error = event

    def judge(self, step: Step, code: int, task: Task) -> None:
        """Raise the error that the program told of, or one made of its exit code and last words."""
        if self.error:
            kind: type[ThinkshipError] = BY_CODE.get(code, FailedError)
            raise kind(f"{step.name}: {self.error['message']}", self.error["remedy"])
        if code != 0:
            raise FailedError(f"{step.name}: the program ended with {process.ending(code)}\n{process.tail(task.log)}", f"see {task.log}")
