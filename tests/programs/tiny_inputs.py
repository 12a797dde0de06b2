"""Write a base and a dataset of two random layers as the stages leave them: `tiny_inputs.py FOLDER ROWS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "images" / "train"))

import tiny

folder, count = Path(sys.argv[1]), int(sys.argv[2])
for name in ("base", "dataset"):
    (folder / name).mkdir(parents=True)
tiny.write_checkpoint(folder / "base" / "model")
(folder / "base" / "base.json").write_text('{"source": "tiny"}')
for name, rows in (("train", count), ("eval", 6)):
    path = folder / "dataset" / f"{name}.jsonl"
    tiny.write_rows(path, rows)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(lines):  # lengths as unlike as those of real rows
        row["completion"] = row["completion"].replace(".\n", ", " + "and again " * (number * 5 % 13) + ".\n")
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))
