"""Faults planted on the real cluster while clients stream: what each cost, how soon it was over, and whom the chart's alerts would have woken."""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from alerts import watching
from bench import MODEL, TABLE, Bench, seconds_to_ready
from kubernetes import FIGURES, Namespace, fresh, run, wait_for
from node import kill_engine, slow_disk
from openai import AuthenticationError, BadRequestError, OpenAI

pytestmark = pytest.mark.long
Values = Callable[..., dict[str, Any]]
MARK = "thinkship/faults"
FLEET = 20
SLOW = 20_000_000
"""Bytes a second: a bad network disk. The model has 145 MB, read once for its checksum and once by the engine."""
ASK = """
import json, pathlib, urllib.request
body = {"model": "smollm2-demo", "messages": [{"role": "user", "content": "What is 47 + 25?"}], "max_tokens": 200, "temperature": 0}
key = pathlib.Path("/etc/thinkship/key/api-key").read_text().strip()
headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
request = urllib.request.Request("http://127.0.0.1:8080/v1/chat/completions", json.dumps(body).encode(), headers)
print(urllib.request.urlopen(request, timeout=120).read().decode())
"""


@pytest.fixture(scope="module")
def bench(cluster: str, values: Values, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The deployment that all faults but the last are planted in, one after the other."""
    with fresh() as namespace:
        key = namespace.secret()
        given = values("llamacpp", replicas=2) | {"monitoring": {"watch": True}, "pod": {"labels": {MARK: namespace.name}}}
        namespace.deploy("demo", given, "--wait", "--timeout", "5m", timeout=330)
        with watching(namespace, given, key, tmp_path_factory.mktemp("prometheus")) as alerts:
            yield Bench(namespace, given, namespace.address("demo-llamacpp"), key, alerts)
        namespace.helm("uninstall", "demo", "--wait", check=False)


@pytest.fixture(autouse=True)
def settled(request: pytest.FixtureRequest) -> None:
    """Let a test begin only where the one before has left all well."""
    if "bench" in request.fixturenames:
        wait_for(request.getfixturevalue("bench").settled, 150, "both replicas answer before a fault is planted")


def test_a_wrong_key_is_refused_at_once_and_the_others_notice_nothing(bench: Bench) -> None:
    refused = []
    with bench.load("wrong API key, 100 requests") as seen, OpenAI(base_url=bench.url, api_key=secrets.token_hex(16), max_retries=0) as stranger:
        for _ in range(100):
            began = time.monotonic()
            with pytest.raises(AuthenticationError):
                stranger.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hello"}])
            refused.append(time.monotonic() - began)
    FIGURES.append(f"a wrong key: refused after {sorted(refused)[50] * 1000:.0f} ms, the slowest of 100 after {max(refused) * 1000:.0f} ms")
    assert not seen.lost, seen.lost
    assert sorted(refused)[50] < 1 and max(refused) < 5


def test_a_flood_of_long_prompts_is_refused_or_answered_and_restarts_nothing(bench: Bench) -> None:
    """Sixteen strangers: what is three times the context is refused, and what nearly fills it, four prompts, is work like any other."""
    restarts = bench.restarts()

    def flood(number: int) -> list[str]:
        told = []
        with OpenAI(base_url=bench.url, api_key=bench.key, max_retries=0, timeout=100) as client:
            for turn in range(2):
                words = f"{number} {turn} " + "apple " * (700 if turn == 1 and number % 4 == 0 else 3000)
                try:
                    client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": words}], max_tokens=16)
                    told.append("answered")
                except BadRequestError as error:
                    told.append(str(error))
        return told

    with bench.load("flood of long prompts") as seen, ThreadPoolExecutor(16) as pool:
        found = [one for told in pool.map(flood, range(16)) for one in told]
    refused = [one for one in found if one != "answered"]
    slowest = max(one.seconds for one in seen.streams.log)
    told = f"{len(found) - len(refused)} prompts of 700 words answered, {len(refused)} of 3000 refused"
    FIGURES.append(f"a flood: {told}, the slowest short one took {slowest:.0f} s: {refused[0][:200]}")
    assert len(refused) == 28 and all("exceeds the available context size (1024 tokens)" in one for one in refused), found
    assert not seen.lost, seen.lost
    assert bench.restarts() == restarts
    assert slowest < 60


def test_a_killed_engine_is_back_within_its_own_start_and_ten_seconds(bench: Bench) -> None:
    victim = bench.pods()[0]
    own, restarts = seconds_to_ready(victim), bench.restarts()
    with bench.load("engine killed with -9") as seen:
        seen.began = time.time()
        kill_engine(victim)
        wait_for(lambda: bench.restarts() > restarts, 30, "the engine is started again")
        wait_for(lambda: bench.ready() == 2, 60, "both replicas answer again")
        seen.recovered = time.time() - seen.began
    last = max((one.began + one.seconds - seen.began for one in seen.lost), default=0.0)
    told = f"its own start {own:.0f} s, back after {seen.recovered:.1f} s"
    FIGURES.append(f"an engine killed: {told}; {len(seen.lost)} failed, the last {last:.1f} s after it")
    assert seen.recovered <= own + 10
    assert last < 10, "clients are sent to the dead one no longer"
    assert seen.lost, "somebody was being answered"
    assert bench.restarts() == restarts + 1


def test_a_drained_node_keeps_what_the_budget_asks_for(bench: Bench) -> None:
    node = bench.pods()[0]["spec"]["nodeName"]
    words = ("--pod-selector", f"{MARK}={bench.namespace.name}", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=20s")
    try:
        with bench.load("node drained, disruption budget holds") as seen:
            done = run("kubectl", "drain", node, *words, check=False)
            assert done.returncode and "would violate the pod's disruption budget" in done.stderr, done.stdout + done.stderr
            assert bench.ready() == 1
            began = time.monotonic()
            run("kubectl", "uncordon", node)
            wait_for(bench.settled, 100, "both replicas answer")
            seen.recovered = time.monotonic() - began
    finally:
        run("kubectl", "uncordon", node)
    assert not seen.lost, seen.lost
    assert seen.recovered < 40


def test_what_is_killed_for_memory_at_each_start_replaces_nobody(bench: Bench) -> None:
    given = deepcopy(bench.given)
    given["engines"]["llamacpp"]["resources"] = {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "96Mi"}}

    def killed() -> int:
        for one in bench.newest()["status"].get("containerStatuses", ()):
            ended = (one["state"].get("terminated") or one["lastState"].get("terminated") or {}).get("reason")
            return int(one["restartCount"]) if ended == "OOMKilled" else 0
        return 0

    with bench.load("memory limit too low, killed on each start") as seen:
        seen.began = time.time()
        bench.upgrade(given)
        wait_for(lambda: killed() >= 3, 120, "the new pod is killed for memory and started again three times")
        assert bench.ready() == 2
        wait_for(lambda: bench.alerts.firing("ThinkshipRestarts"), 10, "somebody is told that it does not start")
        seen.recovered = mended(bench)
    assert not seen.lost, seen.lost
    assert seen.recovered < 60


def test_a_full_volume_is_said_and_replaces_nobody(bench: Bench) -> None:
    given = deepcopy(bench.given)
    small = {"emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}  # a tmpfs of that size, so that it is full as a disk is
    given["model"] |= {"volume": small, "load": {"from": "file:///source", "source": bench.given["model"]["volume"]}}

    def log() -> str:
        name = bench.newest()["metadata"]["name"]
        return bench.namespace.kubectl("logs", name, "--container", "model", check=False).stdout

    with bench.load("volume too small for the model") as seen:
        seen.began = time.time()
        bench.upgrade(given)
        wait_for(lambda: "GB more, 0.07 GB are free in /models" in log(), 60, "the loader says what is missing")
        assert "take a larger volume" in log() and bench.ready() == 2
        seen.recovered = mended(bench)
    assert not seen.lost, seen.lost
    assert seen.recovered < 60


def mended(bench: Bench) -> float:
    """Take an upgrade back and return how long it took until all was as before."""
    began = time.monotonic()
    bench.namespace.helm("rollback", "demo")
    wait_for(bench.settled, 100, "the pod that could not start is gone")
    return time.monotonic() - began


def test_a_slow_disk_is_waited_for(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The new pods have a copy of the model that nobody else keeps in memory; the roll-out waits for the first, whose reads are slow."""
    store, folder = Path(bench.given["model"]["volume"]["hostPath"]["path"]), tmp_path_factory.mktemp("slow")
    (entry,) = bench.given["model"]["files"]
    copy = folder / entry["path"]
    copy.parent.mkdir()
    shutil.copyfile(store / entry["path"], copy)
    for place in (copy.parent, folder, *folder.parents):
        if not place.stat().st_mode & 0o001:
            place.chmod(place.stat().st_mode | 0o011)
    given = deepcopy(bench.given)
    given["model"]["volume"]["hostPath"]["path"] = str(folder)
    old, restarts = {pod["metadata"]["uid"] for pod in bench.pods()}, bench.restarts()
    new: list[dict[str, Any]] = []

    def first() -> str:
        new[:] = new or [pod for pod in bench.pods() if pod["metadata"]["uid"] not in old]
        return str(new[0]["metadata"]["uid"]) if new else ""

    with bench.load("disk of 20 MB/s") as seen:
        seen.began = time.time()
        with slow_disk(first, copy, SLOW):
            bench.upgrade(given)
            seen.recovered = wait_for(lambda: any(uid not in old for uid in ready_pods(bench)), 150, "the first new replica answers")
        wait_for(bench.settled, 150, "the second one, too")
        (started,) = (seconds_to_ready(pod) for pod in bench.pods() if pod["metadata"]["uid"] == first())
    bench.given = given
    FIGURES.append(f"a slow disk: the first new replica answered after {seen.recovered:.0f} s, its engine {started:.0f} s after its start")
    assert not seen.lost, seen.lost
    assert seen.recovered > 0.9 * 2 * entry["size"] / SLOW, "the disk was slow"
    assert bench.restarts() == 0, f"nobody was killed for being slow, {restarts} before"


def ready_pods(bench: Bench) -> list[str]:
    """Return the uid of each pod that answers."""
    found = [pod for pod in bench.pods() if any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))]
    return [str(pod["metadata"]["uid"]) for pod in found]


