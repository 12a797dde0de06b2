"""images/llamacpp/farewell.py: when an answer is whole, and that a client who never pauses is let go between two answers."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import select
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from toolkit.stages import IMAGES

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b'e\r\ndata: {"x":1}\n\r\n'
END = b"0\r\n\r\n"


@pytest.fixture(scope="module")
def farewell() -> Any:
    spec = importlib.util.spec_from_file_location("farewell", IMAGES / "llamacpp" / "farewell.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "pieces",
    [
        (HEAD, CHUNK, CHUNK, END),
        (HEAD + CHUNK, CHUNK + END),
        (CHUNK, CHUNK, END),  # it had begun before anybody looked
        (b"\r\n", END),
        (HEAD[:30], HEAD[30:], CHUNK[:-1], CHUNK[-1:] + END[:2], END[2:]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"12345"),
        (b"HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\n12", b"345"),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",),
        (b"HTTP/1.1 100 Continue\r\n\r\n", HEAD, CHUNK, END),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok"),
    ],
)
def test_an_answer_is_whole_with_its_last_bytes_and_not_before(farewell: Any, pieces: tuple[bytes, ...]) -> None:
    answer = farewell.Answer()
    assert [answer.is_whole_after(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_a_long_answer_of_known_length_is_not_cut_at_what_looks_like_an_end(farewell: Any) -> None:
    answer = farewell.Answer()
    assert not answer.is_whole_after(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n\r\n0\r\n\r\n")
    assert answer.is_whole_after(b"x" * 13)


class Slow(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        """Look whether there is something to read before reading, as llama.cpp's server does: no read is under way at a socket that is swapped."""
        self.close_connection = False
        while not self.close_connection:
            if select.select((self.connection,), (), (), 0.01)[0]:
                self.handle_one_request()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(5):
            self.wfile.write(CHUNK)
            time.sleep(0.02)
        self.wfile.write(END)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as one:
        one.daemon_threads = True
        threading.Thread(target=one.serve_forever, args=(0.02,), daemon=True).start()
        yield one
        one.shutdown()


def test_clients_who_never_pause_are_let_go_between_two_answers(farewell: Any, server: ThreadingHTTPServer) -> None:
    whole, errors, ports = [], [], [set() for _ in range(4)]
    stop = threading.Event()

    def ask(ours: set[int]) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)) as connection:
            while not stop.is_set():
                ask_once(connection, ours)

    def ask_once(connection: http.client.HTTPConnection, ours: set[int]) -> None:
        try:
            connection.request("GET", "/")
            ours.add(connection.sock.getsockname()[1])
            reply = connection.getresponse()
            whole.append(len(reply.read()))
            if reply.will_close or connection.sock is None or not connection.sock.recv:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            errors.append(error)
            connection.close()
            return
        connection.sock.setblocking(False)
        try:  # as HTTP libraries do before they use a connection again
            if connection.sock.recv(1) == b"":
                connection.close()
        except BlockingIOError:
            connection.sock.setblocking(True)
            connection.sock.settimeout(10)

    clients = [threading.Thread(target=ask, args=(ours,)) for ours in ports]
    for client in clients:
        client.start()
    time.sleep(0.5)
    assert all(len(ours) == 1 for ours in ports), "kept until now"
    room = farewell.Farewell(server.server_port)
    ends = time.monotonic() + 1.5
    while time.monotonic() < ends:
        room.take_over()
        time.sleep(0.02)
    stop.set()
    for client in clients:
        client.join(5)
    assert not errors
    assert set(whole) == {5 * 14}
    assert all(len(ours) > 3 for ours in ports), "each answer ends its connection"
