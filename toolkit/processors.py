"""What this machine computes with."""

from __future__ import annotations

from pathlib import Path


def has_nvidia() -> bool:
    """Say whether this machine runs an NVIDIA driver."""
    return Path("/proc/driver/nvidia/version").exists()


def has_avx512() -> bool:
    """Say whether this machine's processor has AVX-512; False where Linux does not tell."""
    try:
        return " avx512f " in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
