"""Times the merge against copying the base and against others' merges, on random bfloat16 weights of a known shape; memory and exactness of each.

    images/train's python benchmarks/merge.py SHAPE FOLDER [--base FOLDER] [--ways cp,merge,peft] [--rank 16] [--dora] [--holes]
                                              [--axolotl SRC] [--unsloth PYTHON]

SHAPE is a name of toolkit/fit/shapes.json. FOLDER needs room for one copy of the base, and for the base unless it lies elsewhere. Every run is a
process of its own and starts without the base in the page cache. Memory is the peak resident set (VmHWM) and, beside it, what of it is no file's
pages; of a GPU what nvidia-smi adds up. Way axolotl is the function behind `axolotl merge-lora`, of a checkout's src; way unsloth is
save_pretrained_merged, by the python of an environment that holds unsloth. With --holes the base's weights are zeros that take no disk, which leaves
memory and the bytes written as they are, and its times say nothing.
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
AXOLOTL = """
import sys
sys.path.insert(0, sys.argv[4])
from axolotl.cli.utils.lora_merge import merge_lora_sharded_efficient
merge_lora_sharded_efficient(*sys.argv[1:4])
"""
UNSLOTH = """
import sys
from unsloth import FastLanguageModel
import torch
model, tokenizer = FastLanguageModel.from_pretrained(sys.argv[2], dtype=torch.bfloat16, load_in_4bit=False)
model.save_pretrained_merged(sys.argv[3], tokenizer, save_method="merged_16bit")
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
    began, peaks, before = time.monotonic(), {"VmHWM": 0, "RssAnon": 0}, gpu_memory()
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
            if before is not None:
                peaks["GPU"] = max(peaks.get("GPU", 0), (gpu_memory() or 0) - before)
            time.sleep(0.02)
        said = running.stderr.read().decode() if running.stderr else ""
    if running.returncode:
        sys.exit(said)
    ended = time.monotonic()
    subprocess.run(("sync",), check=True)
    return {"seconds": time.monotonic() - began, "before sync": ended - began, **{name: value / (1 << 20) for name, value in peaks.items()}}


def gpu_memory() -> int | None:
    """Return the KiB in use on the GPU, by all programs; None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    asked = ("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0")
    return int(subprocess.run(asked, capture_output=True, check=True).stdout) << 10


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
    options.add_argument("--base", type=Path, help="where the base lies or is made")
    options.add_argument("--rank", type=int, default=16)
    options.add_argument("--dora", action="store_true")
    options.add_argument("--ways", default="cp,merge,peft,cp,merge", help="in this order; the disk is shared, so the first two come twice")
    options.add_argument("--axolotl", default="", help="src of a checkout, for the way axolotl")
    options.add_argument("--unsloth", default="", help="python of an environment with unsloth, for the way unsloth")
    options.add_argument("--holes", action="store_true", help="a base of zeros that takes no disk")
    given = options.parse_args()
    base, adapter, out = given.base or given.folder / "base", given.folder / "adapter", given.folder / "out"
    if not base.is_dir():
        stored = "zeros" if given.holes else "bf16"
        subprocess.run((sys.executable, str(Path(__file__).with_name("random_model.py")), given.shape, str(base), "--stored", stored), check=True)
    shutil.rmtree(adapter, ignore_errors=True)
    write_adapter(base, adapter, given.rank, given.dora)
    size = sum(path.stat().st_size for path in base.iterdir())
    print(f"{given.shape}: {size / 1e9:.2f} GB, rank {given.rank}{', DoRA' if given.dora else ''}", flush=True)
    python, paths = sys.executable, (str(base), str(adapter), str(out))
    ways = {
        "cp": ("cp", "-r", str(base), str(out)),
        "merge": (python, "-c", OURS, *paths, str(PROGRAMS)),
        "peft": (python, "-c", PEFT, *paths),
        "axolotl": (python, "-c", AXOLOTL, *paths, given.axolotl),
        "unsloth": (given.unsloth, "-c", UNSLOTH, *paths),
    }
    for way in given.ways.split(","):
        argv = ways[way]
        shutil.rmtree(out, ignore_errors=True)
        forget(base)
        seen: dict[str, Any] = watched(argv) | (exactness(base, adapter, out) if way != "cp" else {})
        print(way, ", ".join(f"{name} {value:.3g}" for name, value in seen.items()), flush=True)
    shutil.rmtree(out)


if __name__ == "__main__":
    main()
