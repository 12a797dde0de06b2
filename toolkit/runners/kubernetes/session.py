"""`thinkship run --runner kubernetes`: the plan is made here, each of its steps is one Job there, one after the other.

Nothing of the run lives here but the following: whoever loses the line, or is killed, runs the same command again and finds the Job by its step's id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit import console, hubs, kubectl, recipe_file
from toolkit.errors import InvalidError, NotReadyError, ThinkshipError
from toolkit.export.writing import as_yaml
from toolkit.images import image
from toolkit.kubectl import Kubectl, UnreachableError
from toolkit.plan import Step
from toolkit.runners.kubernetes import assignment, belongings, desk, patience
from toolkit.runners.kubernetes.assignment import RECIPE, Assignment
from toolkit.runners.kubernetes.following import Following, ended_before, ending
from toolkit.runners.kubernetes.job import job
from toolkit.runners.kubernetes.needs import GPU, Needs, needs
from toolkit.runners.kubernetes.place import Where, where
from toolkit.store import Store

HERE = ("serve", "verify")
"""Stages whose servers no Job runs."""
GRANTS = (
    *((verb, kind) for kind in ("jobs.batch", "pods") for verb in ("create", "get", "list", "watch", "delete")),
    ("get", "pods/log"),
    ("get", "persistentvolumeclaims"),
    ("list", "events"),
)
"""What a run asks of the cluster (`kubectl delete --wait` lists and watches); copying the recipe's own files asks for pods/exec too."""
OLDEST = (1, 29)
"""The first version whose Jobs wait for a pod's end before they replace it (podReplacementPolicy)."""
GONE = ("--cascade=foreground", "--wait=true", "--timeout", "50s")
"""How a Job is taken away: when this is done its pods are gone."""


def run(path: Path, planned: tuple[Step, ...], root: Path, asked: Mapping[str, Any], dry: bool) -> None:
    """Make every step of a plan as a Job, or print the Jobs. Logs lie below `root` here.

    InvalidError for what no Job can do and UsageError for a place that is none, before the cluster is asked; NotReadyError with what it lacks,
    before anything is changed there; a step's own error, as of any runner.
    """
    require_jobs(path, planned)
    recipe, folder = recipe_file.load(path), path.resolve().parent
    place = where(asked, recipe.verify.gpu)
    paths = belongings.local(recipe)
    given = belongings.name(folder, paths)
    told = tuple(assigned(step, planned, place, given) for step in planned)
    wanted = needs(recipe, folder, place.gpu)
    if dry:
        console.emit(as_yaml([made(one, place, wanted) for one in told]))
        return
    cluster = Kubectl(place.namespace)
    require(cluster, place, wanted, planned)
    states = desk.look(cluster, place, told)
    waiting = {step.name for step in planned if states.steps[step.name]["state"] == "make"}
    if given in states.missing and any(one.given for one in told if one.name in waiting):
        kubectl.require(place.namespace, (("create", "pods/exec"),))
        desk.carry(cluster, place, folder, given, paths)
    for step in planned:
        state = states.steps[step.name]
        if step.name in waiting:
            one = assigned(step, planned, place, given, again=state["again"])
            follow(cluster, step, made(one, place, wanted), Store(root), states.at)
        else:
            console.step(step.name, step.id[:12], "freed" if state["state"] == "freed" else "skip")
    console.say(f"\nthe store is {place.volume} in {place.namespace}" if waiting else "nothing to do: every step is sealed")


def require_jobs(path: Path, planned: Sequence[Step]) -> None:
    """Raise InvalidError where a plan goes on to servers: an engine and its verification need a machine, or a deployment."""
    beyond = [step.name for step in planned if step.stage.name in HERE]
    if beyond:
        message = f"{', '.join(beyond)}: no Job serves a model and verifies it"
        remedy = f"--until modelfile; then `thinkship export k8s {path}` and `helm test`, or `thinkship run` where the volume is mounted"
        raise InvalidError(message, remedy)


