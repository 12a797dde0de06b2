"""A real Prometheus with a real kube-state-metrics, which watches one deployment by the chart's own rules: for what would somebody be woken up?

Scraped and evaluated each second, where the chart says each 30; how long a rule waits (`for`) is as in the chart. Debian's Prometheus is built
without Kubernetes' service discovery: which pods there are is read from kube-state-metrics.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes import Namespace, rendered, wait_for
from ports import free_port
from repeating import repeating
from skips import skip_or_fail

KUBE_STATE_METRICS = "kube-state-metrics-2.18.0"
KUBECONFIG = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
PODS = {"engine": r"demo-llamacpp-\w+-\w+:8080", "watch": r"demo-llamacpp-watch-\w+-\w+:9177"}
"""Job -> a pod's name and its port."""
INFO = re.compile(r"^kube_pod_info\{(.*)\} 1$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Alerts:
    """A running Prometheus."""

    url: str
    waits: dict[str, str]
    """Alert -> how long it is pending before it fires, as the chart says."""

    def ask(self, query: str, at: float) -> list[dict[str, Any]]:
        """Return what PromQL gives at a time."""
        words = urllib.parse.urlencode({"query": query, "time": at})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{words}", timeout=20) as reply:
            return list(json.load(reply)["data"]["result"])

    def firing(self, name: str) -> bool:
        """Whether an alert fires now."""
        return bool(self.ask(f'ALERTS{{alertname="{name}",alertstate="firing"}}', time.time()))

    def since(self, began: float) -> dict[tuple[str, str], float]:
        """Return (alert, pending or firing) -> seconds after `began` at which it came, without what was there before."""
        before = {_key(one) for one in self.ask("ALERTS", began)}
        now = time.time()
        found = self.ask(f"ALERTS[{math.ceil(now - began)}s]", now)
        return {_key(one): min(float(at) for at, _ in one["values"]) - began for one in found if _key(one) not in before}

    def told(self, began: float) -> str:
        """Say in a table's words what fired, else what was pending."""
        found = self.since(began)
        fired = [f"{name} after {at:.0f} s" for (name, state), at in found.items() if state == "firing"]
        pending = [f"{name} pending, fires after {self.waits[name]}" for name, state in found if state == "pending"]
        return "; ".join(fired) or (f"no ({'; '.join(pending)})" if pending else "no")


def _key(one: dict[str, Any]) -> tuple[str, str]:
    return one["metric"]["alertname"], one["metric"]["alertstate"]


@contextmanager
def watching(namespace: Namespace, values: dict[str, Any], key: str, folder: Path) -> Iterator[Alerts]:
    """Watch the release demo of one namespace while the block runs, by the rules that the chart renders for these values."""
    objects = rendered({**values, "monitoring": {**values["monitoring"], "rules": True}}, "--namespace", namespace.name)
    groups = [group for one in objects["PrometheusRule"] for group in one["spec"]["groups"]]
    state, page = free_port(), free_port()
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration(key, state)))
    asked = ("--kubeconfig", KUBECONFIG, "--namespaces", namespace.name, "--resources", "deployments,pods")
    places = ("--host", "127.0.0.1", "--port", str(state), "--telemetry-host", "127.0.0.1", "--telemetry-port", str(free_port()))
    server = (program("prometheus"), f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}")
    with ExitStack() as running:
        running.enter_context(_running((state_metrics(), *asked, *places), folder / "state.log"))
        running.enter_context(repeating(lambda: discover(namespace.name, state, folder), 1.0))
        running.enter_context(_running((*server, f"--web.listen-address=127.0.0.1:{page}"), folder / "prometheus.log"))
        alerts = Alerts(f"http://127.0.0.1:{page}", {rule["alert"]: rule.get("for", "0s") for group in groups for rule in group["rules"]})
        wait_for(lambda: _sees(alerts, namespace.name), 60, f"Prometheus sees all that the rules ask for ({folder})")
        yield alerts


def _sees(alerts: Alerts, namespace: str) -> bool:
    """Whether each kind of figure that the rules ask for is there, so that silence means that nothing is wrong."""
    wanted = (
        f'llamacpp:requests_deferred{{namespace="{namespace}",service="demo-llamacpp"}}',
        f'thinkship_up{{namespace="{namespace}",service="demo-llamacpp"}}',
        f'kube_deployment_status_replicas_ready{{namespace="{namespace}",deployment="demo-llamacpp"}}',
        f'kube_pod_container_status_restarts_total{{namespace="{namespace}",container="llamacpp"}}',
    )
    try:
        return all(alerts.ask(query, time.time()) for query in wanted)
    except OSError:  # it is not up yet
        return False


def configuration(key: str, state: int) -> dict[str, Any]:
    """Return Prometheus' configuration: what its operator makes of the chart's ServiceMonitor and PodMonitor, and kube-state-metrics."""
    jobs: list[dict[str, Any]] = [{"job_name": name, "file_sd_configs": [{"files": [f"{name}.json"], "refresh_interval": "1s"}]} for name in PODS]
    jobs[0]["authorization"] = {"credentials": key}
    jobs.append({"job_name": "state", "honor_labels": True, "static_configs": [{"targets": [f"127.0.0.1:{state}"]}]})
    return {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": ["rules.yaml"], "scrape_configs": jobs}


def discover(namespace: str, state: int, folder: Path) -> None:
    """Tell Prometheus which pods there are, with the labels that the operator gives them."""
    with suppress(OSError):  # it is not up yet
        with urllib.request.urlopen(f"http://127.0.0.1:{state}/metrics", timeout=10) as reply:
            pods = [dict(LABEL.findall(found)) for found in INFO.findall(reply.read().decode())]
        for job, pattern in PODS.items():
            name, _, port = pattern.partition(":")
            here = [pod for pod in pods if pod["pod_ip"] and re.fullmatch(name, pod["pod"])]
            own = {"namespace": namespace, "service": "demo-llamacpp"}
            targets = [{"targets": [f"{pod['pod_ip']}:{port}"], "labels": {**own, "pod": pod["pod"]}} for pod in here]
            (folder / f"{job}.draft").write_text(json.dumps(targets))
            (folder / f"{job}.draft").replace(folder / f"{job}.json")


def program(name: str) -> str:
    """Return where a program is."""
    return shutil.which(name) or skip_or_fail(f"{name} is not here: apt-get install {name}")


def state_metrics() -> str:
    """Return where kube-state-metrics is: on PATH, or where state_metrics.sh builds it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    built = cache / "thinkship" / "tools" / KUBE_STATE_METRICS / "kube-state-metrics"
    found = shutil.which("kube-state-metrics") or (str(built) if built.is_file() else None)
    return found or skip_or_fail("kube-state-metrics is not here: tests/cluster/state_metrics.sh builds it")


@contextmanager
def _running(argv: tuple[str, ...], log: Path) -> Iterator[None]:
    with log.open("w") as out, subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            yield
        finally:
            process.terminate()
