"""One Job from its start to its end: its pods as they come and go, their output as one log, and its end as done or as the error that it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from toolkit import console
from toolkit.errors import FailedError, NotReadyError, ThinkshipError
from toolkit.kubectl import Kubectl
from toolkit.pipeline import Task
from toolkit.plan import Step
from toolkit.runners.events import Events
from toolkit.runners.kubernetes import patience, trouble
from toolkit.runners.kubernetes.job import CONTAINERS, JOB
from toolkit.runners.kubernetes.stream import Stream

SOON = 20.0
"""Seconds after which it is said what a pod waits for."""
READINGS = 3
"""How often the output of a container that has ended is asked for; its last words stand in the pod's status too."""
T = TypeVar("T")


class Following:
    """Follows the Job of one step."""

    def __init__(self, kubectl: Kubectl, job: str, step: Step, log: Path) -> None:
        self._kubectl, self._job, self._step, self._log = kubectl, job, step, log
        self._pod: dict[str, Any] = {}
        self._read = 0
        """How many of the pod's containers have been read to their end."""
        self._there, self._attempts = False, 0
        self._stream: Stream | None = None
        self._waiting = time.monotonic()
        self._told = ""

    def run(self) -> None:
        """Follow it to its end; the error of the program that failed, NotReadyError where nothing runs, or where the cluster stays out of reach."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_bytes(b"")
        with Events() as self._events:
            while True:
                job = self._ask(lambda: self._kubectl.get("job", self._job))
                if job is None:
                    message = f"{self._step.name}: the Job {self._job} was taken away"
                    raise FailedError(message, "whoever did it ended the step; the same command again goes on from what is kept")
                self._look_for_pod()
                if not self._read_on():
                    if (end := ending(job)) is not None:
                        break
                    self._wait()
        self._judge(end)

    def _look_for_pod(self) -> None:
        """Take the Job's newest pod for the one to follow."""
        pods = self._ask(lambda: self._kubectl.listed("pods", "--selector", f"{JOB}={self._job}"))
        self._there = bool(pods)
        if not pods:
            return
        newest = max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        if self._pod and self._name(newest) != self._name(self._pod):
            before = next((pod for pod in pods if self._name(pod) == self._name(self._pod)), self._pod)
            console.note(f"the pod was killed ({trouble.killed(before)}): the step is begun again")
            self._read, self._stream, self._told, self._waiting, self._events.error = 0, None, "", time.monotonic(), None
        self._pod = newest

    def _read_on(self) -> bool:
        """Read the next container as far as it comes, and say whether there was any."""
        if not self._there or self._read == len(CONTAINERS):
            return False
        container = CONTAINERS[self._read]
        state = trouble.state(self._pod, container)
        if not ("running" in state or "terminated" in state):
            return False
        self._stream = self._stream or Stream(self._kubectl, self._name(self._pod), container, self._take)
        whole = self._stream.follow(self._log.with_suffix(".kubectl"))
        self._attempts = 0 if whole else self._attempts + 1
        if "terminated" in state and (whole or self._attempts == READINGS):  # it had ended before: nothing more can come
            self._read, self._stream, self._attempts = self._read + 1, None, 0
        elif not whole:
            time.sleep(patience.PAUSE)
        self._waiting = time.monotonic()
        return True

    def _take(self, line: str) -> None:
        """Take a line for an event, or keep it in the step's log."""
        if line.startswith('{"event"'):
            self._events.read(line)
        else:
            with self._log.open("a", encoding="utf-8") as sink:
                sink.write(line + "\n")

    def _wait(self) -> None:
        """Wait a moment; NotReadyError with what the pod waits for where that does not help."""
        if oom := trouble.out_of_memory(self._pod):
            raise type(oom)(f"{self._step.name}: {oom.message}", oom.remedy)
        waited = time.monotonic() - self._waiting
        found = trouble.trouble(self._pod) if self._pod else None
        if found is None and waited > SOON:
            found = self._by_events()
        if found and (found.lasting or waited > patience.SECONDS):
            raise NotReadyError(f"{self._step.name}: {found.message}", found.remedy)
        if found and waited > SOON and found.message != self._told:
            self._told = found.message
            console.note(f"waiting: {found.message}; {found.remedy}")
        time.sleep(patience.PAUSE)

    def _by_events(self) -> trouble.Trouble | None:
        """Ask the events, where a pod does not start or is not there."""
        if self._there and self._pod["status"].get("phase") != "Pending":
            return None
        about = self._name(self._pod) if self._there else self._job
        events = self._ask(lambda: self._kubectl.listed("events", "--field-selector", f"involvedObject.name={about}"))
        return trouble.trouble(self._pod, events) if self._there else trouble.unborn(events)

    def _ask(self, question: Callable[[], T]) -> T:
        return patience.answered(question, self._job)

    def _judge(self, end: str) -> None:
        """Raise the error that ended the Job, if one did."""
        if not end:
            return
        found = trouble.ended(self._pod)
        if oom := trouble.out_of_memory(self._pod):
            raise type(oom)(f"{self._step.name}: {oom.message}", oom.remedy)
        if found is None:
            raise FailedError(f"{self._step.name}: the Job failed: {end}", f"see {self._log}, then the same command again")
        name, terminated = found
        self._events.error = self._events.error or last_event(terminated)
        if not self._events.error and terminated.get("message") and not self._log.stat().st_size:
            self._log.write_text(str(terminated["message"]), encoding="utf-8")
        try:
            self._events.judge(self._step, int(terminated["exitCode"]), Task({}, Path(), Path(), self._log))
        except ThinkshipError as error:
            first, line, rest = error.message.partition("\n")
            after = f" (in {name}; {end})" if int(terminated["exitCode"]) > 127 else ""
            raise type(error)(first + after + line + rest, error.remedy) from None

    @staticmethod
    def _name(pod: Mapping[str, Any]) -> str:
        return str(pod["metadata"]["name"])


def ending(job: Mapping[str, Any]) -> str | None:
    """Return how a Job ended: empty where it is complete, Kubernetes' words where it failed; None while it works."""
    condition = _last_condition(job)
    if condition is None:
        return None
    return "" if condition["type"] == "Complete" else str(condition.get("message") or condition.get("reason") or "it failed")


def ended_before(job: Mapping[str, Any], moment: str) -> bool:
    """Say whether a Job ended before a moment of the cluster's clock (RFC 3339, whole seconds, UTC)."""
    condition = _last_condition(job)
    return condition is not None and str(condition.get("lastTransitionTime", "")) < moment


def _last_condition(job: Mapping[str, Any]) -> Mapping[str, Any] | None:
    conditions = job.get("status", {}).get("conditions", ())
    return next((one for one in conditions if one["status"] == "True" and one["type"] in ("Complete", "Failed")), None)


def last_event(terminated: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the error event among a container's last words, as its pod's status keeps them."""
    for line in reversed(str(terminated.get("message", "")).splitlines()):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "error":
            return {"message": str(event["message"]), "remedy": str(event["remedy"])}
    return None