def test_lost_gpus_leave_what_runs_alone_and_are_told(bench: Bench) -> None:
    node = bench.pods()[0]["spec"]["nodeName"]
    given = deepcopy(bench.given)
    given["engines"]["llamacpp"]["gpus"] = 1

    def offers(count: int | None) -> None:
        gpu = {"nvidia.com/gpu": None if count is None else str(count)}
        patch = json.dumps({"status": {"capacity": gpu, "allocatable": gpu}})
        run("kubectl", "patch", "node", node, "--subresource=status", "--type=merge", "--patch", patch)

    def waits() -> bool:
        said = [one.get("message", "") for pod in bench.pods() for one in pod["status"].get("conditions", ()) if one["type"] == "PodScheduled"]
        return any("Insufficient nvidia.com/gpu" in one for one in said)

    try:
        offers(2)
        bench.upgrade(given)
        wait_for(bench.settled, 150, "both replicas have a GPU")
        with bench.load("GPUs lost, one of two pods gone") as seen:
            seen.began = time.time()
            offers(0)
            done = bench.upgrade(given, check=False)
            assert done.returncode and "no node offers more than 0 (nvidia.com/gpu)" in done.stderr
            bench.namespace.kubectl("delete", "pod", bench.pods()[0]["metadata"]["name"])
            wait_for(waits, 20, "the one in its place waits for a GPU")
            assert bench.ready() == 1
            offers(2)
            seen.recovered = wait_for(bench.settled, 60, "both replicas answer")
        assert not seen.lost, seen.lost
        outage(bench, offers)
    finally:
        offers(None)


