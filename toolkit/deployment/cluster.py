"""A Kubernetes cluster with Helm: the deployment is one Helm release, a new one is tried as another of few pods that the same Service asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from toolkit import serving
from toolkit.deployment import chart, seen
from toolkit.deployment.acts import Access, Act, Prove, Run, Write
from toolkit.deployment.plan import Acts
from toolkit.deployment.seen import Seen, canary_of
from toolkit.deployment.state import Deployed, Deployment, Ledger
from toolkit.engines import engine
from toolkit.errors import NotReadyError, UsageError
from toolkit.process import Command
from toolkit.stages import ROOT

CHART = ROOT / "charts" / "thinkship"
FETCHED, CHECKED = 20_000_000, 200_000_000
"""Bytes a second at which a pod loads a model from elsewhere, or checks what is there, at the least (the chart's _require.tpl)."""
SPARE = 120
"""Seconds beside those that a start should take: a node is found, an image pulled."""


@dataclass(frozen=True)
class Cluster:
    """Deployments on a cluster."""

    name: str
    namespace: str
    folder: Path
    """Where the values are written that Helm reads."""
    seen: Seen
    port: int = 0
    """A free port of 127.0.0.1, for the way to the canary."""

    def placed(self, new: Deployed, old: Deployed | None) -> Deployed:
        """Return the release as it is; UsageError where it serves with another engine, whose Service would be another."""
        if old and old.engine != new.engine:
            raise UsageError(f"{self.name} serves with {old.engine}, and {new.engine} has a Service of its own", "take another --name")
        return new

    def mended(self, state: Deployment) -> Acts:
        """Return what ends Helm's belief that somebody is still at work, and takes away a canary that nobody knows of."""
        main, canary = self.seen.main, self.seen.canary
        acts: list[Act] = []
        if main and main.pending:
            back = ("rollback", self.name, str(main.good), "--wait", "--timeout", "600s") if main.good else ("uninstall", self.name, "--wait")
            acts.append(Run("Helm was killed at work: back to what it had finished", self._helm(*back), 660))
        if canary and (canary.pending or not (state.candidate or state.leftover)):
            acts.append(self._uninstalled(canary_of(self.name), "the canary of a command that was killed goes"))
        return tuple(acts)

    def tried(self, old: Deployed | None, new: Deployed, percent: int) -> Acts:
        """Return what starts few pods of a release, asked by the deployment's Service or by nobody yet, and proves them."""
        asked = bool(old and percent)
        count = chart.replicas_for(percent, max(1, self.seen.replicas)) if asked else 1
        told = f"{count} of {count + max(1, self.seen.replicas)} pods" if asked else "a pod that nobody asks yet"
        given = chart.canary(new.values, new.engine, count, asked)
        return (
            *self._helped(canary_of(self.name), f"{new.title} starts as {told}", given, new, count),
            Prove("its pods are held against what the release passed", new, self._access(new)),
        )

    def started(self, old: Deployed | None, new: Deployed) -> Acts:
        """Return nothing: a roll-out starts new pods before it ends old ones."""
        return ()

    def promoted(self, old: Deployed | None, new: Deployed) -> Acts:
        """Return the roll-out, which takes itself back where it does not become ready."""
        return self._helped(self.name, f"{new.title} is rolled out", new.values, new, max(1, self.seen.replicas), "--atomic")

    def witnessed(self, new: Deployed) -> Acts:
        """Return what shows the canary's pods and their last lines."""
        name = canary_of(self.name)
        pods = ("get", "pods", "--selector", f"app.kubernetes.io/instance={name}")
        lines = ("logs", f"deployment/{name}-{new.engine}", "--all-containers", "--tail", "15")
        told = (("the canary's pods", pods), ("its last lines", lines))
        return tuple(Run(why, self._kubectl(*words), SPARE, must=False, told=True) for why, words in told)

    def removed(self, gone: Deployed, kept: Deployed | None) -> Acts:
        """Return what takes the canary away, and puts the deployment back where it has been rolled out already."""
        acts: list[Act] = [self._uninstalled(canary_of(self.name), "the canary goes")]
        rolled = self.seen.main and self.seen.main.values == gone.values and not gone.same(kept)
        if rolled and kept:
            acts += self._helped(self.name, f"{kept.title} is rolled out again", kept.values, kept, max(1, self.seen.replicas), "--atomic")
        elif rolled:
            acts.append(self._uninstalled(self.name, "the deployment goes"))
        return tuple(acts)

    def retired(self, old: Deployed | None, new: Deployed) -> Acts:
        """Return what takes the canary away: the roll-out has replaced the old pods."""
        return (self._uninstalled(canary_of(self.name), "the canary goes"),)

    def _helped(self, name: str, why: str, values: Mapping[str, Any], one: Deployed, pods: int, *words: str) -> Acts:
        """Return what installs or upgrades a Helm release and waits until all its pods have answered."""
        file = self.folder / f"{name}.yaml"
        seconds = deadline(one, bool(values["model"].get("load", {}).get("from"))) * pods
        settled = ("--wait", "--timeout", f"{seconds}s", "--history-max", "10", *words)
        command = self._helm("upgrade", name, str(CHART), "--install", "--values", str(file), *settled)
        return (Write(f"the values of {name}", file, text(values)), Run(why, command, 2 * seconds + SPARE))

    def _uninstalled(self, name: str, why: str) -> Act:
        return Run(why, self._helm("uninstall", name, "--ignore-not-found", "--wait", "--timeout", "300s"), 360)

    def _access(self, one: Deployed) -> Access:
        place, kind = f"deployment/{canary_of(self.name)}-{one.engine}", engine(one.engine)
        forward = self._kubectl("port-forward", place, f"{self.port}:{kind.port}")
        given = one.values["apiKey"]
        if not kind.asks_for_key or not given.get("secret"):
            return Access(self.port, forward)
        path = "jsonpath={.data." + given.get("key", "api-key").replace(".", r"\.") + "}"
        return Access(self.port, forward, secret=self._kubectl("get", "secret", given["secret"], "--output", path))

    def _helm(self, *words: str) -> Command:
        return Command(("helm", *words, "--namespace", self.namespace))

    def _kubectl(self, *words: str) -> Command:
        return Command(("kubectl", "--namespace", self.namespace, *words))


def deadline(one: Deployed, fetched: bool) -> int:
    """Return the seconds after which a pod should answer: its start, and the loading or checking of the model before."""
    return one.served.startup_seconds + SPARE + one.served.bytes // (FETCHED if fetched else CHECKED)


def text(values: Mapping[str, Any]) -> str:
    """Return values as YAML."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=120)


def there(ledger: Ledger, state: Deployment, wanted: Deployed | None) -> Cluster:
    """Look at the cluster and return it; NotReadyError where nothing can be deployed there, or somebody else has. Nothing is changed."""
    seen.require(state.namespace)
    known = wanted or state.candidate or state.current
    found = seen.look(ledger.name, state.namespace, known.engine if known else "")
    _require_ours(state, found)
    goal = Cluster(ledger.name, state.namespace, ledger.folder, found, serving.pick_port())
    if wanted:
        goal.placed(wanted, state.current)
        if not (found.main and found.main.pending):
            seen.rehearse(ledger.name, state.namespace, CHART, text(wanted.values))
    return goal


def _require_ours(state: Deployment, found: Seen) -> None:
    """Raise NotReadyError where the Helm release of that name is none that this store knows."""
    if not found.main or found.main.good is None:
        return
    ours = [one.values for one in (state.current, state.candidate, state.leftover, state.previous) if one]
    if found.main.values not in ours:
        name = f"the Helm release {state.name} in {state.namespace}"
        message = f"{name} was not deployed from this store, or was changed since"
        raise NotReadyError(message, f"take another --name, or `helm uninstall {state.name}`")
