# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from loopback import completion, send, serve

from toolkit import serving
from toolkit.engines import Target, Tools
from toolkit.errors import FailedError, NotReadyError
from toolkit.serving import Server, detect, health, pick_port, read_state


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_in_use_is_named_with_its_remedy(taken):
    with pytest.raises(NotReadyError, match=f"port {taken} of 127.0.0.1 cannot be used") as problem:
        pick_port(taken)
    assert "--port" in problem.value.remedy


def test_a_free_port_is_found():
    assert 1024 <= pick_port() <= 65535


def broken_tools(tmp_path: Path, program: str) -> Tools:
    (tmp_path / "images" / "llamacpp").mkdir(parents=True)
    (tmp_path / "images" / "llamacpp" / "serve.py").write_text(program)
    return Tools({"llamacpp": Path(sys.executable)}, tmp_path / "images", tmp_path / "scratch")


TARGET = Target("m", 64, 1, "qwq", "f16", gguf=Path("model.gguf"))


def test_a_server_that_dies_is_reported_with_its_last_words(tmp_path):
    tools = broken_tools(tmp_path, "raise SystemExit('no such file: model.gguf')")
    words = r"ended with exit code 1 before it was ready\nno such file: model.gguf"
    with pytest.raises(FailedError, match=words), serving.serving("llamacpp", TARGET, tools, tmp_path / "log"):
        pytest.fail("a dead server must not be handed out")


def test_a_server_in_the_background_that_dies_leaves_no_state(tmp_path):
    tools = broken_tools(tmp_path, "raise SystemExit('bad gguf')")
    with pytest.raises(FailedError, match="bad gguf"):
        serving.start_background("llamacpp", TARGET, tools, tmp_path / "servers")
    assert not list((tmp_path / "servers").glob("*.json")) and serving.running(tmp_path / "servers") == ()


def test_a_server_that_never_gets_ready_is_ended(tmp_path, monkeypatch):
    from toolkit.engines import llamacpp

    monkeypatch.setattr(llamacpp.LlamaCpp, "startup_seconds", 0.5)
    pid = tmp_path / "pid"
    tools = broken_tools(tmp_path, f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)")
    with pytest.raises(FailedError, match="was not ready in time"), serving.serving("llamacpp", TARGET, tools, tmp_path / "log"):
        pytest.fail("a server that is not ready must not be handed out")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def state(tmp_path: Path, pid: int, started: int) -> Path:
    server = Server(engine="vllm", url="http://127.0.0.1:1/v1", model="m", pid=pid, started=started, log=tmp_path / "log")
    path = tmp_path / "vllm.json"
    path.write_text(server.model_dump_json())
    return path


def test_a_recycled_process_id_is_never_stopped(tmp_path):
    state(tmp_path, os.getpid(), started=1)
    assert serving.stop(tmp_path) == ()
    assert not (tmp_path / "vllm.json").exists()


def test_a_live_server_is_found_by_its_state(tmp_path):
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    assert read_state(state(tmp_path, os.getpid(), int(fields[19]))) is not None


@pytest.mark.parametrize("content", ["", "{", "{}", '{"pid": "x"}'])
def test_a_damaged_state_counts_as_none(tmp_path, content):
    path = tmp_path / "vllm.json"
    path.write_text(content)
    assert read_state(path) is None


@pytest.mark.parametrize(
    ("message", "thinks"), [({"content": "4"}, False), ({"content": None, "reasoning": "T"}, True), ({"content": "<think>T"}, True)]
)
def test_health_says_whether_the_model_thinks(serve, message, thinks):
    found = health(serve(lambda request: send(request, completion(message, "length"))), "m")
    assert (found.answers, found.thinks) == (True, thinks)


def test_health_says_why_nothing_answers():
    found = health("http://127.0.0.1:9/v1", "m")
    assert not found.answers and "cannot be reached" in found.message


@pytest.mark.parametrize(("owner", "engine"), [("vllm", "vllm"), ("llamacpp", "llamacpp"), ("library", "ollama"), ("me", "openai")])
def test_an_engine_is_recognised_by_its_models(serve, owner, engine):
    assert detect(serve(lambda request: send(request, f'{{"data": [{{"id": "m", "owned_by": "{owner}"}}]}}'))) == engine


@pytest.mark.parametrize("body", ["[]", "{}", "null", '{"data": ["m"]}'])
def test_an_odd_list_of_models_is_no_engine_of_ours(serve, body):
    assert detect(serve(lambda request: send(request, body))) == "openai"
