"""Times what an operator waits for: `thinkship serve` to the first answered token, and `thinkship stop`, as a bare process and as a container
in turn, on one finished store.

    python3 benchmarks/start.py STORE [--recipe RECIPE] [--engines llamacpp ollama vllm] [--rounds 3]

Prints the median seconds as a Markdown table. Planning and hashing, about a second, are part of both. The first start of each kind, which fills
caches, is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
THINKSHIP = ROOT / ".venv" / "bin" / "thinkship"
PORT = 18990
RUNNERS = ("local", "docker")


def took(*words: object) -> float:
    """Return the seconds of a command that must succeed."""
    began = time.monotonic()
    subprocess.run([THINKSHIP, *map(str, words)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def start_and_stop(engine: str, runner: str, recipe: Path, store: Path) -> tuple[float, float]:
    """Return the seconds of a start and of the stop after it."""
    ready = took("serve", recipe, "--engine", engine, "--runner", runner, "--port", PORT, "--store", store)
    return ready, took("stop", "--store", store)


def row(engine: str, recipe: Path, store: Path, rounds: int) -> str:
    """Measure an engine, both kinds in turn, and return its line of the table."""
    seen: dict[str, list[tuple[float, float]]] = {runner: [] for runner in RUNNERS}
    for number in range(rounds + 1):
        for runner in RUNNERS:
            pair = start_and_stop(engine, runner, recipe, store)
            seen[runner] += [pair] if number else []
    bare, boxed = ([statistics.median(part) for part in zip(*seen[runner], strict=True)] for runner in RUNNERS)
    return f"| {engine} | {bare[0]:.1f} | {boxed[0]:.1f} | {boxed[0] - bare[0]:+.1f} | {bare[1]:.1f} | {boxed[1]:.1f} |"


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("store", type=Path)
    options.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "smollm2-demo.yml")
    options.add_argument("--engines", nargs="+", default=["llamacpp", "ollama", "vllm"])
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    print("| engine | process, s | container, s | difference, s | stop, process, s | stop, container, s |\n| --- | --- | --- | --- | --- | --- |")
    for engine in given.engines:
        print(row(engine, given.recipe.resolve(), given.store.resolve(), given.rounds), flush=True)


if __name__ == "__main__":
    main()
