"""The demo's recipe with few steps, and its data beside it: what kills and resumes a chain takes minutes."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from toolkit.stages import ROOT

DEMO = ROOT / "recipes" / "smollm2-demo.yml"


def write(folder: Path, steps: int) -> Path:
    """Write it, with a checkpoint at every other step; return its path."""
    shutil.copytree(DEMO.parent / "data", folder / "data")
    tiny = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    tiny["name"] = "tiny"
    tiny["train"] |= {"steps": steps, "batch_size": 4, "checkpoint_steps": 2}
    tiny["merge"]["max_logit_difference"] = 3.0  # a few steps at the demo's rate leave logits that rounding moves further
    tiny["gguf"] = {"types": ["f16", "q8_0"], "max_kl": {}}
    tiny["modelfile"]["gguf"] = "q8_0"
    (folder / "tiny.yml").write_text(yaml.safe_dump(tiny), encoding="utf-8")
    return folder / "tiny.yml"
