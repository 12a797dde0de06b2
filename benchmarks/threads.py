"""Compares how OpenMP's threads may wait at barriers, for one training process and for two at once on the same cores.

    python3 benchmarks/threads.py

Each process runs forward and backward passes of 30 gated layers of the demo model's size in the train environment. Prints milliseconds
a pass, the median of each process, as a Markdown table; the numbers behind GOMP_SPINCOUNT in toolkit/process.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.runners.environment import Environment

PASSES = """
import statistics, time, torch
layers = [(torch.randn(1536, 576) / 24, torch.randn(1536, 576) / 24, torch.randn(576, 1536) / 40) for _ in range(30)]
x = torch.randn(552, 576, requires_grad=True)
def one():
    h = x
    for gate, up, down in layers:
        n = torch.nn.functional.rms_norm(h, (576,))
        h = h + torch.nn.functional.silu(n @ gate.T).mul(n @ up.T) @ down.T
    h.sum().backward()
took = []
for _ in range(12):
    began = time.monotonic(); one(); took.append(time.monotonic() - began)
print(round(1000 * statistics.median(took[2:])))
"""
POLICIES: dict[str, dict[str, str]] = {
    "libgomp's default": {},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    **{f"GOMP_SPINCOUNT={count}": {"GOMP_SPINCOUNT": str(count)} for count in (500, 2000, 20000)},
}


def passes(env: dict[str, str], processes: int) -> str:
    """Run some processes at once and return their medians in milliseconds."""
    argv = (str(Environment("train").install()), "-c", PASSES)
    started = [subprocess.Popen(argv, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return ", ".join(process.communicate()[0].strip() for process in started)


def main() -> None:
    """Run the comparison and print the table."""
    print("| threads wait | one process, ms | two at once, ms |\n| --- | --- | --- |")
    for name, env in POLICIES.items():
        print(f"| {name} | {passes(env, 1)} | {passes(env, 2)} |", flush=True)


if __name__ == "__main__":
    main()
