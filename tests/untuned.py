"""A release that is wrong in one way: it serves the base model under the tuned one's name."""

from __future__ import annotations

from pathlib import Path

from toolkit.artifact import read_record
from toolkit.release.document import Release, ReleasedEngine, ReleasedFile


def untuned(good: Release, store: Path) -> ReleasedEngine:
    """Return the release's one engine, given the base's GGUF of the store it was made in."""
    (one,) = good.engines
    base = good.step("gguf-base").directory
    record = read_record(store / base)
    assert record
    (entry,) = (entry for entry in record.files if entry.path.endswith(".gguf"))
    wrong = ReleasedFile(path=f"{base}/{entry.path}", source=entry.path, size=entry.size, sha256=entry.sha256)
    return one.model_copy(update={"files": (wrong,), "args": ("--model", f"/models/{wrong.path}", *one.args[2:])})
