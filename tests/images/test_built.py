"""The images built by a real engine: each proves its work in a hardened container, keeps its size, and leaves nothing behind."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from docker_engine import HARDENED, NAMES, Built, docker, inspect

from toolkit.stages import IMAGES

MB = 1_000_000
TOTAL = {"verify": 200, "convert": 1500}
"""Largest size in MB, the base included."""
ABOVE = {"llamacpp": 150, "ollama": 100}
"""Largest size in MB above the base."""
SECRETS = ("password", "token=", "index-url", "-----begin", "api_key=")


@pytest.fixture(scope="session", params=NAMES)
def image(request: pytest.FixtureRequest, built: Built) -> str:
    return built(request.param)


def short(image: str) -> str:
    return image.partition("/")[2].partition(":")[0].removesuffix("-cpu")


def inside(image: str, script: str) -> list[str]:
    """Lines that a shell script prints in the image, run as root and without network."""
    done = docker("run", "--rm", "--network", "none", "--user", "0:0", "--entrypoint", "sh", image, "-c", script)
    return done.stdout.splitlines()


def base_of(image: str) -> str:
    return inspect(image)["Config"]["Labels"]["org.opencontainers.image.base.name"]


def more_than_its_base(image: str, script: str) -> set[str]:
    return set(inside(image, script)) - set(inside(base_of(image), script))


def test_it_proves_its_work_hardened_and_as_any_user(image: str):
    program = inspect(image)["Config"]["Labels"]["thinkship.selftest"]
    done = docker("run", "--rm", *HARDENED, "--user", "4321:4321", "--entrypoint", program, image)
    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    assert (told["selftest"], told["ok"]) == (short(image), True)


def test_it_says_what_it_is(image: str):
    config = inspect(image)["Config"]
    assert config["User"] == "10001:10001"
    assert all(config["Labels"][f"org.opencontainers.image.{name}"] for name in ("title", "revision", "version", "base.name"))


def test_it_keeps_its_size(image: str):
    size, name = inspect(image)["Size"], short(image)
    above = size - inspect(base_of(image))["Size"]
    if name in TOTAL:
        assert size <= TOTAL[name] * MB
    elif name in ABOVE:
        assert above <= ABOVE[name] * MB
    else:  # no more than a tenth above the bare wheels, compiled bytecode not among them
        assert above <= 1.1 * sum(map(int, inside(image, "find /opt/venv -type f ! -name '*.pyc' -printf '%s\\n'")))


def test_nothing_is_left_behind(image: str):
    caches = "find /root /home /tmp /var/lib/apt/lists /var/cache/apt -type f"
    parcels = "find / -xdev \\( -name '*.whl' -o -name pip.conf -o -name 99local \\) -size +0"
    assert more_than_its_base(image, f"{caches}; {parcels}; true") == set()


def test_no_program_of_ours_raises_privileges(image: str):
    assert more_than_its_base(image, "find / -xdev -type f -perm /6000") == set()


def test_no_secret_stands_in_its_history(image: str):
    words = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout.lower()
    settings = " ".join(inspect(image)["Config"]["Env"]).lower()
    assert [secret for secret in SECRETS if secret in words + settings] == []


def wait_until_healthy(container: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (status := inspect(container)["State"])["Health"]["Status"] != "healthy":
        words = docker("logs", "--tail", "20", container, check=False)
        assert status["Running"] and time.monotonic() < end, words.stdout + words.stderr
        time.sleep(0.2)


def models(folder: Path) -> tuple[str, ...]:
    return ("--volume", f"{folder}:/models:ro")


def stopped_within(container: str, seconds: float) -> int:
    """Stop a container and return its exit code; it must not have to be killed."""
    began = time.monotonic()
    docker("stop", "--time", str(int(seconds) + 10), container)
    assert time.monotonic() - began < seconds
    return inspect(container)["State"]["ExitCode"]


@pytest.mark.skipif("llamacpp" not in NAMES, reason="not among THINKSHIP_TEST_IMAGES")
def test_llamacpp_becomes_healthy_and_ends_when_told(built: Built, container: Any, tiny_gguf: Path):
    command = ("--model", "/models/model.gguf", "--alias", "tiny", "--context", "256")
    one = container(built("llamacpp"), *HARDENED, *models(tiny_gguf), command=command)
    wait_until_healthy(one, 60)
    assert stopped_within(one, 5) == 0


@pytest.mark.skipif("ollama" not in NAMES, reason="not among THINKSHIP_TEST_IMAGES")
def test_ollama_creates_its_model_in_a_volume_and_ends_when_told(built: Built, container: Any, tiny_gguf: Path):
    flags = (*HARDENED, *models(tiny_gguf), "--env", "MODEL_NAME=tiny", "--volume", "/tmp/cache")
    one = container(built("ollama"), *flags)
    wait_until_healthy(one, 60)
    assert docker("top", one, "-o", "pid,args").stdout.splitlines()[1].endswith("ollama serve")
    assert stopped_within(one, 10) == 0
    docker("start", one)
    wait_until_healthy(one, 60)
    assert docker("logs", one).stderr.count("Listening on 127.0.0.1:11435") == 1  # created once, before the first start alone


@pytest.mark.skipif("llamacpp" not in NAMES, reason="not among THINKSHIP_TEST_IMAGES")
def test_a_model_that_is_missing_is_named(built: Built):
    done = docker("run", "--rm", *HARDENED, built("llamacpp"), "--model", "/models/none.gguf", "--alias", "x", "--context", "256", check=False)
    assert done.returncode == 1 and "no such file: /models/none.gguf" in done.stderr


def test_the_folders_tested_are_the_folders_there_are():
    assert set(NAMES) <= {path.parent.name for path in IMAGES.glob("*/Dockerfile")}
