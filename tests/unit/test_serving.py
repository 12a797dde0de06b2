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
from toolkit.places import Machine, Place
from toolkit.serving import detect, health, pick_port


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


def broken(tmp_path: Path, program: str) -> Place:
    """A machine on which llama.cpp's server is another program."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "serve.py").write_text(program)
    return Machine(Tools({"llamacpp": Path(sys.executable)}, tmp_path / "images", tmp_path / "scratch"))


TARGET = Target("m", 64, 1, "qwq", "f16", gguf=Path("model.gguf"))


def test_a_server_that_dies_is_reported_with_its_last_words(tmp_path):
    place = broken(tmp_path, "raise SystemExit('no such file: model.gguf')")
    words = r"ended with exit code 1 before it was ready\nno such file: model.gguf"
    with pytest.raises(FailedError, match=words), serving.serving("llamacpp", TARGET, place, tmp_path / "log"):
        pytest.fail("a dead server must not be handed out")


def test_a_server_that_never_gets_ready_is_ended(tmp_path, monkeypatch):
    from toolkit.engines import llamacpp

    monkeypatch.setattr(llamacpp.LlamaCpp, "startup_seconds", 1.2)
    pid = tmp_path / "pid"
    place = broken(tmp_path, f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)")
    with pytest.raises(FailedError, match="was not ready in time"), serving.serving("llamacpp", TARGET, place, tmp_path / "log"):
        pytest.fail("a server that is not ready must not be handed out")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


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