def outage(bench: Bench, offers: Callable[[int | None], None]) -> None:
    """Lose the GPUs and both pods, without clients, until somebody is woken up."""
    began = time.time()
    offers(0)
    bench.namespace.kubectl("delete", "pod", *(pod["metadata"]["name"] for pod in bench.pods()))
    wait_for(lambda: bench.alerts.firing("ThinkshipNoReplicaAnswers"), 90, "somebody is woken up")
    offers(2)
    back = wait_for(bench.settled, 60, "both replicas answer")
    TABLE.add("GPUs lost, both pods gone", 0, 0, back, bench.alerts.told(began))
    assert back < 40


def test_a_fleet_of_twenty_answers(namespace: Namespace, values: Values) -> None:
    namespace.secret()
    given = values("llamacpp", replicas=FLEET)
    given["model"]["load"] = {"resources": {"requests": {"cpu": "10m"}}}  # what asks for most counts, and twenty times 100m are two whole CPUs
    began = time.monotonic()
    namespace.deploy("demo", given, "--wait", "--timeout", "4m", timeout=270)
    ready = time.monotonic() - began

    def answer(pod: dict[str, Any]) -> str:
        said = namespace.kubectl("exec", pod["metadata"]["name"], "--container", "llamacpp", "--", "python", "-c", ASK).stdout
        message = json.loads(said)["choices"][0]["message"]
        return str(message["content"]) if message["reasoning_content"] else ""

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(answer, namespace.pods("llamacpp")))
    FIGURES.append(f"a fleet: {FLEET} replicas ready {ready:.0f} s after helm install, each answered {time.monotonic() - began:.0f} s after it")
    TABLE.add("fleet of 20 replicas", len(answers), sum("72" not in one for one in answers), ready, "not watched")
    namespace.helm("uninstall", "demo")
    namespace.kubectl("delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false")  # nobody asks them: they need not take their leave
    assert len(answers) == FLEET and all("72" in one for one in answers), answers
    assert ready < 240
