"""The real Docker engine of the images' tests, and which images they are about."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from typing import Any

NAMES = os.environ.get("THINKSHIP_TEST_IMAGES", "verify llamacpp ollama convert train vllm").split()
"""Those to build and test; train and vllm take minutes and 15 GB."""
SECRETS = shlex.split(os.environ.get("THINKSHIP_BUILD_FLAGS", ""))
"""Flags of `docker buildx build` for a machine with certificates or an index of its own: --secret id=pipconf,src=… (ca, aptconf)."""
TAG = "selftest"
HARDENED = (
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none"),
    *("--pids-limit", "1024", "--memory", "8g", "--shm-size", "1g"),
)


def docker(*arguments: str, check: bool = True, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """Run docker and fail with its own words."""
    done = subprocess.run(("docker", *arguments), capture_output=True, text=True, check=False, timeout=timeout)
    assert done.returncode == 0 or not check, f"docker {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done


def inspect(name: str) -> dict[str, Any]:
    """What the engine knows of an image or a container."""
    return json.loads(docker("inspect", name).stdout)[0]


def name_of(image: str) -> str:
    return f"thinkship/{'vllm-cpu' if image == 'vllm' else image}:{TAG}"


Built = Callable[[str], str]
"""built(image) builds an image, from the cache where nothing has changed, and returns its name."""
