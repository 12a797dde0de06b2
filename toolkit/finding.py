"""What one look at the machine, or at a recipe before it runs, has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What one check saw."""

    severity: Literal["ok", "note", "warning", "error"]
    check: str
    message: str
    remedy: str = ""
