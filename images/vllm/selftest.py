#!/usr/bin/env python3
"""Prove inside the image that it serves: a checkpoint of two random layers, quantised to NF4 by bitsandbytes while it loads, answers one token of
a chat and ends when told to. One line of JSON, exit code 0.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import healthcheck
import tiny

PORT = 18000
START, STOP = 600, 60
"""Seconds within which it answers and ends."""


def main() -> int:
    """Serve, ask, end the server and tell how long it took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        tiny.write_checkpoint(Path(folder))
        figures = serve(Path(folder))
    print(json.dumps({"selftest": "vllm", "ok": True, "seconds": round(time.monotonic() - began, 1), **figures}))
    return 0


def serve(model: Path) -> dict[str, Any]:
    """Start the image's own entry point, wait for one answered token, and return the seconds that start and end took."""
    quantized = ("--quantization", "bitsandbytes", "--load-format", "bitsandbytes", "--dtype", "bfloat16", "--enforce-eager")
    size = ("--max-model-len", "256", "--max-num-seqs", "1", "--served-model-name", "tiny", "--port", str(PORT), "--host", "127.0.0.1")
    program = (sys.executable, str(Path(__file__).with_name("serve.py")), "--model", str(model), *size, *quantized, "--shutdown-timeout", "5")
    began = time.monotonic()
    with subprocess.Popen(program, stdout=sys.stderr) as server:
        try:
            while healthcheck.main(PORT):
                if server.poll() is not None or time.monotonic() - began > START:
                    raise SystemExit(f"the server did not answer; its exit code: {server.poll()}")
                time.sleep(1)
            ready = time.monotonic()
            server.terminate()
            code = server.wait(STOP)
        finally:
            server.kill()
    if code:
        raise SystemExit(f"the server ended with {code} when it was told to stop")
    return {"ready": round(ready - began, 1), "ended_within": round(time.monotonic() - ready, 1)}


if __name__ == "__main__":
    sys.exit(main())
