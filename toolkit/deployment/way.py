"""The way to a canary's pods: `kubectl port-forward`, with a relay before it that a client may hang up on.

All connections of a port-forward share one, and it is lost with all of them when kubectl cannot write to a client that has gone (Kubernetes issue
74551, kubectl issue 1620). The gate hangs up on purpose. The relay then tells kubectl that nothing more will come, and reads to the end what does.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit import process
from toolkit.deployment.acts import Access
from toolkit.errors import FailedError
from toolkit.process import Command, Process

HOST = "127.0.0.1"
OPENED = 30.0
"""Seconds within which the way must be open, at first and whenever it was lost."""
BLOCK = 1 << 16


@contextmanager
def reached(access: Access, log: Path) -> Iterator[str]:
    """Yield a candidate's address, and keep the way to it open while the block runs; FailedError where it does not open."""
    if access.forward is None:
        yield access.url
        return
    log.unlink(missing_ok=True)
    with _Forward(access.forward, access.port, log) as forward, socket.create_server((HOST, 0)) as listener:
        forward.connect().close()
        threading.Thread(target=_relay, args=(listener, forward), daemon=True).start()
        yield f"http://{HOST}:{listener.getsockname()[1]}/v1"
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits there


class _Forward:
    """A port-forward that is started again when it ends."""

    def __init__(self, command: Command, port: int, log: Path) -> None:
        self._command, self._port, self._log = command, port, log
        self._running: Process | None = None
        self._turn = threading.Lock()

    def __enter__(self) -> _Forward:
        return self

    def __exit__(self, *_: object) -> None:
        with self._turn:
            if self._running:
                self._running.stop()

    def connect(self) -> socket.socket:
        """Return a connection through it; FailedError with its last words where there is none in time."""
        end = time.monotonic() + OPENED
        while True:
            self._keep_running()
            with contextlib.suppress(OSError):
                return socket.create_connection((HOST, self._port), timeout=None)
            if time.monotonic() > end:
                raise FailedError(f"the way to the canary does not open: {process.tail(self._log, 3)}", f"the command was: {self._command}")
            time.sleep(0.1)

    def _keep_running(self) -> None:
        with self._turn:
            if self._running is None or not self._running.alive():
                self._running = process.start(self._command, log=self._log)


def _relay(listener: socket.socket, forward: _Forward) -> None:
    """Take connections until the listener is closed."""
    while True:
        try:
            client = listener.accept()[0]
        except OSError:
            return
        threading.Thread(target=_carry, args=(client, forward), daemon=True).start()


def _carry(client: socket.socket, forward: _Forward) -> None:
    """Carry one connection's bytes both ways until both have ended."""
    with client:
        try:
            inner = forward.connect()
        except FailedError:
            return  # the client sees a connection that ends
        with inner:
            answers = threading.Thread(target=_pump, args=(inner, client), daemon=True)
            answers.start()
            _pump(client, inner)
            answers.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy until the source ends, and say so to the sink; what comes when the sink has gone is read and dropped."""
    there = True
    with contextlib.suppress(OSError):
        while block := source.recv(BLOCK):
            if there:
                try:
                    sink.sendall(block)
                except OSError:
                    there = False
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
