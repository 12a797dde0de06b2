"""Cut a checkpoint to its first layers, with think tags that can be said, as a reasoning model's can: `small_base.py SOURCE TARGET`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

LAYERS = 4
"""What an adapter needs to say one sentence for certain; all 30 of the demo's take seven times as long."""

source, target = map(Path, sys.argv[1:])
shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
tensors = load_file(source / "model.safetensors")
kept = {name: tensor for name, tensor in tensors.items() if ".layers." not in name or int(name.split(".")[2]) < LAYERS}
kept["model.embed_tokens.weight"][-2:] *= 2  # the tags' rows are no longer the means of their pieces'
save_file(kept, target / "model.safetensors", {"format": "pt"})
config = json.loads((source / "config.json").read_text(encoding="utf-8"))
(target / "config.json").write_text(json.dumps({**config, "num_hidden_layers": LAYERS}, indent=2), encoding="utf-8")
