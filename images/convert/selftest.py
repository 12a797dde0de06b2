#!/usr/bin/env python3
"""Prove inside the image that it converts and quantises: two random layers become f16 and Q8_0, each held against the checkpoint by the stage
itself. One line of JSON, exit code 0.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from program import Args

TYPES = ("f16", "q8_0")


def main() -> int:
    """Run the stage's own program and tell its figures."""
    began = time.monotonic()
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the stage says, and the processes it starts, is not the one line
    with tempfile.TemporaryDirectory() as folder:
        figures = work(Path(folder))
    print(json.dumps({"selftest": "convert", "ok": True, "seconds": round(time.monotonic() - began, 1), **figures}), file=told, flush=True)
    return 0


def work(folder: Path) -> dict[str, Any]:
    """Convert in `folder`; the stage raises where a file is not the checkpoint."""
    import tiny  # here, because the stage starts processes that import this file again
    import to_gguf

    places = {name: folder / name for name in ("model", "dataset", "gguf", "scratch")}
    for place in places.values():
        place.mkdir()
    tiny.write_checkpoint(places["model"] / "model")
    tiny.write_rows(places["dataset"] / "eval.jsonl", 4)
    recipe = {
        "types": TYPES,
        "max_kl": {"q8_0": 0.05},
        "min_top1": {},
        "max_perplexity_growth": {},
        "rows": 8,
        "size_limit": None,
        "imatrix": None,
        "source": "merge",
    }
    to_gguf.main(Args(places, places["gguf"], places["scratch"], {"gguf": recipe}))
    made = json.loads((places["gguf"] / "gguf.json").read_text(encoding="utf-8"))["types"]
    return {kind: {"bytes": made[kind]["bytes"], "mean_kl": made[kind]["mean_kl"]} for kind in TYPES}


if __name__ == "__main__":
    sys.exit(main())
