"""kubectl's words, as a program on PATH says them, become answers and errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from toolkit.errors import FailedError, NotReadyError
from toolkit.kubectl import Kubectl, UnreachableError
from toolkit.runners.kubernetes.stream import Stream

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """says(script) puts a kubectl on PATH that runs a line of shell."""

    def put(script: str) -> Kubectl:
        program = tmp_path / "kubectl"
        program.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return Kubectl("team")

    return put


def test_an_object_is_there_or_not(says, tmp_path):
    assert says("""echo '{"kind": "Job"}'""").get("job", "x") == {"kind": "Job"}
    assert says("echo 'Error from server (NotFound): jobs.batch \"x\" not found' >&2; exit 1").get("job", "x") is None
    assert "--namespace team get job x --output json" in (tmp_path / "asked").read_text()


def test_what_is_made_twice_is_made_once(says):
    assert says("cat $5 >/dev/null").create(POD) is True
    assert says("echo 'Error from server (AlreadyExists): pods \"p\" already exists' >&2; exit 1").create(POD) is False


@pytest.mark.parametrize(
    ("words", "kind", "told"),
    [
        ("Unable to connect to the server: net/http: TLS handshake timeout", UnreachableError, "cannot be reached"),
        ("The connection to the server 10.0.0.1:6443 was refused - did you specify the right host or port?", UnreachableError, "cannot be reached"),
        ("Error from server: etcdserver: request timed out", UnreachableError, "cannot be reached"),
        ('Error from server (Forbidden): pods is forbidden: User "x" cannot create', NotReadyError, "the cluster refuses to create pods"),
        ("error: the server doesn't have a resource type", FailedError, "kubectl did not create pods"),
    ],
)
def test_a_refusal_is_one_error(says, words, kind, told):
    with pytest.raises(kind, match=told) as error:
        says(f'echo "{words}" >&2; exit 1').create(POD)
    assert type(error.value) is kind and error.value.remedy


def test_a_container_is_read_line_by_line_and_once(says, tmp_path):
    lines: list[str] = []
    first = "2026-01-01T00:00:01.000000001Z"
    stream = Stream(says(f"echo '{first} one'; echo 'unable to retrieve container logs'; exit 1"), "p", "stage", lines.append)
    assert stream.follow(tmp_path / "errors") is False and lines == ["one"]
    says(f"echo '{first} one'; echo '{first} beside it'; echo '2026-01-01T00:00:01.000000002Z two'")
    assert stream.follow(tmp_path / "errors") is True and lines == ["one", "beside it", "two"]
    assert f"--since-time {first}" in (tmp_path / "asked").read_text()
