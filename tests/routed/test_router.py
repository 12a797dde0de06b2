"""vLLM's own router before two real vLLMs: it judges like one engine, both are asked, and a killed one costs its own answers alone."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pinned
import pytest
from conftest import FIGURES, KEPT, REPLICAS, until_it_answers
from ports import free_port
from streams import Streams

from toolkit import process, serving
from toolkit.engines import Target
from toolkit.places import Machine, Running
from toolkit.process import Command
from toolkit.targets import tools

HERE = Path(__file__).parent
OWN = {"errors"}
"""What vLLM alone would pass: the router, 0.1.17, passes a refusal on without its error object."""
SECONDS_TO_NOTICE = 10
"""Within which the router sends nobody to an engine that is gone: two health checks of two seconds, and some to spare."""


@contextmanager
def routed(workers: list[str], log: Path) -> Iterator[str]:
    """Yield the address of the router before some servers."""
    program = pinned.environment(HERE / "router.lock", "vllm-router") / "bin" / "vllm-router"
    port, checks = free_port(), ("--health-check-interval-secs", "2", "--health-check-timeout-secs", "2", "--health-failure-threshold", "2")
    flags = ("--worker-urls", *workers, "--policy", "power_of_two", "--host", serving.HOST, "--port", str(port), *checks)
    with process.start(Command((str(program), *flags, "--prometheus-port", str(free_port()))), log=log) as router:
        url = f"http://{serving.HOST}:{port}"
        until_it_answers(f"{url}/health", 60, router)
        yield f"{url}/v1"


@pytest.fixture(scope="module")
def replicas(here: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    """Two servers of the same model by their addresses."""
    with ExitStack() as running:
        made = {}
        for number in range(REPLICAS):
            folder = tmp_path_factory.mktemp(f"vllm-{number}")
            place, port = Machine(tools("vllm", folder)), free_port()
            server = serving.launched("vllm", here, place, port, folder / "log")
            running.callback(server.stop)
            serving.ready("vllm", here, place, server, port)
            made[f"http://{serving.HOST}:{port}"] = server
        yield made


def answered(url: str) -> float:
    """Return how many requests an engine has answered."""
    page = httpx2.get(f"{url}/metrics", timeout=10).text
    return sum(map(float, re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", page, re.MULTILINE)))


def test_what_is_behind_a_router_is_judged_like_one_engine_and_all_of_it_answers(replicas, here, verified, tmp_path):
    before = {url: answered(url) for url in replicas}
    with routed(list(replicas), tmp_path / "router.log") as url:
        passed, failed = verified(url, tmp_path / "report.json")
    assert passed >= KEPT | {"prompt"} and set(failed) <= OWN, failed
    shares = {url: answered(url) - before[url] for url in replicas}
    FIGURES.append(f"{sum(shares.values()):.0f} requests through the router: {', '.join(f'{share:.0f}' for share in shares.values())} an engine")
    assert min(shares.values()) >= sum(shares.values()) / 4, shares


def test_an_engine_that_is_killed_costs_its_own_answers_alone(replicas, here, tmp_path):
    gone = next(iter(replicas))
    with (
        routed(list(replicas), tmp_path / "router.log") as url,
        Streams(url, here.served_name, "none", 4) as streams,
    ):
        time.sleep(10)
        killed = time.time()
        replicas[gone].stop(grace=0)
        time.sleep(SECONDS_TO_NOTICE + 20)
    late = [entry for entry in streams.failed if entry.began > killed + SECONDS_TO_NOTICE]
    last = max((entry.began + entry.seconds - killed for entry in streams.failed), default=0.0)
    FIGURES.append(f"one of two engines killed: {len(streams.log)} requests, {len(streams.failed)} failed, the last {last:.1f} s after it")
    assert not late and len(streams.failed) <= 8, late
    assert [entry for entry in streams.log if not entry.error and entry.began > killed + SECONDS_TO_NOTICE]
