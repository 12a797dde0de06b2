"""The scripts inside the serving images, against stand-ins: what they ask, what they say, and what they do not do twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from toolkit.stages import IMAGES

PYTHON, BASH = IMAGES / "llamacpp" / "healthcheck.py", IMAGES / "ollama" / "healthcheck.sh"
OPENAI = {"/v1/models": {"data": [{"id": "demo"}]}, "/v1/chat/completions": {"model": "demo", "usage": {"completion_tokens": 1}}}
OLLAMA = {"/api/chat": {"done": True, "eval_count": 1}, "/api/version": {"version": "0.33.0"}}


@contextmanager
def stand_in(replies: dict[str, object], key: str = "") -> Iterator[int]:
    """A server on this machine that gives `replies` by path, to those who bring the key."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            allowed = not key or self.headers.get("Authorization") == f"Bearer {key}"
            body = json.dumps(replies.get(self.path, {})).replace(": ", ":").encode()
            self.send_response(200 if allowed and self.path in replies else 401 if not allowed else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815 (http.server's names)

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def check(program: Path, port: int, **environment: str) -> tuple[int, str]:
    argv = [sys.executable, str(program)] if program.suffix == ".py" else ["bash", str(program)]
    done = subprocess.run([*argv, str(port)], env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_model_that_answers_is_healthy():
    with stand_in(OPENAI) as port:
        assert check(PYTHON, port) == (0, "demo answers\n")
    with stand_in(OLLAMA) as port:
        assert check(BASH, port, MODEL_NAME="demo") == (0, "demo answers\n")
        assert check(BASH, port) == (0, "ollama answers\n")


def test_the_key_comes_from_a_file(tmp_path):
    (tmp_path / "key").write_text("s3cret\n")
    with stand_in(OPENAI, key="s3cret") as port:
        assert check(PYTHON, port, API_KEY_FILE=str(tmp_path / "key"))[0] == 0
        code, words = check(PYTHON, port)
        assert code == 1 and "401" in words


@pytest.mark.parametrize("program", [PYTHON, BASH])
def test_a_server_without_the_model_is_not_healthy(program):
    with stand_in({"/v1/models": {"data": []}}) as port:
        assert check(program, port, MODEL_NAME="demo")[0] == 1


@pytest.mark.parametrize("program", [PYTHON, BASH])
def test_where_nothing_listens_nothing_is_healthy(program):
    with stand_in({}) as port:
        pass
    assert check(program, port, MODEL_NAME="demo")[0] == 1


def test_an_answer_without_a_token_is_not_healthy():
    with stand_in({**OPENAI, "/v1/chat/completions": {"model": "demo", "usage": {"completion_tokens": 0}}}) as port:
        assert check(PYTHON, port)[0] == 1
    with stand_in({"/api/chat": {"done": True}}) as port:
        assert check(BASH, port, MODEL_NAME="demo")[0] == 1


FAKE = """#!/bin/bash
echo "$OLLAMA_HOST $*" >>"$CALLS"
case $1 in
  serve) exec python3 -c "import socket, time; server = socket.create_server(('127.0.0.1', 11435)); time.sleep(60)" ;;
  create) exit "${CREATE_CODE:-0}" ;;
esac
"""


@pytest.fixture
def ollama(tmp_path):
    """ollama(...) runs the image's entry point with a stand-in for Ollama; its calls are in `calls`."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ollama").write_text(FAKE)
    (tmp_path / "bin" / "ollama").chmod(0o755)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "Modelfile").write_text("FROM model.gguf\n")
    places = {"MODELFILE": str(tmp_path / "Modelfile"), "OLLAMA_MODELS": str(tmp_path / "models"), "CALLS": str(tmp_path / "calls")}
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PATH": path, "OLLAMA_HOST": "0.0.0.0:11434", "MODEL_NAME": "demo", **places, **environment}
        argv = ["bash", str(IMAGES / "ollama" / "entrypoint.sh"), *arguments]
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=30)

    return run


def calls(tmp_path: Path) -> list[str]:
    path = tmp_path / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_a_model_is_created_once_and_behind_a_closed_door(ollama, tmp_path):
    assert ollama("create").returncode == 0
    assert calls(tmp_path) == ["127.0.0.1:11435 serve", f"127.0.0.1:11435 create demo -f {tmp_path / 'Modelfile'}"]
    assert ollama("create").returncode == 0 and len(calls(tmp_path)) == 2


def test_a_changed_modelfile_is_created_again(ollama, tmp_path):
    ollama("create")
    (tmp_path / "Modelfile").write_text("FROM model.gguf\nSYSTEM x\n")
    assert ollama("create").returncode == 0 and len(calls(tmp_path)) == 4


def test_a_creation_that_failed_is_tried_again(ollama, tmp_path):
    done = ollama("create", CREATE_CODE="1")
    assert done.returncode == 4 and "error: ollama refuses" in done.stderr
    assert ollama("create").returncode == 0 and len(calls(tmp_path)) == 4


def test_a_missing_gguf_is_an_error_and_not_a_download(ollama, tmp_path):
    (tmp_path / "model.gguf").unlink()
    done = ollama("create")
    assert done.returncode == 4 and "error: FROM in" in done.stderr and "fix: " in done.stderr and calls(tmp_path) == []


def test_a_missing_modelfile_and_a_missing_name_are_errors(ollama, tmp_path):
    assert ollama("create", MODELFILE="/nowhere").returncode == 4
    assert "MODEL_NAME is not set" in ollama("create", MODEL_NAME="").stderr
    assert calls(tmp_path) == []


def test_other_words_are_ollamas_own(ollama, tmp_path):
    ollama("list", "--all")
    assert calls(tmp_path) == ["0.0.0.0:11434 list --all"]


def test_a_key_file_that_is_empty_or_missing_keeps_vllm_from_starting(tmp_path):
    (tmp_path / "empty").touch()
    for name, words in (("empty", "holds no API key"), ("missing", "cannot be read")):
        env = {**os.environ, "API_KEY_FILE": str(tmp_path / name)}
        done = subprocess.run([sys.executable, str(IMAGES / "vllm" / "serve.py")], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and words in done.stderr and "fix: " in done.stderr
