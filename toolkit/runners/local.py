"""Runs a step as a process of this machine, in the environment that its lock pins; host stages run in this very process."""

from __future__ import annotations

from pathlib import Path

from toolkit import process
from toolkit.host import HOST_STAGES
from toolkit.hubs import offline
from toolkit.pipeline import Task
from toolkit.places import Machine, Place
from toolkit.plan import Step
from toolkit.runners.environment import Environment
from toolkit.runners.events import OFFLINE, QUIET, Events, write_arguments
from toolkit.stages import ROOT
from toolkit.targets import tools


class LocalRunner:
    """The runner behind `--runner local`."""

    name = "local"

    def run(self, step: Step, task: Task) -> dict[str, str]:
        """Run a step's program and turn its events into notes, progress and errors."""
        if step.stage.environment is None:
            HOST_STAGES[step.stage.name](step.recipe, task, self.place)
            return {}
        python = Environment(step.stage.environment, step.stage.lock(step.recipe)).install()
        argv = (str(python), str(ROOT / step.stage.program), str(write_arguments(step, task)))
        settings = QUIET | ({} if step.stage.online(step.recipe) and not offline() else OFFLINE)
        with Events() as events:
            done = process.run(process.Command(argv, settings), log=task.log, on_line=events.read, check=False)
        events.judge(step, done.code, task)
        return {}

    def place(self, name: str, scratch: Path) -> Place:
        """Return where an engine's server runs: on this machine, its tools installed or built first."""
        return Machine(tools(name, scratch))
