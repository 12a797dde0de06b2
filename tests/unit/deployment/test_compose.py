from __future__ import annotations

import json
import re
import shlex
from bisect import bisect_left
from pathlib import Path

import pytest
import yaml
from tools import stand_in
from worlds import variant_of, wanted

from toolkit.deployment import compose
from toolkit.deployment.acts import Prove, Run, Write
from toolkit.deployment.compose import COMPOSE, Compose, share, whole
from toolkit.deployment.state import Deployed, Deployment, Ledger
from toolkit.errors import NotReadyError

GOAL = Compose("demo", Path("/store"), Path("/store/deployments/demo"), 40001)
FILES = f"--project-directory {COMPOSE} --file {COMPOSE}/compose.yaml"


@pytest.fixture
def old(released) -> Deployed:
    return GOAL.placed(wanted(variant_of(released, "a")), None)


@pytest.fixture
def new(released, old) -> Deployed:
    return GOAL.placed(wanted(variant_of(released, "b")), old)


def lines(acts) -> list[str]:
    return [" ".join(act.command.argv) if isinstance(act, Run) else str(act) for act in acts]


def test_two_releases_have_two_places_in_turn(old, new):
    assert (old.slot, new.slot, GOAL.placed(new, new).slot) == ("blue", "green", "blue")
    assert new.port == 40001


def test_a_second_release_is_started_shared_and_proven_beside_the_first(old, new):
    front = f"docker compose --project-name thinkship-demo {FILES} --file {COMPOSE}/front.yaml --profile proxy"
    green = f"docker compose --project-name thinkship-demo-green {FILES} --file {COMPOSE}/slot.yaml --profile llamacpp"
    door = f"{front} up --detach --wait --no-build --no-recreate"
    assert lines(GOAL.tried(old, new, 10)) == [
        door,
        "/store/deployments/demo/green.env: ",
        f"{green} up --detach --wait --no-build --remove-orphans --wait-timeout 60",
        "/store/deployments/demo/route: green:8080 blue:8080 1999",
        door,
        "verify http://127.0.0.1:40001/v1",
    ]
    assert lines(GOAL.promoted(old, new))[0] == "/store/deployments/demo/route: green:8080 green:8080 0000"
    assert lines(GOAL.retired(old, new)) == [green.replace("green", "blue") + " down --remove-orphans"]


def test_a_place_is_told_the_verified_flags_and_is_reached_on_loopback_alone(new, released):
    start = next(act for act in GOAL.started(None, new) if isinstance(act, Run) and "up" in act.command.argv and "green" in act.command.argv[3])
    env = start.command.env
    assert shlex.split(env["ENGINE_ARGS"]) == list(released.engine(None).args)
    told = ("MODEL_DIR", "MODEL_NAME", "IMAGES", "TAG", "CONTEXT", "PARALLEL", "LLAMACPP_PORT", "BIND", "GRACE", "SLOT", "FRONT")
    assert [env[name] for name in told] == [
        *("/store", "smollm2-demo", "thinkship", "b" * 12, "1024", "8", "40001", "127.0.0.1", "90s", "green", "thinkship-demo_default"),
    ]


def test_every_variable_that_the_files_need_is_given_and_no_other(new):
    """What slot.yaml and front.yaml ask for, and what is set though neither they nor compose.yaml know it."""

    def asked(*names: str) -> set[str]:
        return {name for file in names for name in re.findall(r"\$\{([A-Z_]+)", (COMPOSE / file).read_text(encoding="utf-8"))}

    for command, file in ((GOAL._slot(new, "up"), "slot.yaml"), (GOAL._front(new, "up"), "front.yaml")):
        assert asked(file) <= set(command.env) <= asked(file, "compose.yaml")


def test_the_places_have_every_service_of_compose_and_the_door_a_snippet_of_the_proxys():
    slot, front = (yaml.safe_load((COMPOSE / name).read_text(encoding="utf-8")) for name in ("slot.yaml", "front.yaml"))
    base = yaml.safe_load((COMPOSE / "compose.yaml").read_text(encoding="utf-8"))["services"]
    engines = {
        name for name, service in base.items() if not {"proxy", "monitoring", "monitoring-gpu"} & {*service["profiles"]} and name != "ollama-init"
    }
    assert set(slot["services"]) == engines and len(engines) == 5
    assert all(set(service["networks"]) == {"front"} for service in slot["services"].values())
    assert {name for name, service in slot["services"].items() if "command" in service} == {"vllm", "vllm-gpu", "llamacpp"}
    caddy = (COMPOSE / "Caddyfile").read_text(encoding="utf-8")
    assert f"\n({front['services']['proxy']['environment']['ROUTE']}) {{\n" in caddy
    assert "flush_interval" not in caddy.replace("`flush_interval -1`", ""), "it keeps an engine at work for a client that hung up"


def test_the_proxy_reads_every_route_that_is_written(old, new):
    (pattern,) = re.findall(r"^\t\t~(\S+) \$\{1\} \$\{2\} \$\{3\}$", (COMPOSE / "Caddyfile").read_text(encoding="utf-8"), re.MULTILINE)
    shares = {percent: share(old, new, percent) for percent in range(1, 100)}
    for route in (compose.NOBODY, whole(new), *shares.values()):
        assert re.match(pattern, route), route
    chances = sorted(f"{chance:04x}" for chance in range(0x10000))  # as text, which is how the proxy compares them
    for percent, route in shares.items():
        below = bisect_left(chances, re.match(pattern, route)[3])
        assert abs(below / 0x10000 - percent / 100) < 0.0001


