"""compose/: every variable is described, every service is hardened, and the real `docker compose` takes it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from skips import skip_or_fail

from toolkit.stages import IMAGES, ROOT

COMPOSE = ROOT / "compose"
PROFILES = ("vllm", "gpu", "ollama", "ollama-gpu", "llamacpp", "proxy", "monitoring", "monitoring-gpu")
SERVERS = {"vllm", "vllm-gpu", "ollama", "ollama-gpu", "llamacpp", "proxy", "prometheus", "grafana", "watch", "watch-gpu"}
STARTED = {"gpu": {"vllm-gpu"}, "monitoring": {"prometheus", "grafana", "watch"}, "monitoring-gpu": {"prometheus", "grafana", "watch-gpu"}}
"""Servers of the profiles that are not called by their one server."""
ONCE = {"ollama-init", "proxy-init", "monitoring-init"}
NEEDED = {"MODEL_DIR": "/models", "MODEL_NAME": "demo", "TAG": "local"}


@pytest.fixture(scope="module")
def source() -> dict:
    return yaml.safe_load((COMPOSE / "compose.yaml").read_text(encoding="utf-8"))


def variables(path: Path) -> dict[str, str]:
    """Variables of compose.yaml with what follows the name: `:?message`, `:-default`."""
    found = re.findall(r"\$\{([A-Z_]+)(:[?-][^}]*)?\}", path.read_text(encoding="utf-8"))
    assert len(found) > 20
    return dict(found)


def test_every_variable_is_described_and_nothing_else():
    described = re.findall(r"^#?([A-Z_]+)=(.*)$", (COMPOSE / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)
    used = variables(COMPOSE / "compose.yaml")
    assert {name for name, _ in described} == set(used)
    assert {name: f":-{value}" for name, value in described if used[name].startswith(":-")} == {n: d for n, d in used.items() if d.startswith(":-")}
    assert {name for name, default in used.items() if default.startswith(":?")} == set(NEEDED)


def test_every_service_has_its_profile(source):
    assert set(source["services"]) == SERVERS | ONCE
    assert {profile for service in source["services"].values() for profile in service["profiles"]} == set(PROFILES)


def test_every_service_is_hardened(source):
    for name, service in source["services"].items():
        assert (service["read_only"], service["cap_drop"], service["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"]), name
        assert {"mem_limit", "pids_limit", "logging"} <= service.keys(), name
        assert set(service.get("cap_add", ())) <= {"NET_BIND_SERVICE", "CHOWN"}, name
        assert service["restart"] == ("unless-stopped" if name in SERVERS else "on-failure:3"), name


def test_every_server_is_checked_and_published_on_loopback_unless_asked(source):
    for name in SERVERS:
        service = source["services"][name]
        assert service["healthcheck"]["test"][0] == "CMD" and "stop_grace_period" in service, name
        assert all(port.startswith(("${BIND:-127.0.0.1}:", "${PROXY_BIND:-127.0.0.1}:")) for port in service.get("ports", ())), name


def test_a_job_that_runs_once_has_no_network(source):
    assert {name: source["services"][name]["network_mode"] for name in ONCE} == dict.fromkeys(ONCE, "none")


def test_the_proxy_is_the_pinned_one():
    assert f"CADDY_IMAGE={variables(COMPOSE / 'compose.yaml')['CADDY_IMAGE'].removeprefix(':-')}" in (IMAGES / "base.env").read_text().split()


def test_what_others_make_is_of_one_exact_version():
    """Prometheus and Grafana are pinned here and not in images/base.env, of which the names of our own images are made."""
    found = re.findall(r"\$\{([A-Z]+)_IMAGE:-([^}]*)\}", (COMPOSE / "compose.yaml").read_text(encoding="utf-8"))
    assert {name for name, _ in found} == {"CADDY", "PROMETHEUS", "GRAFANA"} and len(set(found)) == 3, found
    assert all(re.search(r":v?\d+\.\d+\.\d+$", image) for _, image in found), found


@pytest.fixture(scope="module")
def compose() -> str:
    if shutil.which("docker") is None or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        skip_or_fail("docker compose is not here")
    return "docker"


def config(program: str, *profiles: str, second: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    flags = [word for profile in profiles for word in ("--profile", profile)]
    files = [word for name in ("compose.yaml", second) if name for word in ("--file", str(COMPOSE / name))]
    argv = [program, "compose", "--env-file", os.devnull, *files, *flags, "config", "--format", "json"]
    clean = {name: value for name, value in os.environ.items() if name not in variables(COMPOSE / "compose.yaml")}
    return subprocess.run(argv, env={**clean, **environment}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("profile", PROFILES)
def test_docker_compose_takes_every_profile(compose, profile):
    done = config(compose, profile, **NEEDED)
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert {name for name in services if name in SERVERS} == STARTED.get(profile, {profile})


def test_docker_compose_reads_vllms_flags_as_words(compose):
    command = json.loads(config(compose, "vllm", **NEEDED).stdout)["services"]["vllm"]["command"]
    assert command[:4] == ["--model", "/models/model", "--served-model-name", "demo"]
    assert command[command.index("--quantization") :][:2] == ["--quantization", "bitsandbytes"]


PLACE = {"SLOT": "green", "FRONT": "net", "ENGINE_ENV": os.devnull, "ENGINE_ARGS": "--model '/models/a b' --alias demo", "GRACE": "90s"}


@pytest.mark.parametrize("profile", PROFILES[:5])
def test_docker_compose_takes_every_profile_as_a_place_of_a_deployment(compose, profile):
    done = config(compose, profile, second="slot.yaml", **NEEDED, **PLACE)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (server,) = (service for name, service in found["services"].items() if name in SERVERS)
    assert server["networks"] == {"front": {"aliases": ["green"]}} and server["stop_grace_period"] == "1m30s"
    assert found["networks"]["front"] == {"name": "net", "ipam": {}, "external": True}
    if not profile.startswith("ollama"):
        assert server["command"] == ["--model", "/models/a b", "--alias", "demo"]


def test_docker_compose_takes_the_proxy_as_the_door_of_a_deployment(compose, tmp_path):
    done = config(compose, "proxy", second="front.yaml", **NEEDED, DEPLOYMENT=str(tmp_path))
    assert done.returncode == 0, done.stderr
    proxy = json.loads(done.stdout)["services"]["proxy"]
    assert (proxy["environment"]["ROUTE"], proxy["environment"]["NAME"]) == ("deployed", "localhost")
    assert {volume["target"] for volume in proxy["volumes"]} == {"/etc/caddy/Caddyfile", "/tls", "/state", "/deployment"}


@pytest.mark.parametrize("name", NEEDED)
def test_a_variable_that_is_missing_is_named(compose, name):
    done = config(compose, "llamacpp", **{other: value for other, value in NEEDED.items() if other != name})
    assert done.returncode != 0 and f"required variable {name} is missing a value" in done.stderr


def test_init_makes_a_key_that_stays(tmp_path):
    for path in (COMPOSE / "init.sh", COMPOSE / ".env.example"):
        shutil.copy(path, tmp_path)
    for _ in range(2):
        subprocess.run(["sh", str(tmp_path / "init.sh")], check=True, capture_output=True)
        key = (tmp_path / "api_key").read_text()
        assert re.fullmatch(r"[0-9a-f]{64}", key)
        first = locals().get("first", key)
    assert key == first and (tmp_path / ".env").is_file() and (tmp_path / "tls").is_dir()
