#!/usr/bin/env python3
"""Prove inside the image that `thinkship` works: it takes a shipped recipe, refuses a broken one, and says that nothing answers where nothing does.
One line of JSON, exit code 0.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent
RECIPE = ROOT / "recipes" / "smollm2-demo.yml"
INVALID, NOT_READY = 3, 4
"""Exit codes of toolkit/errors.py."""


def main() -> int:
    """Run three commands and compare their exit codes."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        broken = Path(folder) / "broken.yml"
        broken.write_text(RECIPE.read_text(encoding="utf-8").replace("rank: 16", "rank: 0"), encoding="utf-8")
        expect(0, "validate", str(RECIPE))
        expect(INVALID, "validate", str(broken))
        expect(NOT_READY, "health", "--url", "http://127.0.0.1:9/v1", "--model", "none")
    print(json.dumps({"selftest": "verify", "ok": True, "seconds": round(time.monotonic() - began, 1)}))
    return 0


def expect(code: int, *arguments: str) -> None:
    """Run `thinkship` and stop unless it ends with this code."""
    done = subprocess.run(("thinkship", *arguments), stdout=sys.stderr, check=False)
    if done.returncode != code:
        raise SystemExit(f"thinkship {' '.join(arguments)}: exit code {done.returncode} instead of {code}")


if __name__ == "__main__":
    sys.exit(main())
