"""Runs a step as a process of this machine, in the environment that its lock pins; host stages run in this very process."""

from __future__ import annotations

import json
from typing import Any

from toolkit import console, process
from toolkit.errors import BY_CODE, FailedError, ThinkshipError
from toolkit.host import HOST_STAGES
from toolkit.pipeline import Task
from toolkit.plan import Step
from toolkit.runners.environment import Environment
from toolkit.stages import ROOT

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
QUIET = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONDONTWRITEBYTECODE": "",  # set by some shells; without cached bytecode importing transformers takes 19 s instead of 6
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}


class LocalRunner:
    """The runner behind `--runner local`."""

    name = "local"

    def run(self, step: Step, task: Task) -> None:
        """Run a step's program and turn its events into notes, progress and errors."""
        if step.stage.environment is None:
            HOST_STAGES[step.stage.name](step.recipe, task)
            return
        python = Environment(step.stage.environment).install()
        arguments = task.scratch / "args.json"
        arguments.write_text(json.dumps(_arguments(step, task), indent=2, ensure_ascii=False), encoding="utf-8")
        command = process.Command((str(python), str(ROOT / step.stage.program), str(arguments)), QUIET | ({} if step.stage.network else OFFLINE))
        with Events() as events:
            done = process.run(command, log=task.log, on_line=events.read, check=False)
        events.judge(step, done.code, task)


def _arguments(step: Step, task: Task) -> dict[str, Any]:
    places = {"output": str(task.output.resolve()), "scratch": str(task.scratch.resolve())}
    return {"inputs": {name: str(path.resolve()) for name, path in task.inputs.items()}, **places, "recipe": step.recipe}


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
