"""What a watch saw as Prometheus metrics: the text format and the page at which it is read."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from typing import Any

from toolkit.errors import NotReadyError
from toolkit.watch import Seen

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text-based exposition format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""


@dataclass(frozen=True)
class Metric:
    """One metric: its name, its type, what it says, and its values by one label, under an empty one where it has none."""

    name: str
    kind: str
    help: str
    values: Callable[[Seen], Mapping[str, float | None]]
    label: str = "outcome"


def _last(name: str) -> Callable[[Seen], Mapping[str, float | None]]:
    return lambda seen: {"": getattr(seen.last, name, None)}


def _gpus(name: str) -> Callable[[Seen], Mapping[str, float | None]]:
    return lambda seen: {gpu.index: getattr(gpu, name) for gpu in seen.gpus}


METRICS = (
    Metric("thinkship_up", "gauge", "1 where the last probe was answered, 0 where it was not.", _last("answers")),
    Metric("thinkship_thinks", "gauge", "1 where the last answer held reasoning, 0 where it did not.", _last("thinks")),
    Metric("thinkship_probe_seconds", "gauge", "Seconds that the last probe took, answered or not.", _last("seconds")),
    Metric("thinkship_first_token_seconds", "gauge", "Seconds to the first token of the last probe, if one came.", _last("first_token_seconds")),
    Metric("thinkship_thinking_characters", "gauge", "Characters of reasoning in the last answer.", _last("reasoning_characters")),
    Metric("thinkship_probes_total", "counter", "Probes since the watch began, by outcome.", lambda seen: seen.counts),
    Metric("thinkship_consecutive_failures", "gauge", "Probes since the last one with an answer that thinks.", lambda seen: {"": seen.failures}),
    Metric("thinkship_last_success_timestamp_seconds", "gauge", "Unix time of the last answer that thinks.", lambda seen: {"": seen.last_success}),
    Metric("thinkship_gpu_memory_used_bytes", "gauge", "Bytes in use of each GPU that nvidia-smi sees here.", _gpus("used"), "gpu"),
    Metric("thinkship_gpu_memory_bytes", "gauge", "Bytes of each GPU that nvidia-smi sees here.", _gpus("memory"), "gpu"),
)
"""Every metric; one that has no value yet is left out."""


def text(seen: Seen, labels: Mapping[str, str]) -> str:
    """Return the page; every line bears the labels."""
    return "".join(line for metric in METRICS for line in _lines(metric, seen, labels))


def _lines(metric: Metric, seen: Seen, labels: Mapping[str, str]) -> Iterator[str]:
    known = {label: value for label, value in metric.values(seen).items() if value is not None}
    if known:
        yield f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"
    for own, value in known.items():
        everything = {**labels, metric.label: own} if own else labels
        pairs = ",".join(f'{name}="{_escaped(label)}"' for name, label in everything.items())
        yield f"{metric.name}{{{pairs}}} {float(value)!r}\n"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


@contextmanager
def exporting(bind: str, port: int, page: Callable[[], str]) -> Iterator[str]:
    """Serve the page at /metrics while the block runs and yield its address; NotReadyError where the port cannot be used."""
    try:
        server = _Server((bind, port), type("_Bound", (_Handler,), {"page": staticmethod(page)}))
    except OSError as error:
        raise NotReadyError(f"port {port} of {bind} cannot be used: {error.strerror or error}", "choose another with --port or --bind") from error
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://{f'[{bind}]' if ':' in bind else bind}:{server.server_address[1]}/metrics"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = AF_INET6 if ":" in address[0] else AF_INET
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a reader that went away in the middle."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    page: Callable[[], str]
    timeout = 10  # seconds for a reader that sends nothing

    def do_GET(self) -> None:
        """Answer with the metrics, or with 404 where another page is asked for."""
        if self.path.partition("?")[0] != "/metrics":
            return self.send_error(404, "the metrics are at /metrics")
        body = type(self).page().encode()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing: the terminal is for what becomes of the model."""
