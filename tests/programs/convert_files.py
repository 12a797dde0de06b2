"""Convert a checkpoint in three types, alone or with an adapter merged into it: `convert_files.py stock|ours MODEL FOLDER [ADAPTER DTYPE]`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "images" / "convert"))

import converter
from sources import CONVERTER

way, model, folder, *adapter = sys.argv[1:]
for kind in ("f16", "bf16", "q8_0"):
    target = Path(folder) / f"{way}-{kind}.gguf"
    if way == "stock":
        subprocess.run([sys.executable, str(CONVERTER), model, "--outfile", str(target), "--outtype", kind], check=True)
    else:
        converter.convert(Path(model), target, kind, *(Path(adapter[0]), adapter[1]) if adapter else ())
