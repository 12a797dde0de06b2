"""Runs the stage programs base, dataset, train and merge with the interpreter that is at hand, without this toolkit's environments: for a machine
on which nothing can be installed, such as a lent GPU.

    thinkship plan RECIPE --json >plan.json
    python3 benchmarks/programs.py plan.json WORK --recipe-dir recipes [--base FILE.gguf]

Needs the packages of images/train/requirements.in. Prints each program's notes and seconds, its start included, and the figures it left.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STEPS = ("base", "dataset", "train", "merge")
FIGURES = ("device", "seconds", "tokens_per_second", "peak_memory", "first_loss", "last_loss", "max_logit_difference", "agreement")


def run(step: dict[str, Any], inputs: dict[str, Path], work: Path) -> Path:
    """Run one step's program and return its directory; the process ends where it fails."""
    output, scratch = work / step["step"] / "output", work / step["step"] / "scratch"
    for folder in (output, scratch):
        folder.mkdir(parents=True, exist_ok=True)
    places = {"inputs": {name: str(path) for name, path in inputs.items()}, "output": str(output), "scratch": str(scratch)}
    arguments = scratch / "args.json"
    arguments.write_text(json.dumps({**places, "recipe": step["recipe"]}), encoding="utf-8")
    began = time.monotonic()
    done = subprocess.run([sys.executable, str(ROOT / step["program"]), str(arguments)], capture_output=True, text=True)
    print(f"{step['step']}: {time.monotonic() - began:.1f} s")
    for event in (json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"event"')):
        if event["event"] != "progress":
            print(f"  {event.get('text') or event.get('message')}")
    if done.returncode:
        raise SystemExit(f"{step['step']} ended with exit code {done.returncode}\n{done.stderr[-3000:]}")
    return output


def figures(directory: Path) -> dict[str, Any]:
    """Return the figures that a step left in its JSON file."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in directory.glob("*.json")]
    return {name: facts[name] for facts in found if isinstance(facts, dict) for name in FIGURES if name in facts}


def main() -> None:
    """Run the steps in order."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("plan", type=Path)
    options.add_argument("work", type=Path)
    options.add_argument("--recipe-dir", type=Path, required=True)
    options.add_argument("--base", type=Path, help="a GGUF or checkpoint on this machine in place of base.source")
    given = options.parse_args()
    steps = {step["step"]: step for step in json.loads(given.plan.read_text(encoding="utf-8"))}
    if given.base:
        steps["base"]["recipe"]["base"]["source"] = {"path": str(given.base.resolve())}
    made: dict[str, Path] = {}
    fixed = {"recipe_dir": given.recipe_dir.resolve(), "modelfiles": ROOT / "modelfiles"}
    for name in STEPS:
        made[name] = run(steps[name], {**fixed, **{key: made[other] for key, other in steps[name]["inputs"].items()}}, given.work.resolve())
        if seen := figures(made[name]):
            print(f"  {seen}")


if __name__ == "__main__":
    main()