def assigned(step: Step, planned: Sequence[Step], place: Where, given: str, again: bool = False) -> Assignment:
    """Return a step as its pods are told of it."""
    environment = step.stage.environment
    tag = place.image(image(environment, step.stage.lock(step.recipe))) if environment else ""
    return assignment.of(step, planned, given=given if RECIPE in step.paths else "", image=tag, again=again)


def made(told: Assignment, place: Where, wanted: Mapping[str, Needs]) -> dict[str, Any]:
    """Return the Job of a step."""
    step = told.step()
    return job(told, place, wanted[told.program], online=step.stage.online(step.recipe) and not hubs.offline())


def require(cluster: Kubectl, place: Where, wanted: Mapping[str, Needs], planned: Sequence[Step]) -> None:
    """Raise NotReadyError where the cluster cannot be used, the claim or the Secret is not there, or no node has the GPUs."""
    kubectl.require(place.namespace, GRANTS, OLDEST)
    claim = cluster.get("persistentvolumeclaim", place.claim)
    if claim is None:
        raise NotReadyError(
            f"there is no PersistentVolumeClaim {place.claim} in {place.namespace}", "make it, or name another with --volume pvc://CLAIM"
        )
    if claim.get("status", {}).get("phase") == "Lost":
        raise NotReadyError(f"the PersistentVolumeClaim {place.claim} has lost its volume", "see `kubectl describe pvc`")
    if not {"ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"} & set(claim["spec"].get("accessModes", ())):
        raise NotReadyError(f"the PersistentVolumeClaim {place.claim} cannot be written", "one with ReadWriteMany or ReadWriteOnce")
    if place.secret and cluster.exists("secret", place.secret) is False:
        raise NotReadyError(
            f"there is no Secret {place.secret} in {place.namespace}", f"kubectl create secret generic {place.secret} --from-env-file=FILE"
        )
    most = max((wanted[step.stage.program].gpus for step in planned), default=0)
    if most and (offered := gpus(cluster)) is not None and offered < most:
        raise NotReadyError(f"{most} GPUs are needed on one node, and none offers more than {offered} ({GPU})", "--no-gpu, or a cluster with GPUs")


def gpus(cluster: Kubectl) -> int | None:
    """Return the most GPUs that a node offers, None where we may not list nodes."""
    try:
        nodes = cluster.listed("nodes")
    except UnreachableError:
        raise
    except NotReadyError:
        return None
    return max((int(node.get("status", {}).get("allocatable", {}).get(GPU, "0")) for node in nodes), default=0)


def follow(cluster: Kubectl, step: Step, wanted: Mapping[str, Any], store: Store, looked: str) -> None:
    """Start a step's Job, or find it, and follow it to its end. Whoever interrupts that ends the Job; whoever loses the line does not.

    `looked` is when the records were read: a Job that ended before did not leave what is wanted.
    """
    title = str(wanted["metadata"]["name"])
    console.step(step.name, step.id[:12], "run")
    try:
        _start(cluster, title, wanted, looked)
        Following(cluster, title, step, store.log(step)).run()
    except UnreachableError:
        raise
    except (ThinkshipError, KeyboardInterrupt):
        _end(cluster, title)
        raise


def _start(cluster: Kubectl, title: str, wanted: Mapping[str, Any], looked: str) -> None:
    if patience.answered(lambda: cluster.create(wanted), title):
        return
    found = patience.answered(lambda: cluster.get("job", title), title)
    if found is None or ended_before(found, looked):
        patience.answered(lambda: cluster.delete("job", title, *GONE), title)
        patience.answered(lambda: cluster.create(wanted), title)
    else:
        console.note(f"the Job {title} is somebody's already: it is followed")


def _end(cluster: Kubectl, title: str) -> None:
    """Take a Job away that still works; one that ended is left to whoever else follows it, and to a look at its pods."""
    try:
        found = cluster.get("job", title)
        if found and ending(found) is None:
            cluster.delete("job", title, *GONE)
            console.note(f"the Job {title} was taken away: what it kept is gone on from by the same command")
    except ThinkshipError as error:
        console.note(f"the Job {title} may go on: {error.message}; kubectl --namespace {cluster.namespace} delete job {title}")
