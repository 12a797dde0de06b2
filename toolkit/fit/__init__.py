"""Does it fit: what a recipe asks of memory, disk and time is worked out from the model's shape and the card, before a byte is fetched."""

from __future__ import annotations

GIB, MIB, GB = 1 << 30, 1 << 20, 10**9
