"""llama.cpp's own HTTP server from the prebuilt `xllamacpp` wheel: one GGUF, its embedded Jinja template, loopback only.

Run as `python serve.py --model FILE.gguf --alias NAME --port N --context TOKENS --parallel SLOTS`; ends with SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

import xllamacpp


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--alias", required=True, help="name that clients ask for")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--context", type=int, required=True, help="tokens in one request, prompt and answer together")
    parser.add_argument("--parallel", type=int, default=1, help="requests served at once")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def parameters(given: argparse.Namespace) -> Any:
    """Turn the command line into llama.cpp's parameters: every request gets the whole context, so the pool is context * parallel."""
    params = xllamacpp.CommonParams()
    params.model.path = str(given.model)
    params.model_alias = {given.alias}
    params.hostnames, params.port = [given.host], given.port
    params.n_ctx, params.n_parallel = given.context * given.parallel, given.parallel
    params.fit_params = False  # would shrink the context in silence where memory is short
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given.threads
    params.use_jinja = True
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_DEEPSEEK
    params.ui, params.cors_origins, params.offline = False, "", True
    return params


def main() -> None:
    """Serve until a signal ends the process."""
    given = arguments()
    if not given.model.is_file():
        raise SystemExit(f"no such file: {given.model}")
    # Python's own SIGINT handler would wait for the main thread, which llama.cpp's threads never wake; there is nothing to be saved.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    server = xllamacpp.Server(parameters(given))
    print(f"serving {given.alias} at {server.listening_address}", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
