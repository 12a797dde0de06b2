"""llama.cpp's own converter over a source of tensors of ours: rows are read, merged with an adapter and packed block by block, on every CPU.

No merged checkpoint is written: a block of the base's rows gets what the adapter adds to it in 32 bits, is rounded to the type that a merged
checkpoint would have, and goes on as the converter would have read it from there; a test holds every tensor equal to that way's. What the converter
does with a tensor other than copying it, such as reordering Llama's heads, it does on the whole tensor, as ever: that bounds the memory.
"""

from __future__ import annotations

import contextlib
import importlib
import runpy
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adapter import Adapter
from adapter_delta import Change, blocks
from libllama import ffi, library, threads
from program import FAILED, INVALID, ProgramError
from sources import CONVERTER, gguf
from tensor_files import Checkpoint, Weight

sys.path.insert(0, str(CONVERTER.parent))
base = importlib.import_module("conversion.base")
READ = 1 << 23
"""Bytes of a block in 32 bits."""
Q8_0 = gguf.GGMLQuantizationType.Q8_0
NARROW = {gguf.GGMLQuantizationType.F16: torch.float16, gguf.GGMLQuantizationType.BF16: torch.bfloat16}


class Rows:
    """One weight as a merged checkpoint would hold it, by its rows."""

    def __init__(self, weight: Weight, change: Change | None, kind: torch.dtype) -> None:
        self.weight, self.change, self.kind = weight, change, kind
        self.source = change.source if change else weight

    def read(self, first: int, last: int) -> torch.Tensor:
        """Return rows [last - first, columns] in the checkpoint's type."""
        values = self.source.read(first, last)
        if self.change is not None:
            values = values.float()
            self.change.load().apply(values, first)
            if not torch.isfinite(values.sum()):
                raise ProgramError(f"{self.weight.name}: merged weights are not finite", "train again: the adapter or its base is broken", INVALID)
        return values.to(self.kind)

    def whole(self) -> torch.Tensor:
        """Return the tensor in its shape."""
        return torch.cat([self.read(first, last) for first, last in blocks(self.source, READ)]).view(self.source.shape)


