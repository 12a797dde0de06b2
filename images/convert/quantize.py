"""Quantise a 16-bit GGUF with ggml's own kernels, each tensor to the type that llama.cpp's llama-quantize would give it.

The prebuilt wheel has the kernels but not llama-quantize's driver, so the choice of types is written here for dense Llama and Qwen models
(rules of llama_tensor_get_type_impl in llama.cpp's src/llama-quant.cpp); a test holds every tensor byte-equal to the real llama-quantize.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from libllama import ffi, library, threads
from program import INVALID, ProgramError
from sources import gguf

Type = gguf.GGMLQuantizationType
ARCHITECTURES = ("llama", "qwen2", "qwen3")
MAIN = {"q4_0": Type.Q4_0, "q8_0": Type.Q8_0, "q6_k": Type.Q6_K, "q5_k_m": Type.Q5_K, "q4_k_m": Type.Q4_K}
FILE_TYPES = {kind: gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"] for kind in MAIN}
NARROW = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}
"""What replaces a type of 256-weight blocks where a row is no multiple of 256."""
ROWS = 4096
"""Rows that one thread quantises at a time."""
PART = 1 << 26
"""Numbers that are looked at at a time."""


@dataclass(frozen=True)
class Mix:
    """A quantisation of one model: which type a tensor gets."""

    kind: str
    layers: int
    tied: bool
    """The token embedding is the output matrix too."""

    def type_of(self, name: str, columns: int, own: Any) -> Any:
        """Return the type for a tensor by its name and row length; what is not quantised keeps its own."""
        if not name.endswith("weight") or "_norm.weight" in name or name == "rope_freqs.weight":
            return own
        wanted = self._wanted(name, columns)
        if columns % gguf.GGML_QUANT_SIZES[wanted][0]:
            wanted = NARROW.get(wanted, wanted)
        return wanted if columns % gguf.GGML_QUANT_SIZES[wanted][0] == 0 else Type.F16

    def _wanted(self, name: str, columns: int) -> Any:
        main = MAIN[self.kind]
        if name == "output.weight" or (self.tied and name == "token_embd.weight"):
            if columns % gguf.GGML_QUANT_SIZES[main][0]:
                return Type.Q8_0
            return main if main == Type.Q8_0 else Type.Q6_K
        if not self.kind.endswith("_m"):
            return main
        if "attn_v.weight" in name:
            richer = Type.Q6_K if self._sensitive(name) else main
            return Type.Q5_K if richer == Type.Q4_K and self.layers == 80 else richer  # llama.cpp gives 70B models more here
        return Type.Q6_K if "ffn_down" in name and self._sensitive(name) else main

    def _sensitive(self, name: str) -> bool:
        """Say whether the layer is among the first or last eighth, or a third one between: these get more bits."""
        layer, eighth = int(re.findall(r"blk\.(\d+)\.", name)[0]), self.layers // 8
        return layer < eighth or layer >= 7 * self.layers // 8 or (layer - eighth) % 3 == 2


class Source:
    """A 16-bit GGUF, read once for all its quantisations."""

    def __init__(self, path: Path) -> None:
        self.reader = gguf.GGUFReader(path)
        self.architecture = self.reader.fields["general.architecture"].contents()

    def overflown(self) -> str | None:
        """Return the first tensor with a value that its type cannot hold (infinite or no number), None where all are finite."""
        return next((tensor.name for tensor in self.reader.tensors if not _finite(tensor)), None)

    def types(self, kind: str) -> list[Any]:
        """Return the type of each tensor, vectors keeping their own; ProgramError for an architecture that has no rules here."""
        tensors = self.reader.tensors
        if self.architecture not in ARCHITECTURES or any(len(tensor.shape) > 2 for tensor in tensors):
            known = f"known: {', '.join(ARCHITECTURES)}, dense; state gguf.types: [f16]"
            raise ProgramError(f"no rules for quantising {self.architecture}", known, INVALID)
        layers = self.reader.fields[f"{self.architecture}.block_count"].contents()
        mix = Mix(kind, layers, all(tensor.name != "output.weight" for tensor in tensors))
        return [mix.type_of(t.name, int(t.shape[0]), t.tensor_type) if len(t.shape) > 1 else t.tensor_type for t in tensors]

    def quantize(self, target: Path, kind: str, advance: Callable[[int, int], None] = lambda done, total: None) -> dict[str, int]:
        """Write the file as `kind`; return how many tensors got which type."""
        types = self.types(kind)
        writer = self._started(target, kind)
        for tensor, wanted in zip(self.reader.tensors, types, strict=True):
            shape = (*map(int, reversed(tensor.shape[1:])), _row_bytes(tensor, wanted))
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), int(np.prod(shape)), raw_dtype=wanted)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, (tensor, wanted) in enumerate(zip(self.reader.tensors, types, strict=True), 1):
            writer.write_tensor_data(tensor.data if wanted == tensor.tensor_type else _packed(tensor, wanted))
            if done % 30 == 0 or done == len(types):
                advance(done, len(types))
        writer.close()
        return dict(Counter(wanted.name for wanted in types))

    def _started(self, target: Path, kind: str) -> Any:
        """Start a file with this one's metadata and its own file type."""
        writer = gguf.GGUFWriter(target, self.architecture)
        own = ("general.architecture", "general.file_type", "general.quantization_version")
        for name, field in self.reader.fields.items():
            if not name.startswith("GGUF.") and name not in own:
                writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
        writer.add_file_type(FILE_TYPES[kind])
        writer.add_quantization_version(2)
        return writer


def _finite(tensor: Any) -> bool:
    """Look at the exponents: all ones means infinite or no number."""
    exponent = {Type.F16: (np.uint16, 0x7C00), Type.BF16: (np.uint16, 0x7F80), Type.F32: (np.uint32, 0x7F800000)}
    kind, mask = exponent[tensor.tensor_type]
    return not any((part.view(kind) & mask == mask).any() for part in np.array_split(tensor.data, -(-tensor.data.size // PART)))


def _row_bytes(tensor: Any, kind: Any) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(tensor.shape[0]) // block * size


def _packed(tensor: Any, wanted: Any) -> np.ndarray:
    """Return the tensor's rows as packed blocks, uint8 of shape (rows, bytes in a row); the rows are shared out over the CPUs."""
    columns, rows = int(tensor.shape[0]), int(np.prod(tensor.shape[1:]))
    packed = np.empty((rows, _row_bytes(tensor, wanted)), np.uint8)

    def part(first: int) -> None:
        values = np.ascontiguousarray(gguf.quants.dequantize(tensor.data[first : first + ROWS], tensor.tensor_type), np.float32)
        target = packed[first : first + ROWS]
        source, room = ffi.from_buffer("float[]", values), ffi.from_buffer("char[]", target)
        written = library().ggml_quantize_chunk(int(wanted), source, room, 0, len(target), columns, ffi.NULL)
        if written != target.nbytes:
            raise OSError(f"ggml wrote {written} bytes of {tensor.name} where {target.nbytes} were due")

    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(part, range(0, rows, ROWS)))
    return packed
