"""Trackers that a training reports to: W&B, MLflow, TensorBoard. What they need is said before the training starts, what they leave on the
disk lies in the step's tracking/ folder, and a training that goes on after a kill goes on in the tracked run it had.

Addresses and keys are the libraries' own environment variables (WANDB_*, MLFLOW_*); none is written anywhere. W&B is offline unless
WANDB_MODE says otherwise.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ranks
from program import NOT_READY, Args, ProgramError, note
from transformers import TrainerCallback

PROJECT = "thinkship"
"""Project or experiment, unless the library's own variable names another."""
URI = "MLFLOW_TRACKING_URI"
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false"}
"""mlflow's own patience is minutes."""
LINKS = ("latest-run", "debug*.log", "logs", "tmp")
"""What W&B leaves beside a run's file: links and its own log."""


class Tracker(Protocol):
    """One open run at one tracker."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Report a step's figures."""

    def close(self, done: bool) -> None:
        """End the run, as finished or as failed."""


@dataclass(frozen=True)
class Run:
    """What every tracker is told of a training, and the folder, kept over a kill, in which it leaves files and the run's id."""

    folder: Path
    settings: dict[str, Any]
    """The recipe's train section, flat."""
    history: list[dict[str, Any]]
    """What was reported up to the checkpoint from which the training goes on; empty for one that starts."""

    def identity(self, tracker: str) -> Path:
        """Return the file that holds the id of the run at a tracker."""
        return self.folder / f"{tracker}.id"


class Wandb:
    """A W&B run. Offline, it is written anew where a training goes on, under its id: W&B keeps up to 32 KiB in memory, which a kill takes along."""

    def __init__(self, run: Run) -> None:
        import wandb

        kept, mode = run.identity("wandb"), os.environ.get("WANDB_MODE", "offline")
        if mode == "offline":
            shutil.rmtree(run.folder / "wandb", ignore_errors=True)
        if not kept.is_file():
            kept.write_text(secrets.token_hex(4), encoding="ascii")
        quiet = wandb.Settings(console="off", silent=True, disable_git=True, x_disable_meta=True, x_disable_stats=True, save_code=False)
        where = {"project": os.environ.get("WANDB_PROJECT", PROJECT), "mode": mode, "dir": str(run.folder)}
        try:
            self.run = wandb.init(id=kept.read_text(encoding="ascii"), resume="allow", config=run.settings, settings=quiet, **where)
        except wandb.Error as error:
            remedy = "wandb login, or set WANDB_API_KEY; WANDB_MODE=offline needs neither key nor network"
            raise ProgramError(f"train.track: W&B refuses: {_first_line(error)}", remedy, NOT_READY) from error
        self.run.define_metric("*", step_metric="step")
        for entry in run.history if mode == "offline" else ():
            self.log(_figures(entry), entry["step"])

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Report with our own step: W&B's cannot go back to the checkpoint."""
        self.run.log({**metrics, "step": step})

    def close(self, done: bool) -> None:
        """End the run and W&B's own process: `finish` does not wait for the last 32 KiB, and a file copied before them lacks all of a short run."""
        import wandb

        self.run.finish(exit_code=0 if done else 1)
        wandb.teardown()


class Mlflow:
    """An MLflow run at the server, or in the store, that MLFLOW_TRACKING_URI names."""

    def __init__(self, run: Run) -> None:
        os.environ |= {name: value for name, value in IMPATIENT.items() if name not in os.environ}
        if URI not in os.environ:
            raise ProgramError(f"train.track: mlflow needs {URI}", f"export {URI}=http://…, the address of your MLflow server", NOT_READY)
        import mlflow

        kept = run.identity("mlflow")
        try:
            mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
            self.run = mlflow.start_run(run_id=kept.read_text(encoding="ascii") if kept.is_file() else None)
            if not kept.is_file():
                mlflow.log_params(run.settings)
        except mlflow.MlflowException as error:
            message = f"train.track: MLflow at {_address()} refuses: {_first_line(error)}"
            raise ProgramError(message, f"start it, or correct {URI}", NOT_READY) from error
        kept.write_text(self.run.info.run_id, encoding="ascii")
        self._mlflow, self._lost = mlflow, False

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Report; a server that went away costs its figures, which metrics.jsonl holds, and not the training."""
        if self._lost:
            return
        try:
            self._mlflow.log_metrics(metrics, step=step)
        except self._mlflow.MlflowException as error:
            self._lost = True
            note(f"MLflow at {_address()} is gone since step {step}, the rest is in metrics.jsonl alone: {_first_line(error)}")

    def close(self, done: bool) -> None:
        """End the run."""
        if not self._lost:
            self._mlflow.end_run("FINISHED" if done else "FAILED")


class TensorBoard:
    """Event files for TensorBoard; what was written after the checkpoint is overwritten."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.history[-1]["step"] + 1 if run.history else None)

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Write a step's figures."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, done: bool) -> None:
        """Close the file."""
        self.writer.close()


TRACKERS = {"wandb": Wandb, "mlflow": Mlflow, "tensorboard": TensorBoard}


class Report(TrainerCallback):  # type: ignore[misc]
    """Passes each line of the trainer's log on."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self.trackers = trackers

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **parts: Any) -> None:
        """Report the figures of a step."""
        for tracker in self.trackers:
            tracker.log(_figures(logs or {}), state.global_step)


@contextmanager
def tracked(args: Args, checkpoint: Path | None) -> Iterator[list[TrainerCallback]]:
    """Open the recipe's trackers and yield the callbacks that report to them; leave their files in the step's tracking/ folder.

    Only the first of several processes reports. `checkpoint` is where the training goes on from.
    ProgramError (4) where a package, an address or a server is missing.
    """
    names = args.recipe["train"]["track"]
    if not names or not ranks.first():
        yield []
        return
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ProgramError(f"train.track: {name} is not installed in this environment", "install the environment's lock again", NOT_READY)
    folder = args.scratch / "tracking"
    folder.mkdir(exist_ok=True)
    history = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["log_history"] if checkpoint else []
    run = Run(folder, _flat(args.recipe["train"]), history)
    trackers: list[Tracker] = []
    done = False
    try:
        for name in names:
            trackers.append(TRACKERS[name](run))
        yield [Report(trackers)]
        done = True
    finally:
        for tracker in trackers:
            tracker.close(done)
    shutil.copytree(folder, args.output / "tracking", ignore=shutil.ignore_patterns(*LINKS))


def _figures(entry: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in entry.items() if name != "step" and isinstance(value, (int, float))}


def _flat(section: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in section.items():
        found |= {f"{name}.{inner}": kept for inner, kept in value.items()} if isinstance(value, dict) else {name: value}
    return found


def _address() -> str:
    return re.sub(r"//[^/@]*@", "//***@", os.environ[URI])  # a password may stand in it


def _first_line(error: Exception) -> str:
    return re.sub(r"//[^/@]*@", "//***@", str(error).splitlines()[0])[:200]
