"""compose/ brought up by `docker compose` alone: ready means one token, a killed engine comes back, and the proxy asks for the key."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_engine import NAMES, SECRETS, TAG, Built, docker, inspect

from toolkit.stages import ROOT

Compose = Callable[..., "subprocess.CompletedProcess[str]"]
SERVICES = [name for name in ("llamacpp", "ollama") if name in NAMES]


@pytest.fixture
def compose(engine: None, tiny_gguf: Path, tmp_path: Path) -> Iterator[Compose]:
    """compose(*words) runs `docker compose` on a copy of the folder with the tiny model; all it started is removed at the end."""
    folder = tmp_path / "compose"
    shutil.copytree(ROOT / "compose", folder, ignore=shutil.ignore_patterns(".env", "api_key", "tls"))
    shutil.copytree(ROOT / "charts" / "thinkship" / "files", tmp_path / "charts" / "thinkship" / "files")
    subprocess.run(["sh", str(folder / "init.sh")], check=True, capture_output=True)
    ports = {"LLAMACPP_PORT": "18081", "OLLAMA_PORT": "18082", "CONTEXT": "256", "PARALLEL": "1", "MEMORY": "4g"}
    settings = {"MODEL_DIR": str(tiny_gguf), "MODEL_NAME": "tiny", "TAG": TAG, **ports}
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    project = f"thinkship-test-{os.getpid()}"

    def run(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return docker("compose", "--project-name", project, "--project-directory", str(folder), *words, check=check)

    yield run
    run("--profile", "*", "down", "--volumes", "--timeout", "5", check=False)


def container_of(compose: Compose, service: str) -> dict[str, Any]:
    return inspect(compose("ps", "--quiet", service).stdout.strip())


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_comes_up_hardened_and_comes_back_when_killed(service: str, built: Built, compose: Compose):
    built(service)
    compose("--profile", service, "up", "--detach", "--wait", "--no-build")
    found = container_of(compose, service)
    host = found["HostConfig"]
    assert (found["Config"]["User"], host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == ("10001:10001", True, ["ALL"], False)
    assert "no-new-privileges:true" in host["SecurityOpt"] and host["PidsLimit"] and host["Memory"]
    assert {binding["HostIp"] for bindings in host["PortBindings"].values() for binding in bindings} == {"127.0.0.1"}
    subprocess.run(["kill", "-9", str(found["State"]["Pid"])], check=True)
    assert healthy_again(compose, service, found["State"]["StartedAt"])


def healthy_again(compose: Compose, service: str, before: str) -> bool:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        state = container_of(compose, service)["State"]
        if state["StartedAt"] != before and state["Running"] and state["Health"]["Status"] == "healthy":
            return True
        time.sleep(0.5)
    return False


@pytest.mark.skipif("llamacpp" not in NAMES, reason="not among THINKSHIP_TEST_IMAGES")
def test_a_model_folder_that_is_missing_is_an_error(built: Built, compose: Compose, monkeypatch: pytest.MonkeyPatch):
    built("llamacpp")
    monkeypatch.setenv("MODEL_DIR", "/nowhere/models")
    done = compose("--profile", "llamacpp", "up", "--detach", "--wait", "--no-build", check=False)
    assert done.returncode != 0 and "/nowhere/models" in done.stderr


@pytest.fixture
def checkpoint(built: Built, tmp_path: Path) -> Path:
    """A folder with the checkpoint of two random layers, written by the image itself."""
    tmp_path.chmod(0o777)
    write = "import os, pathlib, tiny; tiny.write_checkpoint(pathlib.Path('/models/model')); os.system('chmod -R a+rX /models')"
    flags = ("--env", "PYTHONPATH=/opt/thinkship", "--volume", f"{tmp_path}:/models")
    docker("run", "--rm", *flags, "--entrypoint", "python", built("vllm"), "-c", write)
    return tmp_path


@pytest.mark.skipif("vllm" not in NAMES, reason="not among THINKSHIP_TEST_IMAGES")
def test_vllm_asks_for_the_key_and_ends_when_told(compose: Compose, checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"MODEL_DIR": str(checkpoint), "VLLM_PORT": "18083"}.items():
        monkeypatch.setenv(name, value)
    compose("--profile", "vllm", "up", "--detach", "--wait", "--no-build")
    url, key = "http://127.0.0.1:18083/v1/models", compose("exec", "-T", "vllm", "cat", "/run/secrets/api_key").stdout.strip()
    assert status_of(url) == 401 and status_of(url, Authorization=f"Bearer {key}") == 200
    compose("stop", "vllm")
    assert inspect(compose("ps", "--all", "--quiet", "vllm").stdout.strip())["State"]["ExitCode"] == 0


@pytest.fixture
def caddy(engine: None) -> str:
    """A stand-in for the official image, whose hub CI does not reach."""
    docker("buildx", "build", *SECRETS, "--tag", "thinkship/test-caddy", str(Path(__file__).with_name("caddy")))
    return "thinkship/test-caddy"


def status_of(url: str, **headers: str) -> int:
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE  # Caddy signed it itself
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), context=trusting, timeout=20) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.skipif("llamacpp" not in NAMES, reason="not among THINKSHIP_TEST_IMAGES")
def test_llamacpp_asks_for_the_key(built: Built, compose: Compose):
    built("llamacpp")
    compose("--profile", "llamacpp", "up", "--detach", "--wait", "--no-build")
    url, key = "http://127.0.0.1:18081/props", compose("exec", "-T", "llamacpp", "cat", "/run/secrets/api_key").stdout.strip()
    assert status_of(url) == 401 and status_of(url, Authorization=f"Bearer {key}") == 200


@pytest.mark.skipif("llamacpp" not in NAMES, reason="not among THINKSHIP_TEST_IMAGES")
def test_the_proxy_asks_for_the_key(built: Built, compose: Compose, caddy: str, monkeypatch: pytest.MonkeyPatch):
    built("llamacpp")
    for name, value in {"CADDY_IMAGE": caddy, "UPSTREAM": "llamacpp:8080", "PROXY_PORT": "18443"}.items():
        monkeypatch.setenv(name, value)
    compose("--profile", "llamacpp", "--profile", "proxy", "up", "--detach", "--wait", "--no-build")
    url, key = "https://localhost:18443/v1/models", compose("exec", "-T", "proxy", "cat", "/run/secrets/api_key").stdout.strip()
    assert status_of(url) == 401 and status_of(url, Authorization="Bearer wrong") == 401 and status_of(url, Authorization="Bearer") == 401
    assert len(key) == 64 and status_of(url, Authorization=f"Bearer {key}") == 200


@pytest.fixture
def prometheus(engine: None) -> str:
    """A stand-in for the official image, whose hub CI does not reach."""
    docker("buildx", "build", "--load", *SECRETS, "--tag", "thinkship/test-prometheus", str(Path(__file__).with_name("prometheus")))
    return "thinkship/test-prometheus"


def told(query: str) -> list[dict[str, Any]]:
    """Return what Prometheus answers to a query."""
    with urllib.request.urlopen(f"http://127.0.0.1:18090/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=20) as reply:
        return json.load(reply)["data"]["result"]


@pytest.mark.skipif(not {"llamacpp", "verify"} <= set(NAMES), reason="not among THINKSHIP_TEST_IMAGES")
def test_monitoring_sees_the_engine_and_the_probe(built: Built, compose: Compose, prometheus: str, monkeypatch: pytest.MonkeyPatch):
    """All of the profile but Grafana, whose image nobody here can have; the engine is asked for its figures with the key."""
    built("llamacpp")
    built("verify")
    for name, value in {"PROMETHEUS_IMAGE": prometheus, "PROMETHEUS_PORT": "18090"}.items():
        monkeypatch.setenv(name, value)
    compose("--profile", "llamacpp", "--profile", "monitoring", "up", "--detach", "--wait", "--no-build", "llamacpp", "watch", "prometheus")
    end = time.monotonic() + 60
    while {one["metric"]["job"] for one in told("up == 1")} != {"llamacpp", "watch", "prometheus"} or not told('thinkship_up{service="llamacpp"}'):
        assert time.monotonic() < end, (told("up"), told("thinkship_up"))
        time.sleep(1)
    assert told("llamacpp:requests_processing") and container_of(compose, "prometheus")["Config"]["User"] == "10001:10001"
    with urllib.request.urlopen("http://127.0.0.1:18090/api/v1/rules", timeout=20) as reply:
        assert sum(len(group["rules"]) for group in json.load(reply)["data"]["groups"]) >= 13
