"""What the faults planted on a cluster share: one deployment under load, and the table of what each fault cost."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from alerts import Alerts
from kubernetes import Namespace, wait_for
from streams import Entry, Streams

MODEL, CLIENTS = "smollm2-demo", 8


@dataclass
class Seen:
    """What was seen of one fault."""

    streams: Streams
    began: float = field(default_factory=time.time)
    """When it was planted, in Unix time; a test that plants it later says so."""
    recovered: float = 0.0
    """Seconds until all was as before, as the test counts them."""

    @property
    def lost(self) -> list[Entry]:
        """The requests that failed."""
        return self.streams.failed


@dataclass
class Bench:
    """Two replicas of llama.cpp called demo, the values they were installed with, and the Prometheus that watches them."""

    namespace: Namespace
    given: dict[str, Any]
    url: str
    key: str
    alerts: Alerts

    def pods(self) -> list[dict[str, Any]]:
        """Return the engine's pods that are to stay."""
        return [pod for pod in self.namespace.pods("llamacpp") if not pod["metadata"].get("deletionTimestamp")]

    def ready(self) -> int:
        """Return how many replicas answer."""
        return int(self.namespace.get("deployment", "demo-llamacpp")["status"].get("readyReplicas", 0))

    def settled(self) -> bool:
        """Whether both replicas answer and no other pod is there, coming or going."""
        return self.ready() == 2 == len(self.namespace.pods("llamacpp"))

    def restarts(self) -> int:
        """Return how often engines were started again."""
        return sum(one["restartCount"] for pod in self.pods() for one in pod["status"].get("containerStatuses", ()))

    def newest(self) -> dict[str, Any]:
        """Return the pod that was made last."""
        return max(self.pods(), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def upgrade(self, values: dict[str, Any], *words: str, **how: Any) -> Any:
        """Give the deployment other values."""
        return self.namespace.deploy("demo", values, *words, **how)

    @contextmanager
    def load(self, fault: str) -> Iterator[Seen]:
        """Have eight clients stream while the block plants a fault and mends it; each has had an answer before and has another one after."""
        with Streams(self.url, MODEL, self.key, CLIENTS) as streams:
            wait_for(lambda: len({one.client for one in streams.log}) == CLIENTS, 120, "every client has had an answer")
            seen = Seen(streams)
            yield seen
            wait_for(self.settled, 120, "both replicas answer, and no other pod is left")
            asked = len(streams.log)
            wait_for(lambda: len({one.client for one in streams.log[asked:]}) == CLIENTS, 120, "every client goes on")
        TABLE.add(fault, len(streams.log), len(seen.lost), seen.recovered, self.alerts.told(seen.began))


@dataclass
class Table:
    """The rows by fault; of an earlier table those stay that this run had not."""

    rows: dict[str, str] = field(default_factory=dict)

    def add(self, fault: str, requests: int, failed: int, seconds: float, alert: str) -> None:
        """Keep a fault's row."""
        self.rows[fault] = f"| {fault} | {requests} | {failed} | {f'{seconds:.1f}' if seconds else '–'} | {alert} |"

    def text(self, before: str = "") -> str:
        """Return the section with its table."""
        rows = {**dict(re.findall(r"^(?=\| (.+?) \|)(.*)$", before, re.MULTILINE)), **self.rows}
        return SECTION.format(clients=CLIENTS, rows="\n".join(rows[fault] for fault in FAULTS if fault in rows))

    def write(self, path: Path) -> None:
        """Renew the section in a page whose last one it is."""
        page, _, section = path.read_text(encoding="utf-8").partition(f"\n{TITLE}\n")
        path.write_text(f"{page.rstrip()}\n\n{self.text(section)}", encoding="utf-8")


TABLE = Table()
TITLE = "## On a cluster"
FAULTS = (
    "rolling update",
    "wrong API key, 100 requests",
    "flood of long prompts",
    "engine killed with -9",
    "node drained, disruption budget holds",
    "memory limit too low, killed on each start",
    "volume too small for the model",
    "disk of 20 MB/s",
    "GPUs lost, one of two pods gone",
    "GPUs lost, both pods gone",
    "fleet of 20 replicas",
)
SECTION = f"""{TITLE}

Planted on a real one-node Kubernetes (2 cores) while {{clients}} clients stream one chat after another from two replicas of llama.cpp with the
demo's model, and try nothing twice. Failed are requests of theirs that had no whole answer; recovered is the time until both replicas answer again,
from the moment that the test names (`tests/cluster/test_faults.py`, which bounds each figure): from the kill, from the return of GPUs or node, from
taking an upgrade back; for the slow disk until the first new replica answers, for the rolling update and the fleet until all do. Both GPU pods go
without clients; each replica of the fleet is asked one question and must answer it right, with reasoning. Alerts are the chart's own, seen by a real
Prometheus with a real kube-state-metrics; it scrapes each second where the chart says each 30, and a rule waits as long as in the chart. An alert
that was only pending wakes nobody, as is right for what mends itself. An upgrade that stops at a volume too small is told when the new pods' time is
over (ThinkshipRolloutStuck), for which no fault here lasts. Written by `THINKSHIP_CLUSTER_FAULTS=docs/faults.md pytest tests/cluster/test_faults.py
tests/cluster/test_service.py`; a run of some of them renews their rows.

| fault | requests | failed | recovered after, s | alert fired |
| --- | --- | --- | --- | --- |
{{rows}}
"""


def seconds_to_ready(pod: dict[str, Any]) -> float:
    """Return how long a pod's engine took from its container's start to its first answer, as the cluster says it, to the second."""
    (running,) = (one["state"]["running"]["startedAt"] for one in pod["status"]["containerStatuses"])
    (ready,) = (one["lastTransitionTime"] for one in pod["status"]["conditions"] if one["type"] == "Ready")
    return (datetime.fromisoformat(ready) - datetime.fromisoformat(running)).total_seconds()
