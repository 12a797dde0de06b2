"""Ends each connection right after the answer that it is waiting for, once the server is to end.

llama.cpp's HTTP server keeps a connection for a hundred requests and has no call to stop that, so that clients who never pause would hold a server
that is to end until it is killed in the midst of their answers. Each connection is therefore taken over: what the server knows it by becomes one end
of a pair of sockets, and a thread passes bytes between the other end and the client until an answer is whole. Its last bytes bear the end of the
connection, so that no request can be sent into it. Only used while the server ends; before, nothing stands between it and its clients.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import threading
import time

LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
LAST_CHUNK = b"\r\n0\r\n\r\n"
PIECE = 1 << 16


class Answer:
    """How far an answer is, by the bytes that went to the client; it may have begun before anybody looked."""

    def __init__(self) -> None:
        self._seen, self._left = b"", None

    def is_whole_after(self, piece: bytes) -> bool:
        """Take the next bytes and say whether the answer ends with them."""
        if self._left is not None:
            self._left -= len(piece)
            return self._left <= 0
        self._seen += piece
        while self._seen.startswith(b"HTTP/1."):
            head, found, body = self._seen.partition(b"\r\n\r\n")
            if not found:
                return False
            if head.split(b" ", 2)[1].startswith(b"1"):  # 100 Continue: the answer itself comes after it
                self._seen = body
                continue
            if length := LENGTH.search(head):
                self._left = int(length[1]) - len(body)
                return self._left <= 0
            break
        self._seen = self._seen[-len(LAST_CHUNK) :] if not self._seen.startswith(b"HTTP/1.") or b"\r\n\r\n" in self._seen else self._seen
        return self._seen.endswith(LAST_CHUNK)


class Farewell:
    """Takes over the connections of this process at one port."""

    def __init__(self, port: int) -> None:
        self._port, self._taken, self._relays = port, set[str](), list[Relay]()

    def finish(self, seconds: float = 2.0) -> None:
        """Wait until what the server has said is with the clients."""
        deadline = time.monotonic() + seconds
        while any(one.owes() for one in self._relays) and time.monotonic() < deadline:
            time.sleep(0.01)

    def take_over(self) -> None:
        """Take over every connection that is not yet."""
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # it was closed in between
                number = int(name)
                identity = os.readlink(f"/proc/self/fd/{name}")
                if identity.startswith("socket:") and identity not in self._taken and self._is_ours(number):
                    self._taken.add(identity)
                    self._swap(number)

    def _is_ours(self, number: int) -> bool:
        """Say whether a descriptor is a client's connection to our port."""
        with socket.socket(fileno=os.dup(number)) as one:
            if one.family not in (socket.AF_INET, socket.AF_INET6) or one.type != socket.SOCK_STREAM:
                return False
            one.getpeername()  # OSError for the socket that listens
            return bool(one.getsockname()[1] == self._port)

    def _swap(self, number: int) -> None:
        client = socket.socket(fileno=os.dup(number))
        theirs, ours = socket.socketpair()
        for one in (theirs, ours):
            self._taken.add(os.readlink(f"/proc/self/fd/{one.fileno()}"))
        os.dup2(theirs.fileno(), number, inheritable=False)
        theirs.close()
        self._relays.append(Relay(client, ours))
        threading.Thread(target=self._relays[-1].run, daemon=True).start()


class Relay:
    """Passes bytes both ways between a client and the server until an answer is whole or one side ends."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client, self._server, self._sending, self._over = client, server, False, False

    def owes(self) -> bool:
        """Say whether bytes of the server are still on their way to the client."""
        try:
            return not self._over and (self._sending or bool(select.select((self._server,), (), (), 0)[0]))
        except (OSError, ValueError):  # it was closed in between
            return False

    def run(self) -> None:
        """Pass bytes to the end."""
        with self._client, self._server, contextlib.suppress(OSError):
            answer = Answer()
            while not self._over:
                readable, _, _ = select.select((self._client, self._server), (), ())
                if self._server in readable:
                    self._answer(answer)
                elif self._client in readable:
                    piece = self._client.recv(PIECE)
                    self._server.sendall(piece)
                    self._over = not piece
        self._over = True

    def _answer(self, answer: Answer) -> None:
        """Pass on what the server says; the end of the connection goes with the last bytes."""
        self._sending = True
        piece = self._server.recv(PIECE)
        whole = not piece or answer.is_whole_after(piece)
        if whole:
            self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        self._client.sendall(piece)
        if whole:
            self._client.shutdown(socket.SHUT_WR)
        self._over, self._sending = whole, False
