"""Quantise a 16-bit GGUF with ggml's own kernels, each tensor to the type that llama.cpp's llama-quantize would give it.

An importance matrix (imatrix.py) says at which columns of each tensor the error counts; the types that know of it then err less there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from imatrix import Matrix
from libllama import ffi, library, threads
from mixes import ARCHITECTURES, FILE_TYPES, Mix, Type
from program import INVALID, ProgramError
from sources import gguf

ROWS = 4096
"""Rows that one thread quantises at a time."""
PART = 1 << 26
"""Numbers that are looked at at a time."""


class Source:
    """A 16-bit GGUF, read once for all its quantisations."""

    def __init__(self, path: Path) -> None:
        self.reader = gguf.GGUFReader(path)
        self.architecture = self.reader.fields["general.architecture"].contents()

    def overflown(self) -> str | None:
        """Return the first tensor with a value that its type cannot hold (infinite or no number), None where all are finite."""
        return next((tensor.name for tensor in self.reader.tensors if not _finite(tensor)), None)

    def layers(self) -> dict[str, int]:
        """Return the row length of each weight matrix in the layers, by its name: what an importance matrix has entries for."""
        return {t.name: int(t.shape[0]) for t in self.reader.tensors if len(t.shape) > 1 and t.name.startswith("blk.")}

    def types(self, kind: str, guided: bool = False) -> list[Any]:
        """Return the type of each tensor, vectors keeping their own; ProgramError for an architecture that has no rules here."""
        tensors = self.reader.tensors
        if self.architecture not in ARCHITECTURES or any(len(tensor.shape) > 2 for tensor in tensors):
            known = f"known: {', '.join(ARCHITECTURES)}, dense; state gguf.types: [f16]"
            raise ProgramError(f"no rules for quantising {self.architecture}", known, INVALID)
        tied = all(tensor.name != "output.weight" for tensor in tensors)
        mix = Mix(kind, self._number("block_count"), tied, self.architecture, self._sharing(), guided)
        return [mix.type_of(t.name, int(t.shape[0]), t.tensor_type) if len(t.shape) > 1 else t.tensor_type for t in tensors]

    def _number(self, key: str) -> int:
        return int(self.reader.fields[f"{self.architecture}.{key}"].contents())

    def _sharing(self) -> int:
        """Return how many query heads share a key-value head."""
        heads = self._number("attention.head_count")
        return heads // self._number("attention.head_count_kv") if f"{self.architecture}.attention.head_count_kv" in self.reader.fields else 1

    def quantize(
        self, target: Path, kind: str, matrix: Matrix | None = None, advance: Callable[[int, int], None] = lambda done, total: None
    ) -> dict[str, int]:
        """Write the file as `kind`, weighed by a matrix where there is one; return how many tensors got which type."""
        types = self.types(kind, guided=matrix is not None)
        if matrix:
            matrix.require(self.layers())
        writer = self._started(target, kind, matrix)
        for tensor, wanted in zip(self.reader.tensors, types, strict=True):
            shape = (*map(int, reversed(tensor.shape[1:])), _row_bytes(tensor, wanted))
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), int(np.prod(shape)), raw_dtype=wanted)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, (tensor, wanted) in enumerate(zip(self.reader.tensors, types, strict=True), 1):
            weights = matrix.weights(tensor.name) if matrix else None
            writer.write_tensor_data(tensor.data if wanted == tensor.tensor_type else _packed(tensor, wanted, weights))
            if done % 30 == 0 or done == len(types):
                advance(done, len(types))
        writer.close()
        return dict(Counter(wanted.name for wanted in types))

    def _started(self, target: Path, kind: str, matrix: Matrix | None) -> Any:
        """Start a file with this one's metadata, its own file type and what llama-quantize says of a matrix."""
        writer = gguf.GGUFWriter(target, self.architecture)
        own = ("general.architecture", "general.file_type", "general.quantization_version")
        for name, field in self.reader.fields.items():
            if not name.startswith("GGUF.") and name not in own:
                writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
        writer.add_file_type(FILE_TYPES[kind])
        writer.add_quantization_version(2)
        if matrix:
            writer.add_string("quantize.imatrix.file", matrix.file)
            writer.add_string("quantize.imatrix.dataset", matrix.dataset)
            writer.add_uint32("quantize.imatrix.entries_count", len(matrix.sums))
            writer.add_uint32("quantize.imatrix.chunks_count", matrix.texts)
        return writer


def _finite(tensor: Any) -> bool:
    """Look at the exponents: all ones means infinite or no number."""
    exponent = {Type.F16: (np.uint16, 0x7C00), Type.BF16: (np.uint16, 0x7F80), Type.F32: (np.uint32, 0x7F800000)}
    kind, mask = exponent[tensor.tensor_type]
    return not any((part.view(kind) & mask == mask).any() for part in np.array_split(tensor.data, -(-tensor.data.size // PART)))


def _row_bytes(tensor: Any, kind: Any) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(tensor.shape[0]) // block * size


def _packed(tensor: Any, wanted: Any, weights: np.ndarray | None) -> np.ndarray:
    """Return the tensor's rows as packed blocks, uint8 of shape (rows, bytes in a row); the rows are shared out over the CPUs.

    `weights`, float32 of shape (columns), say how much an error at each column counts.
    """
    columns, rows = int(tensor.shape[0]), int(np.prod(tensor.shape[1:]))
    packed = np.empty((rows, _row_bytes(tensor, wanted)), np.uint8)
    importance = ffi.NULL if weights is None else ffi.from_buffer("float[]", weights)

    def part(first: int) -> None:
        values = np.ascontiguousarray(gguf.quants.dequantize(tensor.data[first : first + ROWS], tensor.tensor_type), np.float32)
        target = packed[first : first + ROWS]
        source, room = ffi.from_buffer("float[]", values), ffi.from_buffer("char[]", target)
        written = library().ggml_quantize_chunk(int(wanted), source, room, 0, len(target), columns, importance)
        if written != target.nbytes:
            raise OSError(f"ggml wrote {written} bytes of {tensor.name} where {target.nbytes} were due")

    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(part, range(0, rows, ROWS)))
    return packed
