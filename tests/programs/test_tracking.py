"""A training reports to real trackers, read back with their own readers; a killed and resumed one goes on in the run it had."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pinned
import pytest
from conftest import program_environment
from ports import free_port
from training import PROGRAMS, losses, tiny_recipe

from toolkit.runners.environment import Environment

pytestmark = pytest.mark.long  # environments of their own, gigabytes

HERE = Path(__file__).parent
KEY = "0123456789abcdef0123456789abcdef01234567"
"""What a W&B key looks like."""


@pytest.fixture(scope="module")
def tracking_python() -> Path:
    return Environment("train", "tracking.lock").install()


def start(python: Path, inputs: dict[str, Path], folder: Path, recipe: dict[str, Any], **settings: str) -> subprocess.Popen[str]:
    for name in ("output", "scratch"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    places = {"inputs": {name: str(path) for name, path in inputs.items()}, "output": str(folder / "output"), "scratch": str(folder / "scratch")}
    (folder / "args.json").write_text(json.dumps({**places, "recipe": recipe}))
    command = (str(python), str(PROGRAMS / "train.py"), str(folder / "args.json"))
    environment = {**program_environment(), "HOME": str(folder), **settings}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def killed_and_resumed(python: Path, inputs: dict[str, Path], folder: Path, track: str, **settings: str) -> Path:
    """Train with a tracker, kill the training after its checkpoint of step 2, and train again to the end."""
    recipe = tiny_recipe(track=[track], checkpoint_steps=2, eval_steps=3)
    first = start(python, inputs, folder, recipe, **settings)
    assert first.stdout
    for line in first.stdout:
        event = json.loads(line) if line.startswith('{"event"') else {}
        if event.get("event") == "progress" and event["done"] >= 3:
            break
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    shutil.rmtree(folder / "output")
    output, errors = (second := start(python, inputs, folder, recipe, **settings)).communicate(timeout=240)
    assert second.returncode == 0, output[-1000:] + errors[-3000:]
    assert "goes on from checkpoint-2" in output
    return folder / "output"


def read(python: Path, script: str, *words: str) -> Any:
    done = subprocess.run((str(python), "-c", script, *words), capture_output=True, text=True, env=program_environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


WANDB = """
import json, sys
from pathlib import Path
from wandb.proto import wandb_internal_pb2 as pb

def records(path):  # LevelDB's log format behind seven bytes of W&B's own: blocks of 32 KiB, in them pieces with checksum, length and kind
    data, at, whole = Path(path).read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if left < 7 or kind == 0:
            at += left
            continue
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or a record's last piece
            yield pb.Record.FromString(whole)
            whole = b""

rows, ids, config = [], set(), {}
for record in (record for path in sys.argv[1:] for record in records(path)):
    if record.HasField("run"):
        ids.add(record.run.run_id)
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    if record.HasField("history"):
        rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item})
print(json.dumps({"ids": sorted(ids), "rows": rows, "config": config}))
"""


def test_wandb_offline(tracking_python: Path, tiny_inputs: dict[str, Path], tmp_path: Path) -> None:
    output = killed_and_resumed(tracking_python, tiny_inputs, tmp_path, "wandb", WANDB_API_KEY=KEY)
    files = sorted((output / "tracking").rglob("*.wandb"))
    found = read(tracking_python, WANDB, *map(str, files))
    assert len(files) == 1 and found["ids"] == [(output / "tracking" / "wandb.id").read_text()]
    reported = {row["step"]: row["loss"] for row in found["rows"] if "loss" in row}
    assert list(reported.values()) == losses(output) and list(reported) == [1, 2, 3, 4, 5, 6]
    assert any("eval_loss" in row for row in found["rows"])
    assert found["config"]["lora.rank"] == 4
    everything = [path for path in output.rglob("*") if path.is_file()]
    assert [path for path in everything if KEY.encode() in path.read_bytes()] == [] and not [path for path in everything if path.is_symlink()]


TENSORBOARD = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
seen = EventAccumulator(sys.argv[1])
seen.Reload()
print(json.dumps({name: [[event.step, event.value] for event in seen.Scalars(name)] for name in seen.Tags()["scalars"]}))
"""


def test_tensorboard(tracking_python: Path, tiny_inputs: dict[str, Path], tmp_path: Path) -> None:
    output = killed_and_resumed(tracking_python, tiny_inputs, tmp_path, "tensorboard")
    found = read(tracking_python, TENSORBOARD, str(output / "tracking" / "tensorboard"))
    assert [step for step, _ in found["loss"]] == [1, 2, 3, 4, 5, 6], "a step that was done twice stands there once"
    assert [value for _, value in found["loss"]] == pytest.approx(losses(output), rel=1e-6)
    assert {"grad_norm", "tokens_per_second", "learning_rate", "eval_loss"} <= set(found)


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run MLflow's own server on a SQLite database, from a locked environment of its own."""
    folder = pinned.environment(HERE / "mlflow.lock", "mlflow")
    work = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    stores = ("--backend-store-uri", f"sqlite:///{work / 'mlflow.db'}", "--artifacts-destination", str(work / "artifacts"))
    command = (str(folder / "bin" / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *stores)
    with (work / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=work, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, work / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(log.read_text()[-3000:])


def asked(server: str, path: str, **body: Any) -> Any:
    request = urllib.request.Request(f"{server}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_mlflow(mlflow_server: str, tracking_python: Path, tiny_inputs: dict[str, Path], tmp_path: Path) -> None:
    output = killed_and_resumed(tracking_python, tiny_inputs, tmp_path, "mlflow", MLFLOW_TRACKING_URI=mlflow_server)
    (experiment,) = [found for found in asked(mlflow_server, "experiments/search", max_results=10)["experiments"] if found["name"] == "thinkship"]
    (run,) = asked(mlflow_server, "runs/search", experiment_ids=[experiment["experiment_id"]])["runs"]
    assert run["info"]["status"] == "FINISHED"
    with urllib.request.urlopen(f"{mlflow_server}/api/2.0/mlflow/metrics/get-history?run_id={run['info']['run_id']}&metric_key=loss") as answer:
        history = json.load(answer)["metrics"]
    reported = {metric["step"]: metric["value"] for metric in history}
    assert [reported[step] for step in sorted(reported)] == pytest.approx(losses(output))
    assert {"key": "lora.rank", "value": "4"} in run["data"]["params"]


def test_mlflow_without_an_address_is_refused_before_the_model_is_loaded(
    tracking_python: Path, tiny_inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    inputs = {**tiny_inputs, "base": tmp_path / "nowhere"}
    run = start(tracking_python, inputs, tmp_path, tiny_recipe(track=["mlflow"]))
    output, errors = run.communicate(timeout=240)
    assert run.returncode == 4, errors[-3000:]
    assert "mlflow needs MLFLOW_TRACKING_URI" in output


def test_a_server_that_is_not_there_is_said_before_the_training(tracking_python: Path, tiny_inputs: dict[str, Path], tmp_path: Path) -> None:
    secret = "http://someone:secret@127.0.0.1:9"  # the discard port: nobody listens
    run = start(tracking_python, tiny_inputs, tmp_path, tiny_recipe(track=["mlflow"]), MLFLOW_TRACKING_URI=secret)
    output, errors = run.communicate(timeout=240)
    assert run.returncode == 4, errors[-3000:]
    assert "MLflow at http://***@127.0.0.1:9 refuses" in output and "secret" not in output
    assert '"progress"' not in output
