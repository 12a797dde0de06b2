"""`--runner docker` on a real engine: the local runner's steps, ids and bytes, in containers that are hardened and end with their run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker_engine import NAMES, docker, inspect
from openai import OpenAI

from toolkit.stages import ROOT

DEMO = ROOT / "recipes" / "smollm2-demo.yml"
EXACT = ("base", "dataset", "gguf-base")
"""Steps whose bytes depend on no order of sums: training in another number of threads rounds otherwise."""
PORT = 18180

pytestmark = pytest.mark.skipif(not {"train", "convert", "llamacpp"} <= set(NAMES), reason="not among THINKSHIP_TEST_IMAGES")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with a training of seconds."""
    folder = tmp_path_factory.mktemp("recipe")
    folder.chmod(0o755)  # where the caller is root, a container's user is another one
    shutil.copytree(DEMO.parent / "data", folder / "data")
    short = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    short["name"] = "short"
    short["train"] |= {"steps": 6, "batch_size": 4, "checkpoint_steps": 2}
    short["merge"]["max_logit_difference"] = 3.0  # six steps at the demo's rate leave logits that rounding moves further
    short["gguf"] = {"types": ["f16", "q8_0"], "max_kl": {}}
    (folder / "short.yml").write_text(yaml.safe_dump(short), encoding="utf-8")
    return folder / "short.yml"


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
def stores(engine: None, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same recipe run to its GGUFs by both runners; the container's run is killed once in the middle of its training."""
    places = {runner: tmp_path_factory.mktemp(runner) for runner in ("docker", "local")}
    kill_in_training(recipe, places["docker"])
    for runner, store in places.items():
        thinkship("run", recipe, "--runner", runner, "--until", "gguf", "--store", store)
    return places


def kill_in_training(recipe: Path, store: Path) -> None:
    words = command("run", recipe, "--runner", "docker", "--until", "gguf", "--store", store)
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


def test_both_runners_make_the_same_steps_and_the_same_bytes(stores: dict[str, Path]):
    names = {runner: sorted(path.name for path in store.glob("*-*") if path.is_dir()) for runner, store in stores.items()}
    assert names["docker"] == names["local"] and len(names["local"]) == 6
    for step in EXACT:
        assert digests(stores["docker"], step) == digests(stores["local"], step), step


def test_the_record_tells_the_image_and_the_files_are_the_callers(stores: dict[str, Path]):
    for path in stores["docker"].glob("*/record.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        assert record["runner"] == "docker" and "@sha256:" in record["image"]
    assert {path.stat().st_uid for path in stores["docker"].rglob("*")} == {os.getuid()}


@pytest.fixture(params=["llamacpp", *(name for name in ("ollama", "vllm") if name in NAMES)])
def served(request: pytest.FixtureRequest, recipe: Path, stores: dict[str, Path]) -> Iterator[str]:
    try:
        thinkship("serve", recipe, "--engine", request.param, "--runner", "docker", "--port", PORT, "--store", stores["docker"])
        yield request.param
    finally:
        thinkship("stop", "--store", stores["docker"])


def test_a_served_container_answers_is_hardened_and_comes_back_when_killed(served: str, stores: dict[str, Path]):
    client = OpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="none", timeout=60, max_retries=0)
    question: Any = [{"role": "user", "content": "What is 47 + 25?"}]
    assert client.chat.completions.create(model="smollm2-demo", messages=question, max_tokens=8).usage
    state = json.loads((stores["docker"] / ".servers" / f"{served}.json").read_text(encoding="utf-8"))
    before = inspect(state["container"])
    assert_hardened(before, network="bridge")
    assert {binding["HostIp"] for bindings in before["HostConfig"]["PortBindings"].values() for binding in bindings} == {"127.0.0.1"}
    os.kill(before["State"]["Pid"], signal.SIGKILL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            assert client.chat.completions.create(model="smollm2-demo", messages=question, max_tokens=8).usage
            break
        except Exception:
            time.sleep(0.5)
    assert inspect(state["container"])["RestartCount"] == 1
