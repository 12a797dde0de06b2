"""A real Prometheus with compose's own configuration beside a real llama.cpp server and `thinkship watch`: every panel that can have data has it, and
the engine's end is an alert.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ports import free_port
from promtool import RULES
from skips import skip_or_fail

from toolkit.runners.environment import Environment
from toolkit.stages import IMAGES, ROOT

THINKING = (
    "{% for message in messages %}{% if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ message.content }}\n{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}"
)
"""A template that opens the thinking: whatever a model of random weights says is reasoning then. llama.cpp learns the tags from how a template writes
past reasoning down; from one that only opens them it learns nothing, and all is content.
"""
KEY = "sesame"


@dataclass(frozen=True)
class Watched:
    """What runs: the engine's process, and Prometheus' address."""

    engine: subprocess.Popen[bytes]
    url: str

    def ask(self, path: str, **words: str) -> Any:
        """Return the data of an answer of Prometheus' API."""
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(words)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def values(self, query: str) -> list[dict[str, Any]]:
        """Return what a query of the dashboard finds, over every engine and ten seconds."""
        return list(self.ask("query", query=query.replace("$__rate_interval", "10s").replace("$service", ".+"))["result"])

    def firing(self) -> set[str]:
        """Return the alerts that wake somebody up."""
        return {one["labels"]["alertname"] for one in self.ask("alerts")["alerts"] if one["state"] == "firing"}


def wait(what: Callable[[], Any], seconds: float = 40) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.2)
    return found


@contextmanager
def running(*words: str, log: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as sink, subprocess.Popen(words, stdout=sink, stderr=sink, env={**os.environ, **env}, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two random layers that thinks."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    sys.path.insert(0, str(IMAGES / "llamacpp"))
    try:
        selftest = importlib.import_module("selftest")
        selftest.TEMPLATE = THINKING
        selftest.write_gguf(path)
    finally:
        sys.path.remove(str(IMAGES / "llamacpp"))
        for name in ("selftest", "healthcheck"):
            sys.modules.pop(name, None)
    return path


def configuration(folder: Path, engine: int, watch: int, own: int) -> Path:
    """Write compose's configuration with this machine's addresses for compose's names, and once a second for once in 15."""
    found = yaml.safe_load((ROOT / "compose" / "monitoring" / "prometheus.yaml").read_text(encoding="utf-8"))
    jobs = {job["job_name"]: job for job in found["scrape_configs"]}
    assert set(jobs) == {"vllm", "llamacpp", "watch", "prometheus"}
    jobs["llamacpp"].pop("dns_sd_configs")
    for name, number in {"llamacpp": engine, "watch": watch, "prometheus": own}.items():
        jobs[name]["static_configs"] = [{"targets": [f"127.0.0.1:{number}"]}]
    jobs["llamacpp"]["authorization"]["credentials_file"] = str(folder / "api_key")
    found |= {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [str(RULES)]}
    found["scrape_configs"] = [jobs[name] for name in ("llamacpp", "watch", "prometheus")]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(found), encoding="utf-8")
    return folder / "prometheus.yaml"


@pytest.fixture(scope="module")
def watched(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    program = shutil.which("prometheus") or skip_or_fail("prometheus is not here: apt-get install prometheus")
    python = Environment("llamacpp").install()
    folder = tmp_path_factory.mktemp("watched")
    (folder / "api_key").write_text(KEY)
    engine, watch, own = free_port(), free_port(), free_port()
    url, key = f"http://localhost:{engine}/v1", str(folder / "api_key")
    serve = (str(python), str(IMAGES / "llamacpp" / "serve.py"), "--model", str(gguf), "--alias", "tiny", "--port", str(engine))
    probe = (sys.executable, "-m", "toolkit.cli", "watch", "--url", url, "--model", "tiny", "--every", "1", "--port", str(watch))
    prometheus = (program, f"--config.file={configuration(folder, engine, watch, own)}", f"--storage.tsdb.path={folder / 'state'}")
    with ExitStack() as stack:
        server = stack.enter_context(running(*serve, "--context", "256", "--parallel", "2", log=folder / "engine.log", API_KEY_FILE=key))
        wait(lambda: reached(engine), 60)
        stack.enter_context(running(*probe, "--api-key-file", key, "--max-tokens", "40", "--timeout", "30", log=folder / "watch.log"))
        stack.enter_context(running(*prometheus, f"--web.listen-address=127.0.0.1:{own}", log=folder / "prometheus.log"))
        wait(lambda: ready(own))
        yield Watched(server, f"http://127.0.0.1:{own}")


def reached(number: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", number)) == 0


def ready(number: int) -> bool:
    """Return whether Prometheus answers questions: its port is open before its storage is, and all is 503 until then."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{number}/-/ready", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:  # it is not up yet
        return False


def queries() -> list[str]:
    panels = json.loads((ROOT / "charts" / "thinkship" / "files" / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_everything_is_scraped_with_the_key_and_the_rules_are_loaded(watched: Watched) -> None:
    def up() -> bool:
        targets = watched.ask("targets")["activeTargets"]
        return len(targets) == 3 and all(target["health"] == "up" for target in targets)

    wait(up)
    assert sum(len(group["rules"]) for group in watched.ask("rules")["groups"]) >= 13


def test_every_panel_has_the_data_of_a_real_run(watched: Watched) -> None:
    """vLLM's and a GPU's are not here; an engine's own figures are told by its name, the probe's by the host that it asks."""
    here = [query for query in queries() if "vllm:" not in query and "gpu" not in query.lower() and "DCGM" not in query]
    assert len(here) >= 11
    for query in here:
        found = wait(lambda query=query: watched.values(query), 30)
        assert {one["metric"]["service"] for one in found} == {"llamacpp" if "llamacpp:" in query else "localhost"}, query
    assert wait(lambda: [one for one in watched.values("thinkship_thinks") if one["value"][1] == "1"])
    (length,) = watched.values("thinkship_thinking_characters")
    assert float(length["value"][1]) > 0


def test_a_dead_engine_is_an_alert(watched: Watched) -> None:
    assert not {"ThinkshipDoesNotAnswer", "ThinkshipDoesNotThink", "ThinkshipNobodyWatches"} & watched.firing()
    watched.engine.kill()
    wait(lambda: "ThinkshipDoesNotAnswer" in watched.firing(), 30)
    assert "ThinkshipDoesNotThink" not in watched.firing()
