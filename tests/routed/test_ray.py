"""Ray Serve LLM for real: the application of `export kuberay`, moved to CPUs, with two replicas behind one endpoint that is judged like an engine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pinned
import pytest
import yaml
from conftest import FIGURES, KEPT, REPLICAS, until_it_answers
from ports import free_port

from toolkit import process, serving
from toolkit.export import kuberay
from toolkit.export.fleet import Fleet
from toolkit.export.place import parse
from toolkit.export.served import MODELS, Served
from toolkit.process import Command

HERE = Path(__file__).parent
OWN = {"prompt", "tokens", "metrics", "errors"}
"""What vLLM alone would pass: Ray Serve LLM 2.60 renders and tokenises no chat, has its figures elsewhere, and refuses an unknown model in words of
its own."""
SECONDS = 420
"""To two vLLMs that answer, on two cores."""
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "RAY_DEDUP_LOGS": "0"}


def application(told: Served, store: Path) -> dict[str, Any]:
    """Return what is exported for GPUs, but for the place of the model and the words that say where it computes."""
    (service,) = kuberay.objects(Fleet(told, parse(f"hostpath://{store}"), replicas=REPLICAS, gpus=1))
    (one,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    (config,) = one["args"]["llm_configs"]
    config["model_loading_config"]["model_source"] = config["model_loading_config"]["model_source"].replace(str(MODELS), str(store))
    config["accelerator_config"] = {"kind": "cpu"}
    return one


@contextmanager
def serving_by_ray(config: dict[str, Any], folder: Path) -> Iterator[str]:
    """Run Ray on this machine and the application on it; yield its address when it answers."""
    programs = pinned.environment(HERE / "ray.lock", "ray") / "bin"
    head, port, session = free_port(), free_port(), folder / "ray"
    (folder / "serve.yaml").write_text(yaml.safe_dump({"http_options": {"host": serving.HOST, "port": port}, "applications": [config]}))
    flags = ("--head", "--block", f"--port={head}", "--num-cpus=8", "--include-dashboard=false", f"--temp-dir={session}", "--disable-usage-stats")
    env = {**ENVIRONMENT, "PATH": f"{programs}:/usr/bin:/bin"}
    start = Command((str(programs / "ray"), "start", *flags), env)
    run = Command((str(programs / "serve"), "run", str(folder / "serve.yaml"), f"--address={serving.HOST}:{head}"), env)
    with process.start(start, log=folder / "ray.log") as cluster, process.start(run, log=folder / "serve.log") as server:
        url = f"http://{serving.HOST}:{port}/v1"
        until_it_answers(f"{url}/models", SECONDS, cluster, server)
        yield url


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("r")  # Ray's sockets have no room for longer paths


def test_two_replicas_behind_one_endpoint_are_judged_like_one_engine_and_both_answer(told, store, verified, folder):
    with serving_by_ray(application(told, store.resolve()), folder) as url:
        passed, failed = verified(url, folder / "report.json")
    assert passed >= KEPT and set(failed) <= OWN, failed
    shares = [len(re.findall(r"CALL (?:chat|completions) OK", log.read_text(errors="replace"))) for log in folder.rglob("replica_*LLMServer*.log")]
    FIGURES.append(f"{sum(shares)} requests through Ray Serve: {', '.join(map(str, shares))} a replica")
    assert len(shares) == REPLICAS and min(shares) >= sum(shares) / 4, shares
