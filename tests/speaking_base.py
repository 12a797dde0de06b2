"""A base whose think tags can be said, as a reasoning model's can: what adapters of the linear layers alone are trained over."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from toolkit.runners.environment import Environment

LENGTHENED = """
import sys
from safetensors.torch import load_file, save_file
tensors = load_file(sys.argv[1])
tensors["model.embed_tokens.weight"][-2:] *= 2
save_file(tensors, sys.argv[2], {"format": "pt"})
"""
"""A program that makes the rows of the two tags twice as long: they are no longer the means of their pieces' rows."""


def make(base: Path, folder: Path) -> Path:
    """Copy the checkpoint of the demo's base step to a new folder, with such tags."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    argv = (Environment("train").install(), "-c", LENGTHENED, base / "model.safetensors", folder / "model.safetensors")
    subprocess.run(tuple(map(str, argv)), check=True)
    return folder
