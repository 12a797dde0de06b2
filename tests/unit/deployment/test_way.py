from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from toolkit.deployment import way
from toolkit.deployment.acts import Access
from toolkit.deployment.way import reached
from toolkit.errors import FailedError
from toolkit.process import Command

pytestmark = pytest.mark.loopback

ECHO = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    while True:
        taken = server.accept()[0]
        with taken:
            if words := taken.recv(100):
                taken.sendall(words.upper())
                if words == b"die":
                    sys.exit(1)
"""
"""A stand-in for kubectl at the other end: the real one is in tests/cluster."""
ENDLESS = """
import pathlib, socket, sys, time
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    server.accept()[0].close()  # whether it is open
    taken = server.accept()[0]
    taken.recv(100)
    taken.setblocking(False)
    said = "nothing"
    for _ in range(60):
        try:
            taken.sendall(b"a token ")
        except OSError as error:
            said = "broken"
            break
        try:
            if taken.recv(100) == b"":
                said = "end"
        except BlockingIOError:
            pass
        time.sleep(0.01)
    pathlib.Path(sys.argv[2]).write_text(said)
"""


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def forward(code: str, *words: object) -> Access:
    port = free()
    return Access(port, forward=Command((sys.executable, "-c", code, str(port), *map(str, words))))


def ask(url: str, words: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", urlsplit(url).port), timeout=5) as client:
        client.sendall(words)
        return client.recv(100)


def test_a_candidate_on_this_host_is_reached_as_it_is(tmp_path: Path) -> None:
    with reached(Access(9), tmp_path / "log") as url:
        assert url == "http://127.0.0.1:9/v1"


def test_what_is_asked_and_answered_passes_and_the_way_is_closed_then(tmp_path: Path) -> None:
    access = forward(ECHO)
    with reached(access, tmp_path / "log") as url:
        assert [ask(url, words) for words in (b"a", b"b")] == [b"A", b"B"]
    for port in (access.port, urlsplit(url).port):
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1)


def test_a_way_that_was_lost_is_opened_again(tmp_path: Path) -> None:
    with reached(forward(ECHO), tmp_path / "log") as url:
        assert ask(url, b"die") == b"DIE"
        time.sleep(0.1)
        assert ask(url, b"again") == b"AGAIN"


def test_a_client_that_hangs_up_is_told_and_breaks_nothing(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    with reached(forward(ENDLESS, seen), tmp_path / "log") as url:
        assert ask(url, b"go").startswith(b"a token")
        end = time.monotonic() + 5
        while not seen.exists() and time.monotonic() < end:
            time.sleep(0.02)
        assert seen.read_text() == "end", "the other side is told that nobody listens, and can go on writing"


def test_a_way_that_does_not_open_is_said_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(way, "OPENED", 0.3)
    failing = forward("import sys; print('error: unable to forward', file=sys.stderr); sys.exit(1)")
    with pytest.raises(FailedError, match=r"(?s)does not open: .*error: unable to forward"), reached(failing, tmp_path / "log"):
        pass
