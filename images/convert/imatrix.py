"""An importance matrix: for each weight matrix the mean square, over given texts, of what each of its columns is multiplied with.

Quantising then errs least where the model's own texts need it most. Collected and stored as llama.cpp's llama-imatrix does (tools/imatrix), so that
its programs take the file; a test compares both. Dense models alone: experts would be counted one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from libllama import opened
from program import BROKEN, INVALID, ProgramError
from sources import gguf

SUMS, COUNTS = ".in_sum2", ".counts"
REMEDY = "state gguf.imatrix.rows to have one made from the training rows"


@dataclass(frozen=True)
class Matrix:
    """Sums of squares of each weight matrix's inputs and the number of tokens in them, and what they were collected on."""

    sums: Mapping[str, np.ndarray]
    """Tensor name -> float32 of shape (columns)."""
    counts: Mapping[str, int]
    texts: int
    longest: int
    """Tokens of the longest text."""
    dataset: str
    file: str = "imatrix.gguf"

    def weights(self, name: str) -> np.ndarray | None:
        """Return the mean squares that weigh a tensor's columns, None for one that is not in it."""
        return self.sums[name] / np.float32(self.counts[name]) if name in self.sums else None

    def require(self, columns: Mapping[str, int]) -> None:
        """Raise ProgramError unless it is of this model: `columns` are the row lengths of its layers' matrices, by their names."""
        odd = sorted(self.sums.keys() - columns.keys())
        missing = sorted(columns.keys() - self.sums.keys())
        other = next((name for name, count in columns.items() if name in self.sums and len(self.sums[name]) != count), None)
        if other:
            found = f"{other} has {len(self.sums[other])} columns there and {columns[other]} here"
        elif odd or missing:
            found = f"it has {odd[0]}, which the model lacks" if odd else f"it lacks {missing[0]}"
        else:
            return
        raise ProgramError(f"{self.file} is another model's importance matrix: {found}", f"give this model's own, or {REMEDY}", INVALID)

    def write(self, path: Path) -> None:
        """Write it in llama-imatrix's GGUF format."""
        writer = gguf.GGUFWriter(path, "")
        writer.kv_data[0].pop("general.architecture", None)
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", [self.dataset])
        writer.add_uint32("imatrix.chunk_count", self.texts)
        writer.add_uint32("imatrix.chunk_size", self.longest)
        for name in sorted(self.sums):
            writer.add_tensor(name + SUMS, self.sums[name].reshape(1, -1))
            writer.add_tensor(name + COUNTS, np.array([[self.counts[name]]], np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def collect(source: Path, rows: Sequence[Sequence[int]], dataset: str, advance: Callable[[int, int], None]) -> Matrix:
    """Evaluate rows of token ids with a 16-bit file; ProgramError where a sum is not finite."""
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}

    def see(name: str, values: np.ndarray) -> None:
        squares = np.einsum("ij,ij->j", values, values)
        sums[name] = sums[name] + squares if name in sums else squares.astype(np.float64)
        counts[name] = counts.get(name, 0) + len(values)

    with opened(source) as model:
        for done in model.observe(rows, see):
            advance(done, len(rows))
    broken = next((name for name, values in sums.items() if not np.isfinite(values).all()), None)
    if broken:
        raise ProgramError(f"what {broken} is multiplied with is not finite", "look at the checkpoint's weights", BROKEN)
    narrow = {name: values.astype(np.float32) for name, values in sums.items()}
    return Matrix(narrow, counts, len(rows), max(map(len, rows)), dataset)


def read(path: Path) -> Matrix:
    """Read a file of llama-imatrix's GGUF format; ProgramError where it is none."""
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        given = {tensor.name: _values(tensor) for tensor in reader.tensors}
        names = [name.removesuffix(SUMS) for name in given if name.endswith(SUMS)]
        if fields.get("general.type") != "imatrix" or not names:
            raise ValueError("it holds no sums of squares")
        sums, counts = {name: given[name + SUMS] for name in names}, {name: int(given[name + COUNTS][0]) for name in names}
        texts, longest = int(fields["imatrix.chunk_count"]), int(fields["imatrix.chunk_size"])
        dataset = next(iter(fields["imatrix.datasets"]), "")
        bad = next((name for name in names if not np.isfinite(sums[name]).all() or counts[name] < 1), None)
        if bad:
            raise ValueError(f"{bad} was not seen, or is not finite")
    except (ValueError, KeyError, IndexError, OSError) as error:
        remedy = f"give a GGUF that llama-imatrix wrote (an older .dat: llama-imatrix --in-file OLD -o NEW.gguf), or {REMEDY}"
        raise ProgramError(f"{path.name} is no importance matrix: {error}", remedy, INVALID) from error
    return Matrix(sums, counts, texts, longest, dataset, path.name)


def _values(tensor: Any) -> np.ndarray:
    if tensor.tensor_type != gguf.GGMLQuantizationType.F32:
        raise ValueError(f"{tensor.name} is not of 32-bit numbers")
    return np.array(tensor.data, np.float32).ravel()
