"""Times base and adapter straight to GGUF against merging and then converting, on random bfloat16 weights of a known shape; with memory and disk.

    images/convert's python benchmarks/convert.py SHAPE FOLDER [--kind q8_0] [--rank 16] [--layers N]

SHAPE is a name of toolkit/fit/shapes.json; the model is written as a Llama one, whose heads the converter reorders. Every run is a process of its own
and begins without the base in the page cache. Three ways: merging (images/train/merged_checkpoint.py) and llama.cpp's converter as it is; merging and
our reading of the checkpoint in blocks; one pass. Memory is the peak of a process's own pages (RssAnon) and of all resident ones (VmHWM), disk what
lies there beside the base. The three files are compared byte by byte.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

IMAGES = Path(__file__).resolve().parent.parent / "images"
sys.path[:0] = [str(IMAGES / "convert"), str(Path(__file__).resolve().parent)]

MERGE = "import sys; sys.path.insert(0, sys.argv[1]); import merged_checkpoint as m; from pathlib import Path; "
MERGE += "m.make(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), 'bfloat16', 'benchmark')"
OURS = "import sys; sys.path.insert(0, sys.argv[1]); import converter as c; from pathlib import Path; "
OURS += "c.convert(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], *((Path(sys.argv[5]), 'bfloat16') if len(sys.argv) > 5 else ()))"


def write_inputs(shape: str, folder: Path, rank: int, layers: int | None) -> None:
    """Write a random base with a tokenizer that the converter knows, and an adapter of all its linear layers."""
    import random_model
    import tiny

    base, adapter = folder / "base" / "model", folder / "adapter"
    random_model.make(shape, base, layers=layers)
    words = tiny.tokenizer()
    words.save_pretrained(base)
    tiny._complete_tokenizer(base)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (base / "config.json").write_text(json.dumps(config), encoding="utf-8")
    random_model.write_adapter(base, adapter, rank)


def drop_norms(base: Path) -> None:
    """Take the norms of Qwen3's heads, which Llama has not, out of the checkpoint."""
    from safetensors.torch import load_file, save_file

    where = json.loads((base / "model.safetensors.index.json").read_text(encoding="utf-8"))
    for path in base.glob("*.safetensors"):
        content = {name: tensor for name, tensor in load_file(path).items() if not name.endswith(("q_norm.weight", "k_norm.weight"))}
        save_file(content, path, metadata={"format": "pt"})
    where["weight_map"] = {name: file for name, file in where["weight_map"].items() if not name.endswith(("q_norm.weight", "k_norm.weight"))}
    (base / "model.safetensors.index.json").write_text(json.dumps(where), encoding="utf-8")


def forget(folder: Path) -> None:
    """Drop a folder's files from the page cache."""
    subprocess.run(("sync",), check=True)
    for path in folder.glob("*.safetensors"):
        number = os.open(path, os.O_RDONLY)
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(number)


def watched(argv: list[str], out: Path) -> dict[str, float]:
    """Run a program; return its seconds, with what it left unwritten brought to the disk, its peaks of memory, and the bytes that lie in `out`."""
    began, used, peaks = time.monotonic(), _cpu(), {"VmHWM": 0, "RssAnon": 0}
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running, (out / "log").open("wb") as log:
        os.set_blocking(running.stderr.fileno(), False)  # type: ignore[union-attr]
        while running.poll() is None:
            log.write(running.stderr.read() or b"")  # type: ignore[union-attr]
            for line in _status(running.pid):
                name = line.partition(":")[0]
                if name in peaks:
                    peaks[name] = max(peaks[name], int(line.split()[1]))
            time.sleep(0.05)
        log.write(running.stderr.read() or b"")  # type: ignore[union-attr]
    if running.returncode:
        sys.exit((out / "log").read_text(errors="replace")[-3000:])
    subprocess.run(("sync",), check=True)
    disk = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    memory = {name: value / (1 << 20) for name, value in peaks.items()}
    return {"seconds": time.monotonic() - began, "cpu": _cpu() - used, **memory, "disk": disk / 1e9}


