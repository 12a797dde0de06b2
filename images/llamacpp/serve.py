"""llama.cpp's own HTTP server from the prebuilt `xllamacpp` wheel: one GGUF, its embedded Jinja template, loopback only.

Run as `python serve.py --model FILE.gguf --alias NAME --port N --context TOKENS --parallel SLOTS`; ends with SIGINT or SIGTERM,
when what it has begun to answer is answered. Where the environment names a file as API_KEY_FILE, nobody is served without the key in it.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
from pathlib import Path
from typing import Any

import api_key
import xllamacpp
from farewell import Farewell


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--alias", required=True, help="name that clients ask for")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--context", type=int, required=True, help="tokens in one request, prompt and answer together")
    parser.add_argument("--parallel", type=int, default=1, help="requests served at once")
    parser.add_argument("--lora", type=Path, action="append", default=[], help="GGUF file of an adapter to lay over the model; more by request")
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
    params.endpoint_metrics = True
    # the first is laid over every request that names none; a request's `lora` chooses among all, by number
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), float(number == 0)) for number, path in enumerate(given.lora)]
    if len(given.lora) > 1:
        # what a prompt left in the caches was computed with one adapter and is found again by another: ggml-org/llama.cpp#26207 and #30129
        params.cache_prompt, params.cache_ram_mib = False, 0
    if key := api_key.read():
        params.api_keys = [key]
    return params


def main() -> None:
    """Serve until a signal ends the process."""
    given = arguments()
    for path in (given.model, *given.lora):
        if not path.is_file():
            raise SystemExit(f"no such file: {path}")
    # Waited for instead of handled: llama.cpp's threads inherit the block, and process 1 of a container has no default action to fall back on.
    ends = {signal.SIGINT, signal.SIGTERM}
    for one in ends:
        signal.signal(one, signal.SIG_DFL)  # a job in a shell's background ignores SIGINT, and what is ignored is never waited for
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    server = xllamacpp.Server(parameters(given))
    print(f"serving {given.alias} at {server.listening_address}", flush=True)
    signal.sigwait(ends)
    farewell, quiet = Farewell(given.port), 0
    # Answers in progress are finished; a second signal ends them. Twice: a request that was just read is not counted yet.
    while quiet < 2 and not signal.sigtimedwait(ends, 0.1):
        farewell.take_over()
        quiet = 0 if busy(server) else quiet + 1
    farewell.finish()
    os._exit(0)  # there is nothing to be saved, and the server's destructor may wait for requests without end


def busy(server: Any) -> bool:
    """Say whether a request is being answered or waits for its turn."""
    counts = re.findall(r"^llamacpp:requests_(?:processing|deferred) (\d+)", server.handle_metrics(), re.MULTILINE)
    return any(map(int, counts))


if __name__ == "__main__":
    main()
