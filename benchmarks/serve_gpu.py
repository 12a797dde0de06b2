"""Compares our launch line of vLLM with the tutorial's flags on one GPU: seconds to ready, tokens a second at 1, 8 and 32 streams, memory in all.

    python3 benchmarks/serve_gpu.py MODEL --side ours [--card 24GiB] [--parallel 32] [--context 2048] [--warm]
    python3 benchmarks/serve_gpu.py MODEL --side tutorial

MODEL is a checkpoint, such as one of benchmarks/random_model.py: 16 bits, or NF4 for the tutorial's side. --variant names a format instead of the
one that is chosen; --warm starts the server a second time and measures that start too. Prints a line of a Markdown table. Needs vLLM in this
interpreter; nothing is downloaded. A server of a 32B model takes three minutes to start: one side a call.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from toolkit.engine_settings import Vllm  # noqa: E402
from toolkit.engines import Target, Tools, engine  # noqa: E402 - the repository is not installed on that machine
from toolkit.fit import choice  # noqa: E402
from toolkit.fit.card import named, present  # noqa: E402
from toolkit.fit.serving import Load, plan  # noqa: E402
from toolkit.fit.shape import of_folder  # noqa: E402

PORT, PROMPT, ANSWER, LONG = 8017, 128, 256, 1536
"""Tokens of a prompt and its answer, and of the prompt whose first token is timed."""
LIMIT = 540.0


def target_of(given: argparse.Namespace) -> tuple[Target, str]:
    """Return what is served and, for our side, why in this format and what is expected of it."""
    found = of_folder(given.model)
    if given.side == "tutorial":
        vllm = Vllm(profile="tutorial")
        return Target("bench", given.context, given.parallel, "chatml", given.variant or "bnb-nf4", given.model, vllm=vllm), "tutorial's flags"
    assert found, f"{given.model} has no config.json"
    card = named(given.card) if given.card else present()[0]
    load = Load(given.parallel, given.context)
    variant = given.variant or choice.choose(found.shape, load, card).variant
    vllm = Vllm(card=given.card)
    target = Target("bench", given.context, given.parallel, "chatml", variant, given.model, vllm=vllm, shape=found.shape)
    return target, f"estimate {plan(found.shape, variant, load, card).estimate}"


def command_of(target: Target, work: Path) -> tuple[list[str], dict[str, str]]:
    """Return the launch line that the toolkit would run, in the words of the vLLM that is here, and its environment."""
    tools = Tools({"vllm": Path(sys.executable)}, ROOT / "images" / "vllm", work, gpu=True, card=next(iter(present()), None))
    command = engine("vllm").launch(target, PORT, tools)
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    argv = ["fp8" if word == "fp8_per_tensor" and word not in QUANTIZATION_METHODS else word for word in command.argv]
    return argv, {**os.environ, **command.env, "VLLM_USE_DEEP_GEMM": "0"}


@contextmanager
def served(argv: list[str], env: dict[str, str], log: Path) -> Iterator[float]:
    """Serve while the block runs; yield the seconds to ready. A flag that an older vLLM does not know is left out and said."""
    began = time.monotonic()
    process = started(argv, env, log)
    try:
        while not answers():
            if process.poll() is not None:
                unknown = re.search(r"unrecognized arguments: (.*)", log.read_text(errors="replace"))
                if not unknown:
                    raise SystemExit(log.read_text(errors="replace")[-3000:])
                print(f"left out: {unknown[1]}")
                argv = [word for word in argv if word not in unknown[1].split()]
                process, began = started(argv, env, log), time.monotonic()
            if time.monotonic() - began > LIMIT:
                raise SystemExit(f"not ready in {LIMIT:.0f} s\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.5)
        yield time.monotonic() - began
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(3)  # the card is free a moment later


def started(argv: list[str], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start the server with its output in the log."""
    with log.open("wb") as sink:
        return subprocess.Popen(argv, env=env, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)


def answers() -> bool:
    """Say whether the server is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=2):
            return True
    except OSError:
        return False


def ask(prompt: int, answer: int, seed: int) -> dict[str, Any]:
    """Let the model write exactly `answer` tokens after `prompt` tokens."""
    ids = [10 + (seed * 7919 + at * 104729) % 40000 for at in range(prompt)]
    body = {"model": "bench", "prompt": ids, "max_tokens": answer, "temperature": 0, "ignore_eos": True}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=300) as reply:
        made: dict[str, Any] = json.load(reply)
    return made


def rate(streams: int) -> float:
    """Return the tokens a second of so many streams at once."""
    threads = [threading.Thread(target=ask, args=(PROMPT, ANSWER, streams * 100 + number)) for number in range(streams)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return streams * ANSWER / (time.monotonic() - began)


def used() -> int:
    """Return the MiB of the card that are in use."""
    query = ("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])


def main() -> None:
    """Measure one side and print its line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model", type=Path)
    options.add_argument("--side", choices=["ours", "tutorial"], required=True)
    options.add_argument("--variant")
    options.add_argument("--card")
    options.add_argument("--parallel", type=int, default=32)
    options.add_argument("--context", type=int, default=2048)
    options.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    options.add_argument("--work", type=Path, default=Path("/tmp/serve_gpu"))
    options.add_argument("--warm", action="store_true")
    given = options.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    given.model = given.model.resolve()
    target, why = target_of(given)
    argv, env = command_of(target, given.work.resolve())
    print(present()[0], "|", why, "|", " ".join(argv[2:]), flush=True)
    with served(argv, env, given.work / "vllm.log") as cold:
        ready = used()
        ask(PROMPT, 8, 1)
        rates = {streams: rate(streams) for streams in given.streams}
        first = min(timed(lambda seed=seed: ask(LONG, 1, seed)) for seed in (901, 902, 903)) if given.context > LONG else 0.0
        loaded = used()
    warm = again(argv, env, given.work / "vllm.log") if given.warm else None
    cells = [given.side, target.variant, f"{cold:.0f}", f"{warm:.0f}" if warm else "", f"{ready:,}", f"{loaded:,}"]
    print("| side | format | start, s | warm, s | MiB at ready | after load | " + " | ".join(f"tok/s at {n}" for n in rates) + " | TTFT, s |")
    print(f"| {' | '.join([*cells, *(f'{value:,.1f}' for value in rates.values()), f'{first:.2f}'])} |")


def again(argv: list[str], env: dict[str, str], log: Path) -> float:
    """Return the seconds of a second start, which finds what the first compiled."""
    with served(argv, env, log) as seconds:
        return seconds


def timed(work: Any) -> float:
    """Return the seconds that something takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
