"""Serves checkpoints of one model in several formats on this machine's GPU, each by our launch line, and scores and times them.

    python3 benchmarks/formats.py bf16=MODEL fp8=MODEL fp8-dynamic=COMPRESSED/model ...

MODEL is the demo's merged checkpoint, the others what `thinkship run recipes/smollm2-formats.yml --until compress` leaves. Prints a Markdown table:
size on the disk, score on the demo's held-out sums, share of answers that keep the think contract, tokens a second at 1 and 8 streams. Needs vLLM in
this interpreter; nothing is downloaded. On a CPU the same figures stand in the report of that recipe.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serve_gpu import PORT, ROOT, command_of, rate, served

from toolkit.engines import Target
from toolkit.fit.card import present
from toolkit.fit.shape import of_folder

QUESTIONS = ROOT / "recipes" / "data" / "sums-holdout.jsonl"
ASKED, PARALLEL, CONTEXT = 50, 8, 1024
"""The demo recipe's own."""


def main() -> None:
    """Print a line for each checkpoint as it is known."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("checkpoints", nargs="+", metavar="VARIANT=FOLDER")
    options.add_argument("--work", type=Path, default=Path("/tmp/formats"))
    given = options.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    print(present()[0])
    print("| format | MB | right | thinks | tok/s at 1 | at 8 |\n| --- | --- | --- | --- | --- | --- |")
    for word in given.checkpoints:
        variant, _, folder = word.partition("=")
        print(f"| {variant} | {' | '.join(cells(variant, Path(folder).resolve(), given.work))} |", flush=True)


def cells(variant: str, model: Path, work: Path) -> Iterator[str]:
    """Serve one checkpoint and yield what is told of it."""
    found = of_folder(model)
    target = Target("bench", CONTEXT, PARALLEL, "qwq", variant, model, shape=found.shape if found else None)
    argv, env = command_of(target, work)
    with served(argv, env, work / f"{variant}.log"):
        (numbers,) = scored(work / f"{variant}.json", env)["observed"]["endpoints"]
        yield f"{sum(path.stat().st_size for path in model.glob('*.safetensors')) / 1e6:.1f}"
        yield f"{numbers['right']} of {numbers['marked']}"
        yield f"{numbers['think']:.0%}"
        for streams in (1, PARALLEL):
            yield f"{rate(streams):,.0f}"


def scored(report: Path, env: dict[str, str]) -> dict[str, Any]:
    """Hold the server against the gate and return its report."""
    asked = ("--questions", QUESTIONS, "--limit", ASKED, "--parallel", PARALLEL, "--max-tokens", 160, "--json", report)
    argv = (sys.executable, "-m", "toolkit.cli", "verify", "--url", f"http://127.0.0.1:{PORT}/v1", "--engine", "vllm", *asked)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(tuple(map(str, argv)), cwd=ROOT, env={**env, "PYTHONPATH": path}, capture_output=True, text=True)
    if not report.is_file():
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    print(done.stdout[-1500:], file=sys.stderr)
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    main()
