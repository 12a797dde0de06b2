"""The only words with a cluster: kubectl's commands, and its refusals as our errors."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit import process
from toolkit.errors import FailedError, NotReadyError
from toolkit.process import Command, Completed

SECONDS = 60.0
"""Longest time of one question."""
OLDEST = (1, 27)
"""The chart's kubeVersion."""
REACH = "`kubectl cluster-info` must work: see KUBECONFIG and its context"
LOST = (
    "Unable to connect",
    "connection refused",
    "was refused",
    "connection reset",
    "i/o timeout",
    "TLS handshake timeout",
    "no such host",
    "no route to host",
    "network is unreachable",
    "connection lost",
    "unexpected EOF",
    "context deadline exceeded",
    "Client.Timeout exceeded",
    "the server is currently unable to handle the request",
    "etcdserver:",
    "(ServiceUnavailable)",
    "(Timeout)",
    "(InternalError)",
    "(TooManyRequests)",
    "(ServerTimeout)",
)
"""Words of kubectl's that tell of a line or a server that may come back (client-go's and the API server's)."""


class UnreachableError(NotReadyError):
    """The cluster did not answer, and may answer later (exit code 4)."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl in one namespace."""

    namespace: str

    def command(self, *words: str) -> Command:
        """Return a command line."""
        return Command(("kubectl", "--namespace", self.namespace, *words))

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return an object, None where there is none; UnreachableError, NotReadyError where we may not, FailedError elsewhere."""
        told = self._told("get", kind, name, "--output", "json", missing=True)
        return dict(json.loads(told)) if told is not None else None

    def exists(self, kind: str, name: str) -> bool | None:
        """Say whether an object is there, None where we may not look; errors as `get`."""
        told = ask(*self.command("get", kind, name, "--output", "name", "--request-timeout", "30s").argv)
        if told.code and "(Forbidden)" in told.output:
            return None
        if told.code and "(NotFound)" in told.output:
            return False
        self.judge(told, f"get {kind}")
        return True

    def listed(self, kind: str, *words: str) -> list[dict[str, Any]]:
        """Return the objects that a selector finds; errors as `get`."""
        return list(json.loads(self._told("get", kind, *words, "--output", "json") or "{}").get("items", ()))

    def create(self, thing: Mapping[str, Any]) -> bool:
        """Make an object and say whether it is new: one of its name may be there already; errors as `get`."""
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            json.dump(thing, file)
            file.flush()
            told = ask(*self.command("create", "--filename", file.name, "--request-timeout", "30s").argv)
        if told.code and "(AlreadyExists)" in told.output:
            return False
        self.judge(told, f"create {thing['kind'].lower()}s")
        return True

    def delete(self, kind: str, name: str, *words: str) -> None:
        """Take an object away, if it is there; errors as `get`."""
        self._told("delete", kind, name, "--ignore-not-found", *words)

    def run(self, *words: str, seconds: float = SECONDS) -> str:
        """Run any command of kubectl's and return what it said; errors as `get`."""
        told = ask(*self.command(*words).argv, seconds=seconds)
        self.judge(told, " ".join(words[:2]))
        return told.output

    def _told(self, verb: str, kind: str, *words: str, missing: bool = False) -> str | None:
        told = ask(*self.command(verb, kind, *words, *(() if verb == "delete" else ("--request-timeout", "30s"))).argv)
        if told.code and missing and "(NotFound)" in told.output:
            return None
        self.judge(told, f"{verb} {kind}")
        return told.output

    def judge(self, told: Completed, what: str) -> None:
        """Raise what a refusal means; nothing for a good answer."""
        if told.code == 0:
            return
        if any(sign in told.output for sign in LOST):
            raise UnreachableError(f"the cluster cannot be reached: {last(told)}", REACH)
        if "(Forbidden)" in told.output:
            raise NotReadyError(f"the cluster refuses to {what}: {last(told)}", f"have the cluster role `edit` bound to you in {self.namespace}")
        if "(NotFound)" in told.output:
            raise NotReadyError(f"the cluster has nothing to {what}: {last(told)}", "see whether somebody takes it away")
        raise FailedError(f"kubectl did not {what}: {last(told)}", "mend what it names, then the same command again")


def require(namespace: str, grants: Iterable[tuple[str, str]], oldest: tuple[int, int] = OLDEST) -> None:
    """Raise NotReadyError where kubectl is missing, the cluster cannot be reached or is too old, the namespace is not there, or we may not do what
    `grants` (verb, kind) tell.
    """
    process.which("kubectl", "https://kubernetes.io/docs/tasks/tools")
    told = ask("kubectl", "version", "--output", "json", "--request-timeout", "15s")
    if told.code or "serverVersion" not in told.output:
        raise NotReadyError(f"the cluster cannot be reached: {last(told)}", REACH)
    version = json.loads(told.output)["serverVersion"]
    if (int(version["major"]), int(version["minor"].rstrip("+"))) < oldest:
        raise NotReadyError(f"the cluster runs Kubernetes {version['gitVersion']}", f"{oldest[0]}.{oldest[1]} or newer is needed")
    there = ask("kubectl", "get", "namespace", namespace, "--output", "name")
    if there.code and "NotFound" in there.output:
        raise NotReadyError(f"there is no namespace {namespace}", f"kubectl create namespace {namespace}")
    lacking = [f"{verb} {kind}" for verb, kind in grants if not _granted(namespace, verb, kind)]
    if lacking:
        message = f"you may not {', '.join(lacking)} in the namespace {namespace}"
        raise NotReadyError(message, f"have the cluster role `edit` bound to you in {namespace}")


def _granted(namespace: str, verb: str, kind: str) -> bool:
    return ask("kubectl", "auth", "can-i", verb, kind, "--namespace", namespace, "--quiet").code == 0


def ask(*argv: str, seconds: float = SECONDS) -> Completed:
    """Run a program and return what it said on both its outputs where it failed; FailedError where it takes too long."""
    with tempfile.NamedTemporaryFile() as errors:
        done = process.run(Command(argv), log=Path(errors.name), timeout=seconds, check=False)
        said = Path(errors.name).read_text(encoding="utf-8", errors="replace")
    return done if done.code == 0 else Completed(done.code, done.output + said)


def last(told: Completed) -> str:
    """Return the last line of what a program said."""
    lines: Sequence[str] = told.output.strip().splitlines()
    return lines[-1] if lines else f"exit code {told.code}"
