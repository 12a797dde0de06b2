"""The folder of a merged model: the base's files under the base's names, written one by one; a run that was killed goes on with the next file."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from adapter import Adapter
from block_arithmetic import Delta, Sums
from program import BROKEN, INVALID, NOT_READY, ProgramError, note, progress
from shard_writer import CHUNK, Shard, plan_shard, write_shards
from tensor_files import INDEX, Checkpoint, Weight, read_bytes

MEMORY = 1 << 30
"""What writing a model takes, whatever its size: torch 0.5 GiB, buffers 0.2 GiB, factors."""
SPARE = 64 << 20
WEIGHTS = (".safetensors", ".safetensors.index.json")


@dataclass
class Merged:
    """What was written and what is known of it."""

    folder: Path
    seconds: float = 0.0
    resumed: int = 0
    """Files that an earlier run had written."""
    sums: dict[str, list[float]] = field(default_factory=dict)

    def kept(self, number: int = 0) -> float | None:
        """Return the share of the change that the stored weights hold, or with 1 what NF4 would leave of it; None where nothing was sampled."""
        whole = sum(values[2] for values in self.sums.values())
        return sum(values[number] for values in self.sums.values()) / whole if whole else None

    def least(self) -> tuple[str, float] | None:
        """Return the weight whose change survived worst."""
        shares = [(values[0] / values[2], name) for name, values in self.sums.items() if values[2]]
        return (min(shares)[1], min(shares)[0]) if shares else None


def plan(base: Checkpoint, adapter: Adapter, dtype: torch.dtype) -> list[Shard]:
    """Return the files to be written. A weight that the base holds wider than its others, as routers' in 32 bits, keeps its type."""
    usual = base.dtype

    def stored(weight: Weight) -> torch.dtype:
        odd = not weight.dtype.is_floating_point or weight.dtype.itemsize > usual.itemsize
        return weight.dtype if odd else dtype

    shards = []
    for file, names in base.files.items():
        changes = {name: adapter.changes.get(name) for name in names}
        sources = {name: change.source if change else base.weights[name] for name, change in changes.items()}
        parts = [(name, sources[name], changes[name], stored(base.weights[name])) for name in names]
        shards.append(plan_shard(file, parts, base.metadata[file]))
    return shards


def require_room(shards: list[Shard], folder: Path) -> None:
    """Say what the merge takes before its first byte; ProgramError (4) where it does not fit, naming what to free."""
    size, memory = sum(shard.size for shard in shards), available_memory()
    done = sum((folder / shard.name).stat().st_size for shard in shards if (folder / shard.name).is_file())
    free, todo = shutil.disk_usage(folder).free, size - done
    if free < todo + SPARE:
        message = f"the merged model needs {todo / 1e9:.2f} GB on the disk of {folder}, {free / 1e9:.2f} GB are free"
        remedy = f"free {(todo + SPARE - free) / 1e9:.2f} GB there (older steps of the store, its .downloads), or use --store on another disk"
        raise ProgramError(message, remedy, NOT_READY)
    if memory < MEMORY:
        message = f"merging takes about {MEMORY >> 20} MiB of memory, {memory >> 20} MiB are available"
        raise ProgramError(message, "end other programs", NOT_READY)
    rate = _rate(shards, folder) if todo > 1 << 30 else 0
    about = f", about {todo / rate:.0f} s at the {rate / 1e9:.1f} GB/s that copying 64 MiB showed" if rate else ""
    room = f"{free / 1e9:.1f} GB of disk and {memory >> 20} MiB of memory are free"
    note(f"merging writes {todo / 1e9:.2f} GB in under {MEMORY >> 20} MiB of memory ({room}){about}")