class LazyRows(base.LazyTorchTensor):  # type: ignore[misc]
    """What the converter is given for a tensor: read whole where it computes with it, and in blocks where it only wants another type."""

    _tensor_type = torch.Tensor

    def __init__(self, rows: Rows, kind: torch.dtype) -> None:
        super().__init__(meta=torch.empty(rows.source.shape, dtype=kind, device="meta"), args=(), func=lambda: rows.whole().to(kind))
        self.rows = rows

    @classmethod
    def _wrap_fn(cls, fn: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        return base.LazyTorchTensor._wrap_fn(fn, **options)  # type: ignore[no-any-return]

    def to(self, kind: torch.dtype) -> LazyRows:
        """Return the tensor in another type."""
        return LazyRows(self.rows, kind)

    def numpy(self) -> Blocks | Any:
        """Return the tensor as something that is written in blocks; a vector as it is."""
        return Blocks(self.rows, base.LazyTorchTensor._dtype_map[self._meta.dtype]) if len(self.rows.source.shape) > 1 else super().numpy()


class Blocks(gguf.LazyChunkedTensor):  # type: ignore[misc]
    """A tensor that is written block by block, in order, while the next ones are computed."""

    def __init__(self, rows: Rows, dtype: Any, shape: tuple[int, ...] | None = None, kind: Any = None) -> None:
        super().__init__([], shape or rows.source.shape, dtype, kind)
        self.rows = rows

    def quantize(self, kind: Any) -> Blocks:
        """Return it in one of GGUF's types; QuantError where its rows cannot be cut into that type's blocks."""
        planned = super().quantize(kind)
        return Blocks(self.rows, planned.dtype, planned.shape, kind)

    def byteswap(self, inplace: bool = False) -> Blocks:
        """Refuse: files are written for machines as this one."""
        raise NotImplementedError

    def tofile(self, stream: Any) -> None:
        """Write it; OSError where the disk is full."""
        waiting: deque[Any] = deque()
        with ThreadPoolExecutor(threads()) as pool:
            for first, last in blocks(self.rows.source, READ):
                waiting.append(pool.submit(self._packed, first, last))
                if len(waiting) > 2 * threads():
                    stream.write(waiting.popleft().result())
            while waiting:
                stream.write(waiting.popleft().result())

    def _packed(self, first: int, last: int) -> memoryview:
        values = self.rows.read(first, last)
        if self._qtype == Q8_0:
            packed = pack_q8_0(values.float().numpy())
        elif self._qtype in NARROW:
            packed = values.float().to(NARROW[self._qtype]).view(torch.uint8).numpy()
        else:
            packed = gguf.quants.quantize(values.float().numpy(), self._qtype)
        return memoryview(np.ascontiguousarray(packed)).cast("B")


def pack_q8_0(rows: np.ndarray) -> np.ndarray:
    """Do what gguf.quants.Q8_0.quantize_rows does with ggml's own kernel: the same bytes, a hundred times faster."""
    values = np.ascontiguousarray(rows, np.float32).reshape(-1, rows.shape[-1])
    packed = np.empty((len(values), values.shape[1] // 32 * 34), np.uint8)
    room = ffi.from_buffer("char[]", packed)
    library().ggml_quantize_chunk(int(Q8_0), ffi.from_buffer("float[]", values), room, 0, len(values), values.shape[1], ffi.NULL)
    return packed.reshape(*rows.shape[:-1], -1)


def tensors(model: Checkpoint, adapter: Adapter | None, kind: torch.dtype) -> Iterator[tuple[str, Rows]]:
    """Yield every weight as a merge would leave it: in `kind`, apart from those that the base holds wider than its others.

    They come in the converter's own order: file by file, and in a file by name.
    """
    usual = model.dtype
    for name in (name for file in sorted(model.files) for name in sorted(model.files[file])):
        weight = model.weights[name]
        odd = not weight.dtype.is_floating_point or weight.dtype.itemsize > usual.itemsize
        change = adapter.changes.get(name) if adapter else None
        yield name, Rows(weight, change, weight.dtype if odd or not adapter else kind)


@contextlib.contextmanager
def given(model: Checkpoint, adapter: Adapter | None, kind: torch.dtype) -> Iterator[None]:
    """Let the converter read these tensors in the place of its own, and pack them with ggml's kernel."""

    def index_tensors(self: Any, remote_hf_model_id: str | None = None) -> dict[str, Callable[[], Any]]:
        if adapter:
            self.hparams.pop("quantization_config", None)
        named = ((name, lambda rows=rows: LazyRows(rows, rows.kind)) for name, rows in tensors(model, adapter, kind))
        return dict(kept for item in named if (kept := self.filter_tensors(item)))

    own = base.ModelBase.index_tensors, gguf.quants.Q8_0.quantize_rows
    base.ModelBase.index_tensors, gguf.quants.Q8_0.quantize_rows = index_tensors, pack_q8_0
    count = torch.get_num_threads()
    torch.set_num_threads(1)  # a block has a thread to itself
    try:
        yield
    finally:
        torch.set_num_threads(count)
        base.ModelBase.index_tensors, gguf.quants.Q8_0.quantize_rows = own


def convert(model: Path, target: Path, kind: str, adapter: Path | None = None, dtype: str = "bfloat16") -> None:
    """Write a checkpoint, with an adapter merged into it as `dtype` where there is one, as f32, f16, bf16 or q8_0; its words are the log.

    ProgramError where checkpoint and adapter are not whole or do not belong together, or where the converter gives up.
    """
    checkpoint = Checkpoint(model)
    laid = Adapter(checkpoint, adapter) if adapter else None
    if laid and laid.vocabulary:
        message = f"the adapter brings a vocabulary of {laid.vocabulary} rows, and the base's tokenizer is the one that is converted"
        raise ProgramError(message, "set gguf.source: merge", INVALID)
    argv = [str(CONVERTER), str(model), "--outfile", str(target), "--outtype", kind]
    with given(checkpoint, laid, getattr(torch, dtype)), contextlib.redirect_stdout(sys.stderr), _argv(argv):
        try:
            runpy.run_path(str(CONVERTER), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise ProgramError(f"llama.cpp's converter ended with exit code {end.code}", "see the log above its last line", FAILED) from end
        except (ProgramError, OSError, MemoryError):
            raise
        except Exception as error:
            traceback.print_exc()
            message = f"llama.cpp's converter gave up: {type(error).__name__}: {error}"
            raise ProgramError(message, "see the log: the checkpoint is of a kind that it does not know, or not whole", FAILED) from error


@contextlib.contextmanager
def _argv(argv: list[str]) -> Iterator[None]:
    own, sys.argv = sys.argv, argv
    try:
        yield
    finally:
        sys.argv = own
