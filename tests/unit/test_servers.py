from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_serving import TARGET, broken

from toolkit import servers
from toolkit.errors import FailedError
from toolkit.servers import Server, read_state


def test_a_server_in_the_background_that_dies_leaves_no_state(tmp_path):
    place = broken(tmp_path, "raise SystemExit('bad gguf')")
    with pytest.raises(FailedError, match="bad gguf"):
        servers.start("llamacpp", TARGET, place, tmp_path / "servers")
    assert not list((tmp_path / "servers").glob("*.json")) and servers.running(tmp_path / "servers") == ()


def state(tmp_path: Path, pid: int, started: int) -> Path:
    server = Server(engine="vllm", url="http://127.0.0.1:1/v1", model="m", pid=pid, started=started, log=tmp_path / "log")
    path = tmp_path / "vllm.json"
    path.write_text(server.model_dump_json())
    return path


def test_a_recycled_process_id_is_never_stopped(tmp_path):
    state(tmp_path, os.getpid(), started=1)
    assert servers.stop(tmp_path) == ()
    assert not (tmp_path / "vllm.json").exists()


def test_a_live_server_is_found_by_its_state(tmp_path):
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    assert read_state(state(tmp_path, os.getpid(), int(fields[19]))) is not None


@pytest.mark.parametrize("content", ["", "{", "{}", '{"pid": "x"}'])
def test_a_damaged_state_counts_as_none(tmp_path, content):
    path = tmp_path / "vllm.json"
    path.write_text(content)
    assert read_state(path) is None
