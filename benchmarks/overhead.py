"""Measures what our layer costs a served model: the proxy before it, and the probes that look after it, side by side with the bare engine.

    python3 benchmarks/overhead.py --bare http://172.17.0.2:8080/v1 --layer https://localhost:8443/v1 --model NAME --key-file FILE \
        [--authority root.crt] [--probe 'docker exec CONTAINER python /opt/thinkship/healthcheck.py 8080' --every 30] [--rounds 12]

Both addresses lead to one engine, so that nothing but the way differs; the sides take turns round by round, in an order that changes. A round asks
for the first token of forty short questions one after the other, then has eight clients stream answers of 128 tokens. The rounds of the side `probes`
ask the bare engine while the probe runs ten times as often as it would, and a tenth of what that costs is told. Prints a Markdown table: medians over
the rounds, and the difference to the bare engine with a 95 % interval by bootstrap over the rounds. Standard library alone.
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

FIRST_TOKENS, CLIENTS, ANSWERS, TOKENS = 40, 8, 3, 128
"""Of a round: questions whose first token is timed; clients, answers of each and tokens of an answer."""
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
        """Stream one answer of just so many tokens; return the seconds to its first piece and how many pieces came."""
        question = {"role": "user", "content": f"What is {number % 90 + 10} + {number * 7 % 90 + 10}?"}
        body = {"model": self.model, "messages": [question], "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        asked = ("POST", f"{urlsplit(self.url).path}/chat/completions", json.dumps(body), headers)
        began, first, pieces = time.perf_counter(), 0.0, 0
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
                pieces += 1
                first = first or time.perf_counter() - began
        assert reply.status == 200 and pieces, f"{self.url} answered {reply.status} in {pieces} pieces"
        return first, pieces


@dataclass(frozen=True)
class Round:
    """What one round of one side came to."""

    first: float
    """Median seconds to the first token."""
    rate: float
    """Tokens a second of all clients."""


def measured(way: Way, seed: int) -> Round:
    """Take one round."""
    line = way.connection()
    first = statistics.median(way.ask(line, seed * 1000 + number, 1)[0] for number in range(FIRST_TOKENS))
    line.close()
    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        pieces = sum(pool.map(lambda client: _client(way, seed * 1000 + 100 * client), range(CLIENTS)))
    return Round(first, pieces / (time.perf_counter() - began))


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


def table(seen: dict[str, list[Round]]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| side | first token, ms | more, ms (95 %) | tokens/s of 8 clients | more, % (95 %) |"
    yield "| --- | --- | --- | --- | --- |"
    bare = seen["bare"]
    for side, rounds in seen.items():
        share = 1 / OFTEN if side == "probes" else 1.0
        first, rate = statistics.median(one.first for one in rounds), statistics.median(one.rate for one in rounds)
        late = [1000 * share * value for value in interval([one.first for one in bare], [one.first for one in rounds], relative=False)]
        less = [100 * share * value for value in interval([one.rate for one in bare], [one.rate for one in rounds], relative=True)]
        more = ["", ""] if side == "bare" else [f"{one[0]:+.2f} ({one[1]:+.2f} to {one[2]:+.2f})" for one in (late, less)]
        yield f"| {side} | {1000 * first:.2f} | {more[0]} | {rate:.1f} | {more[1]} |"


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
    for side in sides.values():
        measured(side, 0)
    seen: dict[str, list[Round]] = {side: [] for side in sides}
    for number in range(1, given.rounds + 1):
        order = list(sides)
        random.Random(number).shuffle(order)
        for side in order:
            with probed(given.probe, given.every / OFTEN) if side == "probes" else nullcontext():
                seen[side].append(measured(sides[side], number))
    print(*table(seen), sep="\n")


if __name__ == "__main__":
    main()
