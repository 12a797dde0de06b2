"""Has a real control plane schedule and roll a large fleet on nodes that are simulated: what the chart asks of Kubernetes at 1,000 GPUs.

    KUBECONFIG=… python3 benchmarks/fleet.py KWOK [--gpus 1000] [--node 8] [--replica 2] [--surge 25%]

KWOK is the program of https://kwok.sigs.k8s.io (`go install sigs.k8s.io/kwok/cmd/kwok@v0.7.0`), which plays kubelets: a pod that is bound to one of
its nodes is ready at once, so that the seconds are the control plane's alone, and a model's start is to be added once for each wave of a roll-out.
Needs kubectl and helm. Prints one line a step, and takes all away at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHART = Path(__file__).resolve().parent.parent / "charts" / "thinkship"
MARK = "kwok.x-k8s.io/node"
PLACE = "thinkship-fleet"
DEPLOYMENT = "fleet-vllm"


def run(*argv: str, given: Any = None, timeout: float = 900) -> str:
    """Run a program, a value as JSON on its standard input; what it says is returned, and the end of this program where it fails."""
    done = subprocess.run(argv, input=None if given is None else json.dumps(given), capture_output=True, text=True, check=False, timeout=timeout)
    if done.returncode:
        sys.exit(f"{' '.join(argv)}\n{done.stderr}")
    return done.stdout


def node(number: int, gpus: int) -> dict[str, Any]:
    """Return a node of KWOK's."""
    name = f"fleet-{number:04d}"
    room = {"cpu": "128", "memory": "1Ti", "pods": "110", "nvidia.com/gpu": str(gpus)}
    labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": f"zone-{number % 3}", "type": "kwok"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "annotations": {MARK: "fake"}, "labels": labels},
        "spec": {"taints": [{"key": MARK, "value": "fake", "effect": "NoSchedule"}]},
        "status": {"allocatable": room, "capacity": room},
    }


def values(replicas: int, gpus: int, surge: str, turn: int) -> dict[str, Any]:
    """Return the chart's values; another turn makes other pods."""
    engine = {"image": "thinkship/vllm:0", "gpus": gpus, "replicas": replicas, "maxSurge": int(surge) if surge.isdigit() else surge}
    engine["args"] = ["--tensor-parallel-size", str(gpus)]
    pod = {"nodeSelector": {"type": "kwok"}, "tolerations": [{"key": MARK, "operator": "Exists", "effect": "NoSchedule"}]}
    return {"name": "fleet", "apiKey": {"none": True}, "engines": {"vllm": engine}, "pod": pod | {"annotations": {"turn": str(turn)}}}


@contextmanager
def simulated(kwok: str, nodes: list[dict[str, Any]]) -> Iterator[None]:
    """Have KWOK play these nodes."""
    words = (
        "--node-lease-duration-seconds=40",
        "--manage-all-nodes=false",
        f"--manage-nodes-with-annotation-selector={MARK}=fake",
        "--manage-nodes-with-label-selector=",
    )
    with tempfile.NamedTemporaryFile() as log, subprocess.Popen((kwok, *words), stdout=log, stderr=log) as running:
        try:
            run("kubectl", "apply", "--server-side", "--filename", "-", given={"apiVersion": "v1", "kind": "List", "items": nodes})
            run("kubectl", "create", "namespace", PLACE)
            yield
        finally:
            with suppress(SystemExit):
                run("helm", "uninstall", "fleet", "--namespace", PLACE, "--ignore-not-found")
                run("kubectl", "delete", "namespace", PLACE, "--timeout=600s")
            with suppress(SystemExit):
                run("kubectl", "delete", "nodes", "--selector", "type=kwok")
            running.terminate()


def told(what: str, act: Callable[[], object]) -> None:
    """Do something and say how long it took, and between how many and how many replicas were ready."""
    seen: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            found = subprocess.run(("kubectl", "-n", PLACE, "get", "deployment", DEPLOYMENT, "-o", "json"), capture_output=True, check=False)
            if found.returncode == 0:
                seen.append(int(json.loads(found.stdout)["status"].get("readyReplicas", 0)))
            time.sleep(0.5)

    watching = threading.Thread(target=watch)
    watching.start()
    began = time.monotonic()
    try:
        act()
    finally:
        done.set()
        watching.join()
    sys.stdout.write(f"{what}: {time.monotonic() - began:.0f} s, ready replicas from {min(seen, default=0)} to {max(seen, default=0)}\n")
    sys.stdout.flush()


def main() -> None:
    """Install, roll and remove."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("kwok")
    options.add_argument("--gpus", type=int, default=1000)
    options.add_argument("--node", type=int, default=8, help="GPUs of a node")
    options.add_argument("--replica", type=int, default=2, help="GPUs of a replica")
    options.add_argument("--surge", default="25%")
    given = options.parse_args()
    whole = given.gpus // given.replica
    surge = given.surge
    replicas = int(whole / (1 + int(surge[:-1]) / 100)) if surge.endswith("%") else whole - int(surge)  # with the surge they fill the cluster

    def roll(turn: int) -> None:
        flags = ("--namespace", PLACE, "--install", "--values", "-", "--set", "preflight.nodes=false", "--timeout", "15m", "--wait")
        run("helm", "upgrade", "fleet", str(CHART), *flags, given=values(replicas, given.replica, surge, turn))

    nodes = [node(number, given.node) for number in range(given.gpus // given.node)]
    sys.stdout.write(f"{len(nodes)} nodes of {given.node} GPUs, {replicas} replicas of {given.replica}, maxSurge {surge}\n")
    with simulated(given.kwok, nodes):
        told("installed", lambda: roll(1))
        told("rolled", lambda: roll(2))


if __name__ == "__main__":
    main()
