"""A checkpoint's safetensors files, read by rows and never mapped: what is not asked for takes no memory.

bitsandbytes' 4-bit weights are seen as what they stand for: their rows are dequantised as bitsandbytes does it, their constants are not shown.
This file stands unchanged in each folder that reads checkpoints so, and needs program.py and torch alone; a test holds the copies equal.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from program import BROKEN, INVALID, ProgramError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
KINDS = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool, "U8": torch.uint8},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2},
}
"""safetensors' names of types."""
NF4 = ".quant_state.bitsandbytes__nf4"
CONSTANTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", NF4)
"""What bitsandbytes stores beside a weight in NF4."""
OTHER_QUANTS = (".quant_state.bitsandbytes__fp4", ".SCB", ".weight_scale_inv", ".weight_scale", ".qweight")
REFETCH = "fetch the checkpoint again"


@dataclass(frozen=True)
class Weight:
    """A tensor of a file, seen as a matrix: its last dimension are the columns, all others the rows; a vector has one column."""

    name: str
    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Where its bytes begin in the file."""
    size: int

    @property
    def columns(self) -> int:
        """Elements of a row."""
        return self.shape[-1] if len(self.shape) > 1 else 1

    @property
    def rows(self) -> int:
        """Number of rows."""
        return math.prod(self.shape[:-1]) if len(self.shape) > 1 else math.prod(self.shape)

    @property
    def step(self) -> int:
        """Row ranges begin at multiples of this."""
        return 1

    def extent(self, first: int, last: int) -> tuple[int, int]:
        """Return where the bytes of rows begin in the file, and how many they are."""
        width = self.columns * self.dtype.itemsize
        return self.start + first * width, (last - first) * width

    def decode(self, raw: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """Return rows [last - first, columns] in the weight's type, of their bytes."""
        return raw.view(self.dtype).view(last - first, self.columns)

    def read(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Return rows of the matrix, all of them unless told."""
        last = self.rows if last is None else last
        return self.decode(self.raw(first, last), first, last) if last > first else torch.empty(0, self.columns, dtype=self.dtype)

    def raw(self, first: int, last: int) -> torch.Tensor:
        """Return the bytes of rows."""
        return read_bytes(self.path, *self.extent(first, last))

    def tensor(self) -> torch.Tensor:
        """Return the whole tensor in its shape."""
        return self.read().view(self.shape)


@dataclass(frozen=True, eq=False)
class Nf4Weight(Weight):
    """A weight in NF4: two weights a byte, the first in the high half, and a scale for each block of them."""

    constants: dict[str, Weight]
    blocksize: int
    nested: tuple[int, float] | None
    """Scales a block and offset, where the scales are quantised too."""

    @property
    def step(self) -> int:
        """Rows after which a block of weights ends with a row."""
        return self.blocksize // math.gcd(self.columns, self.blocksize)

    def extent(self, first: int, last: int) -> tuple[int, int]:
        """Return where the bytes of rows begin in the file, and how many they are."""
        begin, end = (-(-row * self.columns // 2) for row in (first, last))
        return self.start + begin, end - begin

    @cached_property
    def pairs(self) -> torch.Tensor:
        """The two values that each byte stands for [256, 2]."""
        code, byte = self.constants[".quant_map"].read().flatten().float(), torch.arange(256)
        return torch.stack((code[byte >> 4], code[byte & 15]), dim=1)

    def decode(self, raw: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """Return rows, dequantised in 32 bits and rounded to the type that bitsandbytes gives them."""
        count, block, scales = (last - first) * self.columns, first * self.columns // self.blocksize, _scales(self).to(raw.device)
        values = self.pairs.to(raw.device).index_select(0, raw.int()).view(-1)[:count]
        whole = count // self.blocksize
        values[: whole * self.blocksize].view(-1, self.blocksize).mul_(scales[block : block + whole, None])
        if count % self.blocksize:
            values[whole * self.blocksize :].mul_(scales[block + whole])
        return values.to(self.dtype).view(last - first, self.columns)


@lru_cache(maxsize=6)  # as many as threads work on, since all of them would take a byte for eight weights
def _scales(weight: Nf4Weight) -> torch.Tensor:
    """Return the scales in 32 bits, as bitsandbytes.functional.dequantize_4bit restores them."""
    stored = weight.constants[".absmax"].read().flatten()
    if weight.nested is None:
        return stored.float()
    block, offset = weight.nested
    code, largest = (weight.constants[key].read().flatten() for key in (".nested_quant_map", ".nested_absmax"))
    return code[stored.long()] * largest.repeat_interleave(block)[: stored.numel()] + offset


def read_bytes(path: Path, start: int, size: int) -> torch.Tensor:
    """Return a part of a file; ProgramError (6) where the file ends before it."""
    found = bytearray(size)
    with path.open("rb", buffering=0) as stream:
        done = 0
        while done < size:
            got = os.preadv(stream.fileno(), [memoryview(found)[done:]], start + done)
            if not got:
                raise ProgramError(f"{path.name} ends before its tensors do", REFETCH, BROKEN)
            done += got
    return torch.frombuffer(found, dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)


def read_header(path: Path) -> tuple[dict[str, Weight], dict[str, str]]:
    """Return a safetensors file's tensors in the order of their bytes, and its metadata; ProgramError (6) where it is no whole file."""
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            length = struct.unpack("<Q", stream.read(8))[0]
            if length > size - 8:
                raise ValueError("the header is cut off")
            header: dict[str, Any] = json.loads(stream.read(length))
        metadata = header.pop("__metadata__", {})
        found = {name: _weight(name, path, entry, 8 + length) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise ProgramError(f"{path.name} is no whole safetensors file: {error}", REFETCH, BROKEN) from error
    end = max((weight.start + weight.size for weight in found.values()), default=8 + length)
    if end != size:
        raise ProgramError(f"{path.name} has {size} bytes, and its header tells of {end}", REFETCH, BROKEN)
    return dict(sorted(found.items(), key=lambda pair: pair[1].start)), metadata


def _weight(name: str, path: Path, entry: dict[str, Any], data: int) -> Weight:
    if entry["dtype"] not in KINDS:
        raise ValueError(f"{name} has type {entry['dtype']}")
    dtype, shape, (begin, end) = KINDS[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has {end - begin} bytes for the shape {list(shape)}")
    return Weight(name, path, dtype, shape, data + begin, end - begin)


class Checkpoint:
    """The weights of a checkpoint's folder; ProgramError (6) where index and files are not one whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, list[str]] = {}
        """Names of the weights in each file, in the order of their bytes."""
        self.metadata: dict[str, dict[str, str]] = {}
        stored: dict[str, Weight] = {}
        for name in self._names():
            found, self.metadata[name] = read_header(folder / name)
            self._unlike(name, found, stored)
            stored |= found
            self.files[name] = list(found)
        self.weights = dict(_logical(stored))
        _require_known(folder, any(isinstance(weight, Nf4Weight) for weight in self.weights.values()))
        self.files = {name: [one for one in names if one in self.weights] for name, names in self.files.items()}

    def _names(self) -> list[str]:
        self.index: dict[str, Any] | None = None
        if (self.folder / INDEX).is_file():
            self.index = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
            names = sorted(set(self.index["weight_map"].values()))
        else:
            names = [SINGLE]
        absent = [name for name in names if not (self.folder / name).is_file()]
        if absent:
            source = "its index names it" if self.index else "there is no index either"
            raise ProgramError(f"{self.folder.name} lacks {', '.join(absent[:3])}: {source}", REFETCH, BROKEN)
        return names

    def _unlike(self, file: str, found: dict[str, Weight], stored: dict[str, Weight]) -> None:
        """Hold a file against the index."""
        wanted = {name for name, where in self.index["weight_map"].items() if where == file} if self.index else set(found)
        odd = sorted(wanted ^ set(found)) + sorted(stored.keys() & found.keys())
        if odd:
            raise ProgramError(f"{file} and the index do not agree about {', '.join(odd[:3])}", REFETCH, BROKEN)

    @property
    def dtype(self) -> torch.dtype:
        """The floating type that most of the weights have."""
        sizes: dict[torch.dtype, int] = {}
        for weight in self.weights.values():
            if weight.dtype.is_floating_point:
                sizes[weight.dtype] = sizes.get(weight.dtype, 0) + math.prod(weight.shape)
        return max(sizes, key=lambda kind: sizes[kind], default=torch.float32)


def _logical(stored: dict[str, Weight]) -> dict[str, Weight]:
    """Fold bitsandbytes' constants into their weights; ProgramError (3) for other quantisations."""
    other = [name for name in stored if name.endswith(OTHER_QUANTS) or stored[name].dtype in (torch.float8_e4m3fn, torch.float8_e5m2)]
    if other:
        message = f"{other[0]}: the base is quantised in a way that is not read here"
        raise ProgramError(message, "take the 16-bit checkpoint, or one in bitsandbytes' NF4", INVALID)
    quantized = {name.removesuffix(NF4) for name in stored if name.endswith(NF4)}
    inner = {name + key for name in quantized for key in CONSTANTS}
    return {name: _nf4(weight, stored) if name in quantized else weight for name, weight in stored.items() if name not in inner}


def _require_known(folder: Path, nf4: bool) -> None:
    """Raise ProgramError (3) where config.json tells of a quantisation that the names of the tensors do not."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method and not (method == "bitsandbytes" and nf4):
        message = f"config.json says that the base is quantised ({method}), which is not read here"
        raise ProgramError(message, "take the 16-bit checkpoint, or one in bitsandbytes' NF4", INVALID)


def _nf4(weight: Weight, stored: dict[str, Weight]) -> Nf4Weight:
    try:
        constants = {key: stored[weight.name + key] for key in CONSTANTS if weight.name + key in stored}
        state = json.loads(bytes(constants[NF4].read().flatten().tolist()))
        nested = (int(state["nested_blocksize"]), float(state["nested_offset"])) if "nested_blocksize" in state else None
        needed = {".absmax", ".quant_map"} | ({".nested_absmax", ".nested_quant_map"} if nested else set())
        if not needed <= constants.keys():
            raise ValueError(f"{', '.join(sorted(needed - constants.keys()))} is missing")
        shape, dtype = tuple(state["shape"]), getattr(torch, state["dtype"])
        if weight.size != -(-math.prod(shape) // 2) or constants[".absmax"].rows != -(-math.prod(shape) // state["blocksize"]):
            raise ValueError(f"{weight.size} bytes for the shape {list(shape)}")
        return Nf4Weight(weight.name, weight.path, dtype, shape, weight.start, weight.size, constants, state["blocksize"], nested)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProgramError(f"{weight.name} is no whole NF4 weight: {error}", REFETCH, BROKEN) from error
