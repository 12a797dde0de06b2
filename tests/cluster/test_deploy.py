"""Releases on a real cluster: few pods of a new one are asked by the same Service, verified through a forwarded port, and promoted or taken away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import short_recipe
import yaml
from kubernetes import FIGURES, LIGHT, Namespace, bring, fresh, run, wait_for
from streams import Streams
from untuned import untuned

from toolkit.deployment.state import Deployment, Ledger
from toolkit.images import ensure, image
from toolkit.release.document import Commits, Release, identity, load, write
from toolkit.release.making import cut
from toolkit.stages import ROOT

MODEL = "smollm2-demo"


@dataclass
class Team:
    """A namespace with a deployment, whose values make it small and reachable."""

    name: str
    namespace: Namespace
    store: Path
    values: Path
    releases: dict[str, Path]
    env: dict[str, str]

    def argv(self, *words: object) -> list[str]:
        """Return a command line of thinkship."""
        return [sys.executable, "-m", "toolkit.cli", *map(str, words), "--to", "k8s", "--store", str(self.store)]

    def deploy_argv(self, release: str, *words: object) -> list[str]:
        """Return the command line that deploys a release."""
        place = ("--namespace", self.namespace.name, "--model", f"hostpath://{self.store.resolve()}", "--values", self.values, "--name", self.name)
        return self.argv("deploy", self.releases[release], *place, *words)

    def run(self, argv: list[str], check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command line from the repository's folder."""
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=1800, cwd=ROOT, env={**self.env, **env})
        assert done.returncode == 0 or not check, done.stdout[-4000:] + done.stderr[-4000:]
        return done

    @property
    def state(self) -> Deployment:
        """What the store says is deployed."""
        return Ledger(self.store, self.name).read("k8s")

    def serves(self, release: str) -> bool:
        """Whether a release serves alone, with nothing left over."""
        found = self.state
        assert found.current and not found.candidate and not found.leftover
        names = {one["name"] for one in json.loads(self.namespace.helm("list", "--all", "--output", "json").stdout)}
        pods = [pod for pod in self.namespace.pods("llamacpp") if not pod["metadata"].get("deletionTimestamp")]
        marks = {pod["metadata"]["annotations"]["thinkship/release"] for pod in pods}
        return names == {self.name} and marks == {load(self.releases[release]).id} == {found.current.release.id}


@dataclass(frozen=True)
class Verified:
    """The demo's store with the release of a verdict over few questions: six candidates are asked as many."""

    store: Path
    release: Release