def _cpu() -> float:
    """Return the seconds of computing of all programs that have ended: on a machine with other work they tell more than the time that passes."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def _status(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def joined(*parts: dict[str, float]) -> str:
    """Tell of runs one after the other: seconds add up, memory and disk are the larger."""
    seconds = sum(part["seconds"] for part in parts)
    peaks = {name: max(part[name] for part in parts) for name in ("RssAnon", "VmHWM", "disk")}
    shown, cpu = " + ".join(f"{part['seconds']:.1f}" for part in parts), sum(part["cpu"] for part in parts)
    room = f"{peaks['RssAnon']:.2f} GiB own, {peaks['VmHWM']:.2f} GiB resident, {peaks['disk']:.2f} GB on the disk"
    return f"{seconds:.1f} s ({shown}), {cpu:.1f} s of computing, {room}"


def main() -> None:
    """Print one line a way, the times of one pass as shares of the others', and whether all files are the same."""
    from sources import CONVERTER

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("shape")
    options.add_argument("folder", type=Path)
    options.add_argument("--kind", default="q8_0", choices=["f16", "bf16", "q8_0"])
    options.add_argument("--rank", type=int, default=16)
    options.add_argument("--layers", type=int, help="so many of the shape's layers, for a small disk")
    options.add_argument("--merge", type=Path, default=IMAGES / "train", help="folder of merged_checkpoint.py")
    given = options.parse_args()
    write_inputs(given.shape, given.folder, given.rank, given.layers)
    base, adapter, out = given.folder / "base" / "model", given.folder / "adapter", given.folder / "out"
    if not given.shape.startswith("qwen2"):
        drop_norms(base)
    size = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    print(f"{given.shape} as Llama: {size / 1e9:.2f} GB, rank {given.rank}, to {given.kind}, {os.cpu_count()} cores", flush=True)
    merged, programs, python = out / "merged" / "model", str(IMAGES / "convert"), sys.executable
    out.mkdir()
    merged.parent.mkdir()
    stock_file, ours_file, one_file = (given.folder / f"{name}.gguf" for name in ("stock", "ours", "one"))
    forget(base)
    merge = watched([python, "-c", MERGE, str(given.merge), str(base), str(adapter), str(merged)], out)
    timed = {}
    for way, file, argv in (
        ("stock", stock_file, [python, str(CONVERTER), str(merged), "--outfile", str(stock_file), "--outtype", given.kind]),
        ("ours", ours_file, [python, "-c", OURS, programs, str(merged), str(ours_file), given.kind]),
    ):
        forget(merged)
        timed[way] = watched(argv, out)
        timed[way]["disk"] += file.stat().st_size / 1e9
        print(f"merge, then convert ({way}): {joined(merge, timed[way])}", flush=True)
        if way == "ours":
            print(f"the two files: {'equal' if same(stock_file, ours_file) else 'DIFFERENT'}", flush=True)
            ours_file.unlink()
    shutil.rmtree(out)
    out.mkdir()
    forget(base)
    one = watched([python, "-c", OURS, programs, str(base), str(one_file), given.kind, str(adapter)], out)
    one["disk"] += one_file.stat().st_size / 1e9
    print(f"one pass: {joined(one)}")
    for way, seen in timed.items():
        shares = [one[name] / (merge[name] + seen[name]) for name in ("seconds", "cpu")]
        print(f"one pass takes {shares[0]:.2f} of the time of merging and then converting ({way}), {shares[1]:.2f} of the computing")
    print(f"the file of one pass: {'equal' if same(stock_file, one_file) else 'DIFFERENT'}")
    shutil.rmtree(given.folder)


def same(one: Path, other: Path) -> bool:
    """Say whether two files have the same bytes."""
    return subprocess.run(("cmp", "-s", str(one), str(other))).returncode == 0


if __name__ == "__main__":
    main()
