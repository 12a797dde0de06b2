"""`--runner docker` on a real engine: the local runner's steps, ids and bytes, in containers that are hardened and end with their run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import short_recipe
from docker_engine import HARDENED, NAMES, docker, inspect
from openai import APIConnectionError, APIStatusError, OpenAI

from toolkit.stages import ROOT

EXACT = ("base", "dataset")
"""Steps whose bytes depend on no order of sums: training in another number of threads rounds otherwise."""
PORT = 18180
IMAGE = "thinkship/llamacpp:0.1.0"

pytestmark = pytest.mark.skipif(not {"train", "convert", "llamacpp"} <= set(NAMES), reason="not among THINKSHIP_TEST_IMAGES")


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "toolkit.cli", *map(str, words)]


def thinkship(*words: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def ours(status: str = "running") -> list[str]:
    return docker("ps", "--all", "--quiet", "--filter", "label=thinkship.run", "--filter", f"status={status}").stdout.split()


def digests(store: Path, step: str) -> dict[str, str]:
    (folder,) = (path for path in store.glob(f"{step}-*") if path.name[len(step) + 1 :].isalnum())
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "record.json")
    return {path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's, verified with few questions."""
    return short_recipe.ask_less(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def store(engine: None, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo run to its verdict in containers, over the training that a finished store already holds."""
    place = tmp_path_factory.mktemp("docker")
    if finished := os.environ.get("THINKSHIP_TEST_STORE"):
        for trained in Path(finished).glob(directories(recipe)["train"]):
            shutil.copytree(trained, place / trained.name)
    thinkship("run", recipe, "--runner", "docker", "--store", place)
    return place


def directories(recipe: Path) -> dict[str, str]:
    """Return the names of a recipe's steps' directories, by step."""
    return {step["step"]: f"{step['step']}-{step['id'][:12]}" for step in json.loads(thinkship("plan", recipe, "--json").stdout)}


@pytest.mark.long
def test_a_training_that_is_killed_takes_its_container_along_and_goes_on_in_another(engine: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, place = tmp_path_factory.mktemp("short"), tmp_path_factory.mktemp("killed")
    words = ("run", short_recipe.write(folder, steps=6), "--until", "train", "--runner", "docker", "--store", place)
    kill_in_training(command(*words), place)
    assert "goes on from checkpoint-" in thinkship(*words).stdout
    (record,) = (json.loads(path.read_text(encoding="utf-8")) for path in place.glob("train-*/record.json"))
    assert record["runner"] == "docker" and "@sha256:" in record["image"]


def kill_in_training(words: list[str], store: Path) -> None:
    process = subprocess.Popen(words, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(store.glob(".scratch/train-*/checkpoint-2/complete")):
        assert process.poll() is None, "the run ended before it trained"
        time.sleep(0.1)
    (one,) = ours()
    assert_hardened(inspect(one), network="none")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while ours() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ours() == [], "a container outlived the run that was killed"


def assert_hardened(found: dict[str, Any], network: str) -> None:
    host = found["HostConfig"]
    assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and not host["Privileged"] and host["NetworkMode"] == network
    assert "no-new-privileges" in host["SecurityOpt"][0] and host["PidsLimit"] and host["Memory"] and host["Init"]
    assert found["Config"]["User"].partition(":")[0] != "0"
    writable = [mount["Source"] for mount in found["Mounts"] if mount["RW"]]
    assert writable and all("/.scratch/" in path or "/train-" in path or "/.servers/" in path for path in writable), writable


def test_the_demo_is_verified_in_containers(store: Path):
    (report,) = store.glob("verify-*/report.json")
    found = json.loads(report.read_text(encoding="utf-8"))
    assert found["verdict"] == "pass", found["checks"]


def test_both_runners_make_the_same_steps_and_the_same_bytes(recipe: Path, store: Path, tmp_path: Path):
    assert {path.parent.name for path in store.glob("*/record.json")} == set(directories(recipe).values())
    thinkship("run", recipe, "--runner", "local", "--until", "dataset", "--store", tmp_path)
    for step in EXACT:
        assert digests(store, step) == digests(tmp_path, step), step


def test_a_finished_run_has_nothing_left_to_do_with_either_runner(recipe: Path, store: Path):
    for runner in ("docker", "local"):
        began = time.monotonic()
        assert "verdict: pass" in thinkship("run", recipe, "--runner", runner, "--store", store).stdout
        assert time.monotonic() - began < 20


def test_the_record_tells_the_image_and_the_files_are_the_callers(store: Path):
    records = [json.loads(path.read_text(encoding="utf-8")) for path in store.glob("*/record.json")]
    assert {record["runner"] for record in records if record["step"] != "train"} == {"docker"}
    assert all("@sha256:" in record["image"] for record in records if record["step"] in ("base", "dataset", "merge", "gguf"))
    assert {path.lstat().st_uid for path in store.rglob("*")} == {os.getuid()}


ENGINES = [
    "llamacpp",
    *(name for name in ("ollama",) if name in NAMES),
    *(pytest.param(name, marks=pytest.mark.long) for name in ("vllm",) if name in NAMES),
]
"""vLLM takes minutes on CPUs; its image is proved in test_built.py and asked with a key in test_stack.py."""


@pytest.fixture(params=ENGINES)
def served(request: pytest.FixtureRequest, recipe: Path, store: Path) -> Iterator[str]:
    try:
        thinkship("serve", recipe, "--engine", request.param, "--runner", "docker", "--port", PORT, "--store", store)
        yield request.param
    finally:
        thinkship("stop", "--store", store)


def test_what_a_dead_run_left_behind_is_removed_before_the_next(recipe: Path, store: Path):
    """A run whose engine was killed cannot remove its container; another machine's, on a shared engine, is none of ours."""
    left = {
        host: docker("create", "--label", f"thinkship.run={host}:1:0", IMAGE, "true").stdout.strip() for host in (socket.gethostname(), "elsewhere")
    }
    try:
        thinkship("run", recipe, "--runner", "docker", "--store", store, "--until", "base")
        assert [made[:12] for made in left.values() if made[:12] in ours("created")] == [left["elsewhere"][:12]]
    finally:
        docker("rm", "--force", *left.values(), check=False)


def test_a_served_container_thinks_is_hardened_and_comes_back_when_killed(served: str, store: Path):
    assert_right_and_thinking(PORT)
    assert json.loads(thinkship("health", "--store", store, "--json").stdout)["thinks"] is True
    assert served in thinkship("logs", "--store", store).stdout
    state = json.loads((store / ".servers" / f"{served}.json").read_text(encoding="utf-8"))
    before = inspect(state["container"])
    assert_hardened(before, network="bridge")
    assert {binding["HostIp"] for bindings in before["HostConfig"]["PortBindings"].values() for binding in bindings} == {"127.0.0.1"}
    os.kill(before["State"]["Pid"], signal.SIGKILL)
    wait_until_answered(PORT, 300)
    assert inspect(state["container"])["RestartCount"] == 1


def assert_right_and_thinking(port: int) -> None:
    with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=120, max_retries=0) as client:
        question: Any = [{"role": "user", "content": "What is 47 + 25?"}]
        message = client.chat.completions.create(model="smollm2-demo", messages=question, temperature=0).choices[0].message
    kept = message.model_dump()
    assert "72" in (message.content or "") and (kept.get("reasoning") or kept.get("reasoning_content")), kept


def wait_until_answered(port: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return assert_right_and_thinking(port)
        except (APIConnectionError, APIStatusError):
            assert time.monotonic() < deadline, "it did not come back"
            time.sleep(0.5)


@pytest.mark.parametrize("name", ENGINES)
def test_an_image_with_the_model_inside_serves_without_a_volume(name: str, recipe: Path, store: Path, container: Any):
    tag = thinkship("images", "model", recipe, "--engine", name, "--runner", "docker", "--store", store).stdout.split()[-1]
    assert thinkship("images", "model", recipe, "--engine", name, "--runner", "docker", "--store", store).stdout.split()[-1] == tag
    inner = {"llamacpp": 8080, "ollama": 11434, "vllm": 8000}[name]
    flags = tuple(flag for flag in HARDENED if flag not in ("--network", "none"))
    one = container(tag, *flags, "--publish", f"127.0.0.1:{PORT + 1}:{inner}")
    wait_until_answered(PORT + 1, 300)
    assert_right_and_thinking(PORT + 1)
    assert inspect(one)["Mounts"] == []
    asked = [line for line in docker("logs", one).stdout.splitlines() if line.startswith("[GIN] ")]
    assert not [line for line in asked if "/api/create" in line], "its blobs were not made when the image was built"


def test_a_container_that_dies_before_it_is_ready_is_told_with_its_last_words(recipe: Path, store: Path):
    done = subprocess.run(
        command("serve", recipe, "--engine", "llamacpp", "--runner", "docker", "--port", PORT, "--store", store),
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "THINKSHIP_MEMORY": "48m"},
    )
    assert done.returncode == 5 and "exit code 137" in done.stderr and "memory" in done.stderr, done.stderr
    assert ours() == []