@pytest.fixture(scope="session")
def verified(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Verified:
    recipe = short_recipe.ask_less(tmp_path_factory.mktemp("recipe"))
    run(sys.executable, "-m", "toolkit.cli", "run", str(recipe), "--store", str(store), timeout=1800)
    return Verified(store, cut(recipe, store, Commits(thinkship="1" * 40, recipe="1" * 40)))


@contextmanager
def joined(name: str, namespace: Namespace, verified: Verified, folder: Path) -> Iterator[Team]:
    """Bring the images and write three releases; take all away at the end."""
    store, good = verified.store, verified.release
    for title in ("verify", "llamacpp"):
        ensure(image(title))
    bring(good.tools, good.engines[0].image)
    values = {"engines": {"llamacpp": {"resources": LIGHT, "service": {"type": "NodePort"}, "replicas": 2}}}
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    namespace.secret()
    yield Team(name, namespace, store, folder / "values.yaml", made(good, store, folder), {**os.environ, "PYTHONPATH": str(ROOT)})
    for title in (f"{name}-canary", name):
        namespace.helm("uninstall", title, "--ignore-not-found", "--wait", check=False)
    Ledger(store, name).path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def team(cluster: str, verified: Verified, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The team whose deployment the tests go on with, one after the other."""
    with fresh() as namespace, joined("demo", namespace, verified, tmp_path_factory.mktemp("team")) as found:
        yield found


@pytest.fixture
def newcomer(namespace: Namespace, verified: Verified, tmp_path: Path) -> Iterator[Team]:
    """A team that has deployed nothing yet."""
    with joined("new", namespace, verified, tmp_path) as found:
        yield found


def made(good: Release, store: Path, folder: Path) -> dict[str, Path]:
    """Write a release, a newer one, and one that serves the base model under the tuned one's name."""
    changes: dict[str, dict[str, Any]] = {
        **{"old": {}, "new": {"commits": Commits(thinkship="2" * 40, recipe="")}},
        "untuned": {"engines": (untuned(good, store),)},
    }
    for name, change in changes.items():
        other = good.model_copy(update=change)
        write(other.model_copy(update={"id": identity(other)}), folder / f"{name}.json")
    return {name: folder / f"{name}.json" for name in changes}


@pytest.mark.long
def test_a_newer_release_is_tried_beside_the_old_one_and_promoted_and_no_client_notices(team: Team) -> None:
    began = time.monotonic()
    team.run(team.deploy_argv("old"))
    FIGURES.append(f"deploy, the first release: {time.monotonic() - began:.0f} s")
    assert team.serves("old")
    with Streams(team.namespace.address("demo-llamacpp"), MODEL, "sesame", 2) as streams:
        began = time.monotonic()
        with subprocess.Popen(team.deploy_argv("new", "--canary", "30"), cwd=ROOT, env=team.env, stdout=subprocess.DEVNULL) as running:
            wait_for(lambda: len(endpoints(team)) == 3, 300, "the Service asks the canary too")
            assert running.wait(timeout=1800) == 0
        FIGURES.append(f"deploy, a newer release: {time.monotonic() - began:.0f} s, {len(streams.log)} requests, {len(streams.failed)} failed")
    assert not streams.failed, streams.failed
    assert team.serves("new") and len(endpoints(team)) == 2


@pytest.mark.long
def test_a_wrong_release_is_taken_back_and_the_one_before_comes_back_and_no_client_notices(team: Team) -> None:
    url = team.namespace.address("demo-llamacpp")
    with Streams(url, MODEL, "sesame", 2) as streams:
        done = team.run(team.deploy_argv("untuned", "--canary", "0"), check=False)
    assert done.returncode == 6 and "did not pass: " in done.stderr, done.stdout + done.stderr
    assert team.serves("new") and streams.log and not streams.failed, streams.failed
    revisions = json.loads(team.namespace.helm("history", "demo", "--output", "json").stdout)
    assert len(revisions) == 2, "the deployment itself was not touched"

    with Streams(url, MODEL, "sesame", 8) as streams:
        began = time.monotonic()
        team.run(team.argv("rollback", "demo"))
        FIGURES.append(f"rollback: {time.monotonic() - began:.0f} s, {len(streams.log)} requests of 8 clients, {len(streams.failed)} failed")
    assert not streams.failed, streams.failed
    wait_for(lambda: team.serves("old"), 120, "the new pods are gone")


def endpoints(team: Team) -> list[str]:
    """Return the addresses that the deployment's Service asks."""
    found = team.namespace.get("endpointslices", "--selector", "kubernetes.io/service-name=demo-llamacpp")["items"]
    return [address for part in found for one in part["endpoints"] or [] if one["conditions"]["ready"] for address in one["addresses"]]


@pytest.mark.long
@pytest.mark.parametrize(("word", "release"), [("are held against", "new"), ("is rolled out", "old")])
def test_a_deployment_that_is_killed_leaves_the_old_one_serving_and_goes_on(team: Team, word: str, release: str) -> None:
    with Streams(team.namespace.address("demo-llamacpp"), MODEL, "sesame", 2) as streams:
        argv = team.deploy_argv(release)
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=team.env) as running:
            assert running.stdout
            for line in running.stdout:
                if word in line and "the values of" not in line:
                    break
            time.sleep(1.5)
            os.kill(running.pid, signal.SIGKILL)
        assert team.state.candidate
        team.run(team.deploy_argv(release))
    assert not streams.failed, streams.failed
    wait_for(lambda: team.serves(release), 120, "the pods before are gone")


def test_what_keeps_us_from_a_cluster_is_one_error_and_changes_nothing(newcomer: Team, tmp_path: Path) -> None:
    config = yaml.safe_load(run("kubectl", "config", "view", "--raw", "--flatten").stdout)
    dead = {**config, "clusters": [{**one, "cluster": {**one["cluster"], "server": "https://127.0.0.1:9"}} for one in config["clusters"]]}
    (tmp_path / "dead").write_text(yaml.safe_dump(dead))
    done = newcomer.run(newcomer.deploy_argv("old"), check=False, KUBECONFIG=str(tmp_path / "dead"))
    assert done.returncode == 4 and "the cluster cannot be reached" in done.stderr, done.stderr
    token = newcomer.namespace.kubectl("create", "token", "default").stdout.strip()
    weak = {**config, "users": [{"name": one["name"], "user": {"token": token}} for one in config["users"]]}
    (tmp_path / "weak").write_text(yaml.safe_dump(weak))
    done = newcomer.run(newcomer.deploy_argv("old"), check=False, KUBECONFIG=str(tmp_path / "weak"))
    assert done.returncode == 4 and "you may not create deployments.apps" in done.stderr, done.stderr
    newcomer.namespace.kubectl("delete", "secret", "thinkship")
    done = newcomer.run(newcomer.deploy_argv("old"), check=False)
    assert done.returncode == 4 and "there is no Secret thinkship" in done.stderr, done.stderr
    assert not json.loads(newcomer.namespace.helm("list", "--all", "--output", "json").stdout) and not newcomer.namespace.get("deployments")["items"]
    assert newcomer.state == Deployment(name="new", goal="k8s", namespace="default")


@pytest.mark.long
def test_a_helm_release_of_somebody_else_is_left_alone(newcomer: Team, values: Callable[..., dict[str, Any]]) -> None:
    newcomer.namespace.deploy("new", values("llamacpp"), "--wait", "--timeout", "5m", timeout=330)
    done = newcomer.run(newcomer.deploy_argv("old"), check=False)
    assert done.returncode == 4 and "was not deployed from this store" in done.stderr, done.stderr
    assert len(json.loads(newcomer.namespace.helm("history", "new", "--output", "json").stdout)) == 1
