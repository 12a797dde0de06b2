# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""A server in this very process, whose memory stays flat or does not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from loopback import completion, send, serve

from toolkit import footprint
from toolkit.assessment import Soak
from toolkit.engines import Endpoint
from toolkit.engines.chat import Chat
from toolkit.verify import Expectations, Finding, memory

SOAK = Expectations(soak=Soak(requests=100, growth_at_most=16), parallel=4, timeout=5)


def found(url: str, expectations: Expectations = SOAK) -> list[Finding]:
    with Chat(Endpoint("vllm", url, "m"), timeout=5) as chat:
        return list(memory.checks(chat, expectations))


def test_a_server_that_keeps_nothing_is_flat(serve):
    asked = []

    def answer(request):
        asked.append(request.path)
        send(request, completion({"content": "a"}))

    (finding,) = found(serve(answer))
    assert finding.status == "pass" and len(asked) == 100 and len(finding.evidence["MiB"]) == memory.LOOKS + 1


def test_a_server_that_keeps_something_of_each_request_is_found(serve):
    kept = []

    def leak(request):
        kept.append(os.urandom(1 << 19))
        send(request, completion({"content": "a"}))

    (finding,) = found(serve(leak))
    assert finding.status == "fail" and finding.evidence["growth"] > 30 and "more than 16 MiB up" in finding.message


def test_requests_that_are_not_answered_fail(serve):
    (finding,) = found(serve(lambda request: send(request, '{"error": {"message": "no"}}', 500)))
    assert finding.status == "fail" and "not all answered" in finding.message


def test_it_is_made_only_where_it_is_asked_for(serve):
    assert found(serve(lambda request: send(request, "{}")), Expectations()) == []


def test_a_server_of_another_machine_is_skipped():
    (finding,) = found("http://192.0.2.1:8000/v1")
    assert (finding.status, finding.required) == ("skip", False)


SERVER = """
import os, socket, subprocess, sys
listening = socket.create_server(("127.0.0.1", 0))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
print(listening.getsockname()[1], child.pid, flush=True)
sys.stdin.read()
child.kill()
"""


def test_the_processes_behind_a_port_are_its_holder_and_what_that_started():
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout and server.stdin
        port, child = map(int, server.stdout.readline().split())
        pids = footprint.serving(f"http://127.0.0.1:{port}/v1")
        assert pids == {server.pid, child} and footprint.private(pids) > 1 << 20
        server.stdin.close()
    assert footprint.serving(f"http://127.0.0.1:{port}/v1") == frozenset() and footprint.private(pids) == 0


def test_a_server_elsewhere_at_a_port_that_is_open_here_too_has_none(serve):
    port = serve(lambda request: send(request, "{}")).rpartition(":")[2]
    assert footprint.serving(f"http://127.0.0.1:{port}") == {os.getpid()}
    assert footprint.serving(f"http://192.0.2.1:{port}") == footprint.serving("http://127.0.0.1/v1") == frozenset()
