"""What the tests of Jobs share."""

from __future__ import annotations

import pytest
from scripted import Scripted

from toolkit.runners.kubernetes import desk, following, patience


@pytest.fixture
def kubectl(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """A scripted kubectl, and no pauses."""
    monkeypatch.setattr(patience, "PAUSE", 0.0)
    monkeypatch.setattr(desk, "PAUSE", 0.0)
    monkeypatch.setattr(following, "SOON", 0.0)
    return Scripted(monkeypatch)
