"""Run merge.py as on a machine whose memory holds no model: `merge_without_room.py ARGS`. Its processes import this file, and lose the room too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "images" / "train"))

import logits

logits.place_for = lambda parameters: None  # type: ignore[assignment]

import merge  # noqa: E402 - its processes must find no room
from program import run  # noqa: E402

if __name__ == "__main__":
    run(merge.main)
