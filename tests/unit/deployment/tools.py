"""Stand-ins for kubectl, helm and docker on PATH, where a test is about how their words are understood; the programs themselves are in tests/cluster
and tests/deploy.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> Path:
    """Put shell scripts on PATH; each finds its arguments in `$*` and keeps them in `asked`, a line a call."""
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    for name, text in scripts.items():
        (place / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{folder}/asked\n{text}\n')
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    return folder / "asked"
