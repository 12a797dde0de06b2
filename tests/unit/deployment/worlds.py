"""A host and a cluster as far as deploying touches them: each does the acts of a plan to itself, may be killed between any two, and says whom a
request would reach.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.deployment.acts import Act, Keep, Plan, Prove, Run, Write
from toolkit.deployment.cluster import Cluster
from toolkit.deployment.compose import Compose
from toolkit.deployment.plan import Goal
from toolkit.deployment.seen import Installed, Seen
from toolkit.deployment.state import Deployed, Deployment
from toolkit.errors import BrokenError, FailedError
from toolkit.release.document import Release, identity


class Killed(BaseException):
    """What SIGKILL does: nothing more is done, and nothing is taken back."""


def variant_of(release: Release, letter: str) -> Release:
    """Return another release, told by its image's tag."""
    (one,) = release.engines
    other = release.model_copy(update={"engines": (one.model_copy(update={"image": f"thinkship/llamacpp:{letter * 12}"}),)})
    return other.model_copy(update={"id": identity(other)})


@dataclass
class World:
    """What both have: the state that is kept, how many acts are left before a kill, and the releases that fail."""

    state: Deployment
    left: int | None = None
    bad: set[str] = field(default_factory=set)
    """Ids of releases that do not pass the gate."""
    fails: str = ""
    """A word of the command that fails, once."""

    def do(self, act: Act) -> None:
        """Do an act, or be killed before it."""
        if self.left is not None:
            if self.left == 0:
                raise Killed
            self.left -= 1
        match act:
            case Keep():
                self.state = act.state
            case Prove():
                assert act.deployed.release.id in self.trying(), "what is proven runs"
                if act.deployed.release.id in self.bad:
                    raise BrokenError("the candidate did not pass")
            case Write():
                self.write(act)
            case Run():
                words = act.command.argv
                if self.fails and self.fails in words:
                    self.fails = ""
                    raise FailedError(f"{words} ended with exit code 1")
                self.run(words, dict(act.command.env))
        self.check()

    def check(self) -> None:
        """Once a release has been promoted, whoever is asked answers."""
        if self.state.current:
            assert self.asked(), f"nobody is asked after {self.state}"

    def write(self, act: Write) -> None:
        raise NotImplementedError

    def run(self, words: tuple[str, ...], env: dict[str, str]) -> None:
        raise NotImplementedError

    def asked(self) -> set[str]:
        """Ids of the releases that a request may reach; AssertionError where it may reach one that does not run."""
        raise NotImplementedError

    def trying(self) -> set[str]:
        """Ids of all that runs."""
        raise NotImplementedError


@dataclass
class Host(World):
    """A host: projects that are up, the proxy, and the route that it reads."""

    ids: dict[str, str] = field(default_factory=dict)
    """Tag -> id of the release."""
    up: dict[str, str] = field(default_factory=dict)
    """Slot -> id of the release in it."""
    files: dict[Path, str] = field(default_factory=dict)
    proxy: bool = False

    def goal(self) -> Goal:
        return Compose("demo", Path("/store"), Path("/store/deployments/demo"), 40000)

    def write(self, act: Write) -> None:
        self.files[act.path] = act.text

    def run(self, words: tuple[str, ...], env: dict[str, str]) -> None:
        project, verb = words[words.index("--project-name") + 1], words[words.index("--profile") + 2]
        if project == "thinkship-demo":
            assert env["DEPLOYMENT"] == "/store/deployments/demo"
            self._proxy(verb)
        else:
            self._slot(project.rpartition("-")[2], verb, env)

    @property
    def route(self) -> str:
        return self.files.get(Path("/store/deployments/demo/route"), "")

    def _proxy(self, verb: str) -> None:
        if verb == "up":
            assert self.route, "the proxy is not started before its route is written"
            self.proxy = True
        elif verb == "down":
            assert not self.up, "its network is in use"
            self.proxy = False

    def _slot(self, slot: str, verb: str, env: dict[str, str]) -> None:
        assert env["SLOT"] == slot
        if verb == "up":
            assert self.proxy and Path(env["ENGINE_ENV"]) in self.files, "the network and the settings are there"
            identity = self.ids[env["TAG"]]
            assert self.up.get(slot, identity) == identity, "a place is taken by one release at a time"
            self.up[slot] = identity
        elif verb == "down":
            self.up.pop(slot, None)

    def asked(self) -> set[str]:
        if not self.proxy or "nobody" in self.route:
            return set()
        slots = [word.partition(":")[0] for word in self.route.split() if ":" in word]
        assert all(slot in self.up for slot in slots), f"{self.route} leads to {slots}, and up are {self.up}"
        return {self.up[slot] for slot in slots}

    def trying(self) -> set[str]:
        return set(self.up.values())


