"""The commands deploy and rollback: everything is read and looked at first, then the plan is printed or done."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.deployment import chart, cluster, compose, gate
from toolkit.deployment.acts import Plan
from toolkit.deployment.performing import Real, perform
from toolkit.deployment.plan import Goal, deploy, rollback
from toolkit.deployment.state import Deployed, Deployment, Ledger
from toolkit.errors import UsageError
from toolkit.export.place import parse
from toolkit.release.document import Release, ReleasedEngine, load
from toolkit.runners.containers import check_readable

Look = Callable[[Ledger, Deployment, Deployed | None], Goal]
GOALS: dict[str, Look] = {"compose": compose.here, "k8s": cluster.there}


def bring(path: Path, to: Any, store: Path, *, name: str | None, engine: str | None, canary: int, dry_run: bool, **how: Any) -> None:
    """Deploy a release: try it beside what serves, prove it, promote it or take it back.

    UsageError, InvalidError, NotReadyError and BrokenError before anything is changed; BrokenError and FailedError after it was taken back.
    """
    release = load(path)
    one = release.engine(engine)
    ledger = Ledger(store, name or slug(release.model))
    held = gate.gate(release, one, store)
    wanted = _wanted(ledger, release, one, to, how)
    with nullcontext() if dry_run else ledger.locked():
        state = ledger.read(to, how["namespace"] or "")
        plan = deploy(GOALS[to](ledger, state, wanted), state, wanted, canary)
        _do(plan, Real(ledger, held), to, dry_run)


def bring_back(name: str, to: Any, store: Path, dry_run: bool) -> None:
    """Bring back what served before; errors as `bring`, NotReadyError where nothing did."""
    ledger = Ledger(store, name)
    with nullcontext() if dry_run else ledger.locked():
        state = ledger.read(to)
        if state == Deployment(name=name, goal=to, namespace=state.namespace):
            raise UsageError(f"nothing is deployed as {name} from the store {store}", "name another deployment, or its store with --store")
        wanted = None if state.candidate else state.previous
        if wanted and to == "compose":
            _require_store(ledger, wanted.served)
        plan = rollback(GOALS[to](ledger, state, wanted), state)
        _do(plan, Real(ledger), to, dry_run)


def slug(model: str) -> str:
    """Return the name of a deployment that is not given one: the served name, with what Kubernetes refuses replaced."""
    return model.replace(".", "-").replace("_", "-").strip("-")[:40].rstrip("-")


def _wanted(ledger: Ledger, release: Release, one: ReleasedEngine, to: str, how: dict[str, Any]) -> Deployed:
    """Return the release as it is to be put to work; UsageError for options of the other place."""
    if to == "compose":
        alien = [f"--{key}" for key in ("model", "values", "secret", "namespace") if how[key] not in (None, ())]
        if alien:
            raise UsageError(f"{', '.join(alien)} are for a cluster", "--to k8s, or leave them out")
        _require_store(ledger, one)
        return Deployed(release=release, engine=one.engine, registry=how["registry"])
    secret = "thinkship" if how["secret"] is None else how["secret"]
    wish = chart.Wish(parse(how["model"] or "pvc://thinkship-models"), secret, how["registry"], chart.read(how["values"]))
    given = chart.values(ledger.name, release, one, wish)
    return Deployed(release=release, engine=one.engine, registry=how["registry"], values=given)


def _require_store(ledger: Ledger, one: ReleasedEngine) -> None:
    """Check that the store holds what an engine serves, and that a container may read it; errors as `require_files`."""
    gate.require_files(one, ledger.store)
    check_readable(dict.fromkeys(ledger.store.resolve() / file.directory for file in one.files))


def _do(plan: Plan, hands: Real, to: Any, dry_run: bool) -> None:
    """Do a plan and say what serves then, or print it; say so where there is nothing to do."""
    if not (plan.before or plan.trial):
        console.say("nothing to do: this release serves already")
    elif dry_run:
        for line in plan.lines():
            console.say(line)
    else:
        try:
            perform(plan, hands, hands.ledger.name)
        finally:
            _tell(hands.ledger.read(to))


def _tell(state: Deployment) -> None:
    """Say what serves now."""
    if state.current:
        before = f"; before it {state.previous.title}: thinkship rollback {state.name} --to {state.goal}" if state.previous else ""
        console.say(f"\n{state.name}: {state.current.title} serves{before}")
    else:
        console.say(f"\n{state.name}: nothing is deployed")
