"""Where install_sources.py put llama.cpp's converter, and its `gguf` package."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from program import NOT_READY, ProgramError

CONVERTER = Path(sys.prefix) / "llama.cpp" / "convert_hf_to_gguf.py"

if not CONVERTER.is_file():
    raise ProgramError("llama.cpp's converter is not installed", "run images/convert/install_sources.py on this environment", NOT_READY)
sys.path.insert(0, str(CONVERTER.parent / "gguf-py"))
gguf = importlib.import_module("gguf")
