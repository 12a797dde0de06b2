"""The commands as a person meets them: what is refused, what is printed, and that nothing was changed by either."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from released_store import DEMO, verify
from terminal import thinkship
from tools import stand_in
from worlds import wanted

from toolkit.deployment import compose, performing, session
from toolkit.deployment.acts import Prove
from toolkit.deployment.state import Deployment, Ledger
from toolkit.release.document import write

pytestmark = pytest.mark.loopback


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return verify(DEMO, tmp_path / "store")


@pytest.fixture
def file(released, tmp_path: Path) -> Path:
    write(released, tmp_path / "release.json")
    return tmp_path / "release.json"


@pytest.fixture
def host(tmp_path, monkeypatch) -> Path:
    """A host whose docker does all that it is told; returns what it was told, a line a call."""
    (tmp_path / "key").write_text("f00d")
    config = json.dumps({"secrets": {"api_key": {"file": str(tmp_path / "key")}}})
    monkeypatch.setattr(compose.docker, "client", lambda: None)
    monkeypatch.setattr(compose.docker, "digest", lambda name: "sha256:1")
    monkeypatch.setattr(performing, "pass_through", lambda *_: None)
    return stand_in(tmp_path, monkeypatch, docker=f"case \"$*\" in *config*) echo '{config}';; esac")


def test_a_dry_run_prints_the_plan_and_changes_nothing(file, store, host, released):
    before = sorted(store.rglob("*"))
    done = thinkship("deploy", file, "--to", "compose", "--store", store, "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"  1. {released.short} (llamacpp q8_0) is tried" and "if one of these fails:" in lines
    assert any("--profile llamacpp up --detach --wait" in line for line in lines)
    assert sorted(store.rglob("*")) == before and [line for line in host.read_text().splitlines() if "config" not in line] == []


def test_a_release_is_deployed_and_told_and_not_deployed_twice(file, store, host, released):
    done = thinkship("deploy", file, "--to", "compose", "--store", store)
    assert done.returncode == 0, done.stderr
    assert f"smollm2-demo: {released.short} (llamacpp q8_0) serves" in done.stdout
    state = Ledger(store, "smollm2-demo").read("compose")
    assert state.current and state.current.release == released and not state.candidate and not state.leftover
    asked = len(host.read_text().splitlines())
    again = thinkship("deploy", file, "--to", "compose", "--store", store)
    assert again.returncode == 0 and "nothing to do" in again.stdout and len(host.read_text().splitlines()) == asked + 1, "one look"


def test_a_rollback_starts_the_earlier_one_and_proves_nothing_again(file, store, host, released, monkeypatch):
    ledger = Ledger(store, "smollm2-demo")
    newer = wanted(released.model_copy(update={"id": "2" * 64}))
    state = Deployment(name="smollm2-demo", goal="compose").trying(wanted(released)).promoted()
    with ledger.locked():
        ledger.write(state.trying(newer.model_copy(update={"slot": "blue"})).promoted().cleared())
    proven = []
    monkeypatch.setattr(performing, "pass_through", lambda *_: proven.append(Prove))
    done = thinkship("rollback", "smollm2-demo", "--to", "compose", "--store", store)
    assert done.returncode == 0, done.stderr
    found = ledger.read("compose")
    assert found.current and found.current.release == released and found.current.slot == "green" and found.previous and not proven
    assert "thinkship rollback smollm2-demo --to compose" in done.stdout


def test_a_rollback_to_a_release_whose_files_are_gone_changes_nothing(file, store, host, released):
    ledger = Ledger(store, "smollm2-demo")
    state = Deployment(name="smollm2-demo", goal="compose").trying(wanted(released)).promoted()
    with ledger.locked():
        ledger.write(state.trying(wanted(released.model_copy(update={"id": "2" * 64}))).promoted().cleared())
    (gguf,) = store.glob("gguf-????????????")
    shutil.rmtree(gguf)
    code, said = refused("rollback", "smollm2-demo", "--to", "compose", "--store", store)
    assert code == 4 and f"lacks {gguf.name}" in said and not host.exists()


def refused(*words: object) -> tuple[int, str]:
    done = thinkship(*words)
    assert "Traceback" not in done.stderr and done.stderr.count("error:") == 1 and "fix:" in done.stderr
    return done.returncode, done.stderr


def test_what_cannot_be_deployed_is_one_error_with_its_code(file, store, host, tmp_path):
    deploy = ("deploy", file, "--to", "compose", "--store")
    (tmp_path / "other.json").write_text(file.read_text().replace("q8_0", "q4_0"))
    (tmp_path / "none.json").write_text("{")
    cases = {
        ("deploy", tmp_path / "nowhere.json", "--to", "compose", "--store", store): (2, "nowhere.json cannot be read"),
        ("deploy", tmp_path / "none.json", "--to", "compose", "--store", store): (3, "is no release"),
        ("deploy", tmp_path / "other.json", "--to", "compose", "--store", store): (6, "was altered"),
        (*deploy, tmp_path / "no-store"): (4, "there is no store"),
        (*deploy, tmp_path): (4, "lacks serve-llamacpp-q8_0-"),
        (*deploy, store, "--engine", "vllm"): (2, "does not serve with vllm"),
        (*deploy, store, "--name", "Demo"): (2, "cannot name a deployment"),
        (*deploy, store, "--secret", "x", "--values", "y"): (2, "--values, --secret are for a cluster"),
        ("rollback", "demo", "--to", "compose", "--store", store): (2, "nothing is deployed as demo"),
    }
    for words, (code, text) in cases.items():
        found, said = refused(*words)
        assert (found, text in said) == (code, True), (words, said)
    assert not (store / "deployments").exists() or not list((store / "deployments").glob("*.json"))


def test_two_deployments_of_one_name_at_once_are_refused(file, store, host):
    with Ledger(store, "smollm2-demo").locked():
        code, said = refused("deploy", file, "--to", "compose", "--store", store)
    assert code == 4 and "is being deployed just now" in said


def test_a_release_that_fails_is_taken_back_and_what_serves_is_told(file, store, host, tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, docker=f"{(tmp_path / 'bin' / 'docker').read_text()}\ncase \"$*\" in *slot.yaml*' up '*) exit 17;; esac")
    code, said = refused("deploy", file, "--to", "compose", "--store", store)
    assert code == 5 and "exit code 17" in said
    state = Ledger(store, "smollm2-demo").read("compose")
    assert state == Deployment(name="smollm2-demo", goal="compose")
    assert "slot.yaml --profile llamacpp down" in host.read_text() and "front.yaml --profile proxy down" in host.read_text()


def test_a_cluster_that_cannot_be_reached_is_one_error_and_changes_nothing(file, store, tmp_path, monkeypatch):
    refusing = "echo 'The connection to the server localhost:8080 was refused' >&2; exit 1"
    asked = stand_in(tmp_path, monkeypatch, kubectl=refusing, helm=refusing)
    code, said = refused("deploy", file, "--to", "k8s", "--store", store)
    assert code == 4 and "the cluster cannot be reached: The connection to the server localhost:8080 was refused" in said
    assert len(asked.read_text().splitlines()) == 1 and not list((store / "deployments").glob("*.json"))


@pytest.mark.parametrize(("model", "name"), [("smollm2-demo", "smollm2-demo"), ("Qwen_2.5".lower(), "qwen-2-5"), ("a" * 60, "a" * 40)])
def test_a_deployment_is_called_as_its_model_where_that_is_possible(model, name):
    assert session.slug(model) == name