def available_memory() -> int:
    """Return the bytes of memory that this program can still take: the machine's, or its container's where that is less."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    found = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{name}").read_text(encoding="utf-8").strip() for name in ("max", "current"))
    except OSError:
        return found
    return found if limit == "max" else min(found, int(limit) - int(used))


def _rate(shards: list[Shard], folder: Path) -> float:
    """Return the bytes a second of a copy of 64 MiB."""
    item = max((item for shard in shards for item in shard.items), key=lambda one: one.source.size)
    probe, began = folder / "speed.partial", time.monotonic()
    with probe.open("wb") as sink:
        for place in range(0, 64 << 20, CHUNK):
            start, size = item.source.extent(0, item.source.rows)
            sink.write(memoryview(read_bytes(item.source.path, start + place % max(1, size - CHUNK), min(CHUNK, size)).numpy()))
        sink.flush()
        os.fsync(sink.fileno())
    probe.unlink()
    return (64 << 20) / (time.monotonic() - began)


def write(shards: list[Shard], folder: Path, key: str, device: str) -> Merged:
    """Write the files that are not there yet; those of another merge than `key` names are removed first."""
    began, merged = time.monotonic(), Merged(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _forget_others(folder, key)
    require_room(shards, folder)
    waiting = [shard for shard in shards if not _written(shard, folder, merged)]
    if merged.resumed:
        note(f"{merged.resumed} of {len(shards)} files were written before")
    total = sum(shard.size for shard in waiting)
    count = 0

    def told(size: int) -> None:
        nonlocal count
        before, count = count, count + size
        if total > CHUNK and count * 20 // total > before * 20 // total:
            progress(count >> 20, total >> 20, "MiB")

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a block has a thread to itself, so that it stays in a core's cache
    try:
        for shard, sums in write_shards(waiting, folder, lambda: Delta(device), told):
            merged.sums |= sums.kept
            _note_down(_marks(folder) / f"{shard.name}.done", shard, sums)
    finally:
        torch.set_num_threads(threads)
    merged.seconds = time.monotonic() - began
    return merged


def _marks(folder: Path) -> Path:
    """Return the folder beside it that says which files are whole."""
    return folder.with_name(f"{folder.name}-files")


def _forget_others(folder: Path, key: str) -> None:
    mark = _marks(folder) / "key"
    if not mark.is_file() or mark.read_text(encoding="utf-8") != key:
        for old in (folder, _marks(folder)):
            shutil.rmtree(old, ignore_errors=True)
            old.mkdir()
        mark.write_text(key, encoding="utf-8")


def _note_down(path: Path, shard: Shard, sums: Sums) -> None:
    """Leave a mark that a file is whole, with the sums of its samples, which a later run needs too."""
    part = path.with_suffix(".partial")
    part.write_text(json.dumps({"size": shard.size, "sums": sums.kept}), encoding="utf-8")
    os.replace(part, path)


def _written(shard: Shard, folder: Path, merged: Merged) -> bool:
    mark, path = _marks(folder) / f"{shard.name}.done", folder / shard.name
    if not (mark.is_file() and path.is_file()):
        return False
    found = json.loads(mark.read_text(encoding="utf-8"))
    if found["size"] != shard.size or path.stat().st_size != shard.size:
        return False
    merged.sums |= found["sums"]
    merged.resumed += 1
    return True


def key_of(*parts: Any) -> str:
    """Return what tells one merge from another."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def complete(base: Checkpoint, shards: list[Shard], folder: Path, dtype: str, vocabulary: int | None) -> None:
    """Add everything but the weights, byte by byte from the base; index and config.json say what differs."""
    for path in (path for path in base.folder.iterdir() if path.is_file() and not path.name.endswith(WEIGHTS)):
        shutil.copyfile(path, folder / path.name)
    config = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    config = {name: value for name, value in config.items() if name not in ("torch_dtype", "quantization_config")} | {"dtype": dtype}
    if vocabulary:
        config["vocab_size"] = vocabulary
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if base.index is not None:
        where = {item.name: shard.name for shard in shards for item in shard.items}
        sizes = {"total_size": sum(item.size for shard in shards for item in shard.items)}
        counted = {"total_parameters": parameters(shards)} if "total_parameters" in base.index.get("metadata", {}) else {}
        index = {**base.index, "metadata": {**base.index.get("metadata", {}), **sizes, **counted}, "weight_map": dict(sorted(where.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def parameters(shards: list[Shard]) -> int:
    """Count the weights of a plan."""
    return sum(math.prod(item.source.shape) for shard in shards for item in shard.items)


def check(base: Checkpoint, shards: list[Shard], folder: Path) -> None:
    """Hold the folder against its contract: the base's companions, the planned weights, and nothing else."""
    found = Checkpoint(folder)
    wanted = {item.name: (tuple(item.source.shape), item.dtype) for shard in shards for item in shard.items}
    odd = [name for name, weight in found.weights.items() if wanted.pop(name, None) != (tuple(weight.shape), weight.dtype)] + sorted(wanted)
    names = [{path.name for path in one.iterdir() if path.is_file() and not path.name.endswith(WEIGHTS)} for one in (base.folder, folder)]
    odd += sorted(names[0] ^ names[1]) + sorted(set(found.files) ^ set(base.files))
    if odd:
        raise ProgramError(f"the merged folder is not the base's set of files: {odd[:3]}", "look at the stage's log", BROKEN)


def move(folder: Path, target: Path) -> None:
    """Bring the finished folder to its place: a rename, or a copy file by file where a container mounts the two apart."""
    shutil.rmtree(_marks(folder))
    try:
        os.replace(folder, target)
    except OSError as error:
        if error.errno != 18:  # EXDEV
            raise
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.iterdir()):
            shutil.copyfile(path, target / path.name)
            path.unlink()
        folder.rmdir()


def require_kept(merged: Merged, least: float, dtype: str) -> dict[str, Any]:
    """Return how much of the adapter the stored weights hold; ProgramError (3) where most of it was lost in rounding."""
    share, worst = merged.kept(), merged.least()
    if share is None or worst is None:
        return {"delta_kept": None}
    note(f"{share:.1%} of what was learnt is in the {dtype} weights ({worst[1]:.1%} in {worst[0]})")
    if not share >= least:
        message = (
            f"rounding to {dtype} keeps {share:.1%} of what the adapter learnt, less than {least:.0%}: its changes are smaller than {dtype}'s steps"
        )
        raise ProgramError(message, "set merge.dtype: float32, train longer or at a higher rate, or lower merge.min_delta_kept", INVALID)
    return {"delta_kept": round(share, 4), "least_kept": {worst[0]: round(worst[1], 4)}, "delta_kept_in_nf4": round(merged.kept(1) or 0.0, 4)}


def make(base: Path, adapter: Path, folder: Path, dtype: str, key: str) -> Merged:
    """Merge an adapter onto a checkpoint as it is stored, and nothing else: what the stage does between loading and proving."""
    checkpoint = Checkpoint(base)
    laid = Adapter(checkpoint, adapter)
    shards = plan(checkpoint, laid, getattr(torch, dtype))
    merged = write(shards, folder, key, "cuda" if torch.cuda.is_available() else "cpu")
    complete(checkpoint, shards, folder, dtype, laid.vocabulary)
    return merged
