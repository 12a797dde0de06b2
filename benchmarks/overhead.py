"""Measures what our layer costs a served model: the proxy before it, and the probes that look after it, side by side with the bare engine.

    python3 benchmarks/overhead.py --bare http://172.17.0.2:8080/v1 --layer https://localhost:8443/v1 --model NAME --key-file FILE \
        [--authority root.crt] [--probe 'docker exec CONTAINER python /opt/thinkship/healthcheck.py 8080' --every 30] [--rounds 12]

Both addresses lead to one engine, so that nothing but the way differs. First tokens: four hundred short questions on each way, one after the other,
in an order that changes from pair to pair. Tokens a second: rounds in which eight clients stream answers of 128 tokens, the sides taking turns. The
rounds of the side `probes` ask the bare engine while the probe runs ten times as often as it would, and a tenth of what that costs is told. Prints a
Markdown table: medians, and the median difference of the pairs to the bare engine with a 95 % interval by bootstrap. Standard library alone.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import shlex
import ssl
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

PAIRS, CLIENTS, ANSWERS, TOKENS = 400, 8, 3, 128
"""Questions on each way whose first token is timed; clients of a round, answers of each and tokens of an answer."""
OFTEN = 10
"""How many times as often as it would the probe is run."""


@dataclass(frozen=True)
class Way:
    """A way to the engine."""

    url: str
    model: str
    key: str
    authority: Path | None = None

    def connection(self) -> http.client.HTTPConnection:
        """Return a connection that is kept."""
        parts = urlsplit(self.url)
        assert parts.hostname
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=120, context=ssl.create_default_context(cafile=self.authority))
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=120)

    def ask(self, connection: http.client.HTTPConnection, number: int, tokens: int) -> tuple[float, int]:
        """Stream one answer of just so many tokens; return the seconds to its first piece and how many tokens came, as the engine counts."""
        question = {"role": "user", "content": f"What is {number % 90 + 10} + {number * 7 % 90 + 10}?"}
        body = {"model": self.model, "messages": [question], "max_tokens": tokens, "temperature": 0, "stream": True}
        body |= {"ignore_eos": True, "stream_options": {"include_usage": True}}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        asked = ("POST", f"{urlsplit(self.url).path}/chat/completions", json.dumps(body), headers)
        began, first, made = time.perf_counter(), 0.0, 0
        try:
            connection.request(*asked)
            reply = connection.getresponse()
        except (ConnectionError, http.client.RemoteDisconnected):  # llama.cpp closes a kept connection now and then: made anew, and asked again
            connection.close()
            began = time.perf_counter()
            connection.request(*asked)
            reply = connection.getresponse()
        for line in reply:
            if line.startswith(b"data: {") and (b'"content":"' in line or b'"reasoning' in line):
                first = first or time.perf_counter() - began
            if b'"completion_tokens":' in line:
                made = json.loads(line.removeprefix(b"data: "))["usage"]["completion_tokens"]
        assert reply.status == 200 and first and made == tokens, f"{self.url} answered {reply.status}: {made} tokens of {tokens}"
        return first, made


def first_tokens(sides: dict[str, Way]) -> dict[str, list[float]]:
    """Return the seconds to the first token on each way, pair by pair."""
    lines = {side: way.connection() for side, way in sides.items()}
    seen: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(PAIRS + 10):  # the first ten warm up
        for side in random.Random(number).sample(list(sides), len(sides)):
            seconds = sides[side].ask(lines[side], number * 10 + list(sides).index(side), 1)[0]
            seen[side] += [seconds] if number >= 10 else []
    for line in lines.values():
        line.close()
    return seen


def rate(way: Way, seed: int) -> float:
    """Return the tokens a second of one round."""
    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        tokens = sum(pool.map(lambda client: _client(way, seed * 1000 + 100 * client), range(CLIENTS)))
    return tokens / (time.perf_counter() - began)


def _client(way: Way, seed: int) -> int:
    line = way.connection()
    try:
        return sum(way.ask(line, seed + turn, TOKENS)[1] for turn in range(ANSWERS))
    finally:
        line.close()


@contextmanager
def probed(command: Sequence[str], every: float) -> Iterator[None]:
    """Run a probe again and again while the block runs."""
    ended = threading.Event()

    def probe() -> None:
        while not ended.is_set():
            began = time.monotonic()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
            ended.wait(max(0.0, every - (time.monotonic() - began)))

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def interval(bare: Sequence[float], other: Sequence[float], relative: bool) -> tuple[float, float, float]:
    """Return the median difference of pairs of rounds and its 95 % interval, as a share of the bare engine's where it is relative."""
    pairs = [(there - here) / (here if relative else 1.0) for here, there in zip(bare, other, strict=True)]
    chance = random.Random(3407)
    drawn = sorted(statistics.median(chance.choices(pairs, k=len(pairs))) for _ in range(4000))
    return statistics.median(pairs), drawn[100], drawn[-101]


def table(first: dict[str, list[float]], rates: dict[str, list[float]]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| side | first token, ms | more, ms (95 %) | tokens/s of 8 clients | more, % (95 %) |"
    yield "| --- | --- | --- | --- | --- |"
    for side, found in rates.items():
        late = less = begun = ""
        if side in first:
            begun = f"{1000 * statistics.median(first[side]):.2f}"
        if side in first and side != "bare":
            late = _told(1000, interval(first["bare"], first[side], relative=False))
        if side != "bare":
            less = _told(100 / OFTEN if side == "probes" else 100, interval(rates["bare"], found, relative=True))
        yield f"| {side} | {begun} | {late} | {statistics.median(found):.1f} | {less} |"


def _told(times: float, found: tuple[float, float, float]) -> str:
    middle, low, high = (times * value for value in found)
    return f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"


def main() -> None:
    """Take the rounds and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bare", required=True)
    options.add_argument("--layer", required=True)
    options.add_argument("--model", required=True)
    options.add_argument("--key-file", type=Path)
    options.add_argument("--authority", type=Path)
    options.add_argument("--probe", type=shlex.split, default=[])
    options.add_argument("--every", type=float, default=30.0)
    options.add_argument("--rounds", type=int, default=12)
    given = options.parse_args()
    key = given.key_file.read_text().strip() if given.key_file else "none"
    bare = Way(given.bare, given.model, key)
    sides = {"bare": bare, "layer": Way(given.layer, given.model, key, given.authority)} | ({"probes": bare} if given.probe else {})
    first = first_tokens({side: way for side, way in sides.items() if side != "probes"})
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(given.rounds):
        for side in random.Random(number).sample(list(sides), len(sides)):
            with probed(given.probe, given.every / OFTEN) if side == "probes" else nullcontext():
                rates[side].append(rate(sides[side], number))
    print(*table(first, rates), sep="\n")


if __name__ == "__main__":
    main()
