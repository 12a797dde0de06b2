"""Measures how much of the fine-tune a GGUF file keeps: its weights' way from the base's, laid onto the way that training went.

    python3 benchmarks/kept.py BASE_F16.gguf MERGED_F16.gguf FILE.gguf...

1 where all is kept on average (rounding adds noise to it), 0 where the file holds the base's weights again. Prints a line of a Markdown table a file:
means over the layers' quantised tensors of the share kept, and of the sizes of the adapter and of the file's distance from base and merged model,
as shares of the base's weights. Needs gguf and numpy, which the train environment has.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize


def tensors(path: str) -> dict[str, Any]:
    """Return a file's tensors by name."""
    return {tensor.name: tensor for tensor in GGUFReader(path).tensors}


def plain(tensor: Any) -> Any:
    """Return a tensor's values in 32 bits."""
    return dequantize(tensor.data, tensor.tensor_type).astype(np.float32)


def kept(base: dict[str, Any], merged: dict[str, Any], file: dict[str, Any]) -> tuple[float, ...]:
    """Return the share kept, and |adapter|, |file - base| and |file - merged| as shares of |base|, all as means over the layers' matrices."""
    rows = []
    for name, tensor in file.items():
        if "blk." not in name or tensor.data.ndim < 2 or tensor.tensor_type == merged[name].tensor_type:
            continue
        before, after, now = plain(base[name]), plain(merged[name]), plain(tensor)
        delta, size = after - before, float(np.linalg.norm(before))
        share = float(((now - before) * delta).sum() / (delta**2).sum())
        rows.append((share, *(float(np.linalg.norm(way)) / size for way in (delta, now - before, now - after))))
    return tuple(np.mean(rows, axis=0))


def main(base: str, merged: str, *files: str) -> None:
    """Print the table."""
    print("| file | kept | adapter | from the base | from the merged model |\n| --- | --- | --- | --- | --- |")
    before, after = tensors(base), tensors(merged)
    for path in files:
        share, *sizes = kept(before, after, tensors(path))
        print(f"| {Path(path).stem.removeprefix('model-')} | {share:.2f} | {' | '.join(f'{size:.2%}' for size in sizes)} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
