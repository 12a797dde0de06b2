"""Times the merge against copying the base and against PEFT, on random bfloat16 weights of a known shape, and measures memory and exactness of each.

    images/train's python benchmarks/merge.py SHAPE FOLDER [--rank 16] [--skip-peft] [--dora]

SHAPE is a name of toolkit/fit/shapes.json. FOLDER needs room for the base and one copy. Every run is a process of its own and starts without the base
in the page cache. Memory is the peak resident set (VmHWM) and, beside it, what of it is no file's pages.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).resolve().parent.parent / "images" / "train"
sys.path[:0] = [str(PROGRAMS), str(Path(__file__).resolve().parent)]

OURS = """
import sys
sys.path.insert(0, sys.argv[4])
from pathlib import Path
import merged_checkpoint
base, adapter, out = map(Path, sys.argv[1:4])
merged_checkpoint.make(base, adapter, out, "bfloat16", "benchmark")
"""
PEFT = """
import sys, torch
from transformers import AutoModelForCausalLM
from peft import PeftModel
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
PeftModel.from_pretrained(model, sys.argv[2]).merge_and_unload().save_pretrained(sys.argv[3])
"""


def forget(folder: Path) -> None:
    """Drop a folder's files from the page cache."""
    subprocess.run(("sync",), check=True)
    for path in folder.iterdir():
        number = os.open(path, os.O_RDONLY)
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(number)


def watched(argv: tuple[str, ...]) -> dict[str, float]:
    """Run a program; return its seconds, with what it left unwritten brought to the disk, and its peak memory in GiB."""
    began, peaks = time.monotonic(), {"VmHWM": 0, "RssAnon": 0}
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
        while running.poll() is None:
            try:
                lines = Path(f"/proc/{running.pid}/status").read_text(encoding="utf-8").splitlines()
            except OSError:
                break
            for line in lines:
                name = line.partition(":")[0]
                if name in peaks:
                    peaks[name] = max(peaks[name], int(line.split()[1]))
            time.sleep(0.02)
        said = running.stderr.read().decode() if running.stderr else ""
    if running.returncode:
        sys.exit(said)
    ended = time.monotonic()
    subprocess.run(("sync",), check=True)
    return {"seconds": time.monotonic() - began, "before sync": ended - began, **{name: value / (1 << 20) for name, value in peaks.items()}}


def exactness(base: Path, adapter: Path, merged: Path) -> dict[str, float]:
    """Return how far sampled rows of every changed weight are from the sum in 64 bits, rounded once."""
    import torch
    from adapter import Adapter
    from tensor_files import Checkpoint

    checkpoint, found = Checkpoint(base), Checkpoint(merged)
    other = total = 0
    largest = 0.0
    for name, change in Adapter(checkpoint, adapter).changes.items():
        rows = slice(0, min(64, change.source.rows))
        (left, right), *_ = change.load().factors
        exact = change.source.read(0, rows.stop).double() + left[rows].double() @ right.double()
        if change.magnitude is not None:
            exact *= (change.magnitude.read(0, rows.stop).double().flatten() / torch.linalg.norm(exact, dim=1))[:, None]
        seen = found.weights[name].read(0, rows.stop)
        other += int((exact.to(seen.dtype) != seen).sum())
        total += seen.numel()
        largest = max(largest, float((exact - seen.double()).abs().max()))
    return {"other than exact": other / total, "largest distance": largest}


def main() -> None:
    """Print one line a way."""
    from random_model import write_adapter

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("shape")
    options.add_argument("folder", type=Path)
    options.add_argument("--rank", type=int, default=16)
    options.add_argument("--dora", action="store_true")
    options.add_argument("--skip-peft", action="store_true")
    given = options.parse_args()
    base, adapter, out = given.folder / "base", given.folder / "adapter", given.folder / "out"
    if not base.is_dir():
        subprocess.run((sys.executable, str(Path(__file__).with_name("random_model.py")), given.shape, str(base)), check=True)
    shutil.rmtree(adapter, ignore_errors=True)
    write_adapter(base, adapter, given.rank, given.dora)
    size = sum(path.stat().st_size for path in base.iterdir())
    print(f"{given.shape}: {size / 1e9:.2f} GB, rank {given.rank}{', DoRA' if given.dora else ''}", flush=True)
    ways = {"cp": ("cp", "-r", str(base), str(out)), "merge": (sys.executable, "-c", OURS, str(base), str(adapter), str(out), str(PROGRAMS))}
    if not given.skip_peft:
        ways["peft"] = (sys.executable, "-c", PEFT, str(base), str(adapter), str(out))
    for way, argv in [*ways.items(), *list(ways.items())[:2]]:  # cp and merge twice: the disk is shared
        shutil.rmtree(out, ignore_errors=True)
        forget(base)
        seen: dict[str, Any] = watched(argv) | (exactness(base, adapter, out) if way != "cp" else {})
        print(way, ", ".join(f"{name} {value:.3g}" for name, value in seen.items()), flush=True)
    shutil.rmtree(out)


if __name__ == "__main__":
    main()
