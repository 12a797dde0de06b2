"""Add a change to a weight in the merge's blocks, and in the converter's: `merge_blocks.py FOLDER`.

Runs in the train environment. Each line is a JSON object: rows and columns as of 7B models, and how many weights got another sum.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "images" / "train"))

import torch
from adapter_delta import Change, blocks
from safetensors.torch import save_file
from shard_writer import Item
from tensor_files import read_header

SHAPES = {(1100, 3584): 1, (300, 18944): 1, (600, 4096): 1, (4, 250, 1408): 4}
RANK = 16


def main(folder: Path) -> None:
    """Print one line a shape."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for shape, experts in SHAPES.items():
        height, columns = shape[-2:]
        made = {"w": torch.randn(*shape) * 0.02, "a": torch.randn(experts * RANK, columns), "b": torch.randn(height, RANK * experts) * 1e-3}
        save_file(made, folder / "one.safetensors")
        (found, _) = read_header(folder / "one.safetensors")
        change = Change(found["w"], 1.0, found["a"], found["b"], experts=experts)
        ways = [list(Item("w", found["w"], change, torch.bfloat16, 0).blocks()), list(blocks(found["w"])), list(blocks(found["w"], 1 << 20))]
        sums = []
        for way in ways:
            parts = [found["w"].read(first, last) for first, last in way]
            for (first, _), part in zip(way, parts, strict=True):
                change.load().apply(part, first)
            sums.append(torch.cat(parts))
        other = sum(int((one != sums[0]).sum()) for one in sums[1:])
        sys.stdout.write(json.dumps({"shape": shape, "blocks": [len(way) for way in ways], "other": other}) + "\n")


main(Path(sys.argv[1]))