@dataclass
class Pods(World):
    """A cluster: Helm releases with their revisions, each a pair of status and values; it reads JSON, which is YAML and faster."""

    helm: dict[str, list[tuple[str, dict[str, Any]]]] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    dies_within: bool = False
    """Whether a kill comes while Helm works, and not between two acts."""

    def goal(self) -> Goal:
        return Cluster("demo", "team", Path("/store/deployments/demo"), self.seen(), 40000)

    def seen(self) -> Seen:
        main = self._installed("demo")
        return Seen(main, self._installed("demo-canary"), main.values["engines"]["llamacpp"].get("replicas", 1) if main and main.good else 0)

    def _installed(self, name: str) -> Installed | None:
        revisions = self.helm.get(name)
        if not revisions:
            return None
        good = max((number for number, (status, _) in enumerate(revisions, 1) if status == "deployed"), default=None)
        return Installed(revisions[-1][0], good, revisions[good - 1][1] if good else {})

    def do(self, act: Act) -> None:
        if self.dies_within and self.left == 0 and isinstance(act, Run) and act.command.argv[:2] == ("helm", "upgrade"):
            self._begin(act.command.argv)
        super().do(act)

    def write(self, act: Write) -> None:
        self.files[str(act.path)] = json.loads(act.text)

    def _begin(self, words: tuple[str, ...]) -> None:
        revisions = self.helm.setdefault(words[2], [])
        revisions.append(("pending-upgrade" if revisions else "pending-install", self.files[words[words.index("--values") + 1]]))

    def run(self, words: tuple[str, ...], env: dict[str, str]) -> None:
        program, verb, name = words[:3]
        if program != "helm":
            return
        assert words[-2:] == ("--namespace", "team")
        revisions = self.helm.setdefault(name, [])
        pending = bool(revisions) and revisions[-1][0].startswith("pending")
        if verb == "upgrade":
            assert not pending, "another operation (install/upgrade/rollback) is in progress"
            self._begin(words)
            revisions[-1] = ("deployed", revisions[-1][1])
        elif verb == "rollback":
            revisions.append(("deployed", revisions[int(words[3]) - 1][1]))
        elif verb == "uninstall":
            del self.helm[name]
        if name in self.helm and not self.helm[name]:
            del self.helm[name]

    def _pods(self, name: str) -> dict[str, Any] | None:
        found = self._installed(name)
        return found.values if found and found.good else None

    def asked(self) -> set[str]:
        main = self._pods("demo")
        if not main:
            return set()
        assert main["serves"] == "demo"
        found = {main["pod"]["annotations"]["thinkship/release"]}
        canary = self._pods("demo-canary")
        if canary and canary["serves"] == "demo":
            found.add(canary["pod"]["annotations"]["thinkship/release"])
        return found

    def trying(self) -> set[str]:
        return {values["pod"]["annotations"]["thinkship/release"] for name in ("demo", "demo-canary") if (values := self._pods(name))}


def acts_of(plan: Plan) -> int:
    """How many acts a plan has when all goes well."""
    return len(plan.before) + len(plan.trial) + len(plan.after)


def wanted(release: Release, values: dict[str, Any] | None = None) -> Deployed:
    """Return a release as a command line asks for it."""
    return Deployed(release=release, engine="llamacpp", values=values or {})
