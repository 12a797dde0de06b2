"""What is released: release.json, made of a finished store, tells what is served, what proved it, and from which sources it came."""

from __future__ import annotations