def test_without_a_share_the_route_stays_as_it_is(old, new):
    acts = GOAL.tried(old, new, 0)
    assert not any(isinstance(act, Write) and act.path.name == "route" for act in acts) and isinstance(acts[-1], Prove)


def test_before_the_first_release_has_passed_the_proxy_has_nobody_to_ask(old):
    first = GOAL.tried(None, old, 10)[0]
    assert isinstance(first, Write) and (first.path.name, first.text) == ("route", "nobody nobody 0000\n")


def test_what_fails_is_taken_away_after_the_requests_go_elsewhere_and_the_proxy_with_the_last(old, new):
    acts = lines(GOAL.removed(new, old))
    assert acts[0].endswith("route: blue:8080 blue:8080 0000") and acts[-1].endswith("down --remove-orphans") and "green" in acts[-1]
    alone = lines(GOAL.removed(old, None))
    assert ["blue" in line for line in alone] == [True, False] and all(" down" in line for line in alone)


def test_ollama_is_waited_for_before_it_ends_and_told_by_settings(two_engines):
    one = GOAL.placed(Deployed(release=two_engines, engine="ollama"), None)
    waiting, ends = GOAL.retired(one, one)
    assert waiting.command.argv[-5:] == ("-T", "ollama", "/opt/thinkship/drain.sh", "1", "60") and not waiting.must and ends.must
    env = ends.command.env
    assert env["ENGINE_ARGS"] == "" and env["OLLAMA_PORT"] == "40001" and env["MODELFILE"].startswith("modelfile-")
    settings = next(act for act in GOAL.started(None, one) if isinstance(act, Write) and act.path.name == "blue.env")
    assert "OLLAMA_KEEP_ALIVE=-1\n" in settings.text


@pytest.mark.parametrize(("engine", "gpus", "service", "profile"), [("vllm", 1, "vllm-gpu", "gpu"), ("vllm", 0, "vllm", "vllm")])
def test_the_service_is_that_of_the_engine_and_its_card(released, engine, gpus, service, profile):
    (one,) = released.engines
    release = released.model_copy(update={"engines": (one.model_copy(update={"engine": engine, "gpus": gpus}),)})
    placed = GOAL.placed(Deployed(release=release, engine=engine), None)
    assert compose.service(placed) == service and GOAL._slot(placed, "up").argv[-2] == profile


def test_a_registry_stands_before_the_image(released):
    placed = GOAL.placed(Deployed(release=variant_of(released, "b"), engine="llamacpp", registry="r.example/team/"), None)
    assert GOAL._slot(placed, "up").env["IMAGES"] == "r.example/team/thinkship"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """host(config, code) puts a docker on PATH that answers `compose config` so, and takes the image for there."""

    def make(config: str, code: int = 0, image: str | None = "sha256:1") -> Ledger:
        stand_in(tmp_path, monkeypatch, docker=f"cat {tmp_path}/config.json; exit {code}")
        (tmp_path / "config.json").write_text(config)
        monkeypatch.setattr(compose.docker, "client", lambda: None)
        monkeypatch.setattr(compose.docker, "digest", lambda name: image)
        return Ledger(tmp_path, "demo")

    return make


STATE = Deployment(name="demo", goal="compose")


def test_a_host_is_looked_at_before_anything_is_changed(host, released, tmp_path):
    (tmp_path / "key").write_text("f00d")
    config = json.dumps({"secrets": {"api_key": {"file": str(tmp_path / "key")}}})
    found = compose.here(host(config), STATE, wanted(released))
    assert found.key_file == tmp_path / "key" and found.port and found.store == tmp_path.resolve()
    assert compose.here(host(config), STATE, None).key_file is None


@pytest.mark.parametrize(
    ("config", "code", "image", "words", "remedy"),
    [
        ("", 0, None, "the image thinkship/llamacpp:", "thinkship images build llamacpp"),
        ("no such flag", 14, "sha256:1", "(?s)Docker Compose cannot read .*no such flag", "2.24"),
        ('{"secrets": {"api_key": {"file": "/nowhere/key"}}}', 0, "sha256:1", "there is no API key at /nowhere/key", "init.sh makes one"),
    ],
)
def test_what_a_host_lacks_is_said(host, released, config, code, image, words, remedy):
    with pytest.raises(NotReadyError, match=words) as error:
        compose.here(host(config, code, image), STATE, wanted(released))
    assert remedy in error.value.remedy


def test_a_host_without_docker_or_without_an_engine_is_said(host, released, tmp_path, monkeypatch):
    ledger = host("{}")

    def gone():
        raise NotReadyError("no Docker Engine answers", "use --runner local")

    monkeypatch.setattr(compose.docker, "client", gone)
    with pytest.raises(NotReadyError, match="no Docker Engine answers") as error:
        compose.here(ledger, STATE, wanted(released))
    assert "--runner" not in error.value.remedy
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(NotReadyError, match="docker is not on PATH"):
        compose.here(ledger, STATE, wanted(released))
