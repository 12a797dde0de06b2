"""A container's output, line by line and each line once, over as many connections as it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from toolkit import process
from toolkit.kubectl import Kubectl


class Stream:
    """What one container of one pod says."""

    def __init__(self, kubectl: Kubectl, pod: str, container: str, on_line: Callable[[str], None]) -> None:
        self._kubectl, self._pod, self._container, self._on_line = kubectl, pod, container, on_line
        self._last, self._told = "", set[str]()

    def follow(self, errors: Path) -> bool:
        """Read until the container ends or the line is lost, and say whether kubectl ended well.

        A dead connection ends by itself: the client asks for a sign of life every 30 s (HTTP/2 pings of client-go).
        """
        since = ("--since-time", self._last) if self._last else ()
        command = self._kubectl.command("logs", self._pod, "--container", self._container, "--follow", "--timestamps", *since)
        return process.run(command, log=errors, on_line=self._take, check=False).code == 0

    def _take(self, line: str) -> None:
        """Pass a line on unless it came before: `--since-time` counts whole seconds (Kubernetes issue 92389).

        The time before each line has nine digits always (kubelet, RFC3339NanoFixed), so that it is compared as text.
        """
        time, _, text = line.partition(" ")
        if len(time) < 20 or time[4] != "-" or time < self._last or (time == self._last and line in self._told):
            return
        if time > self._last:
            self._last = time
            self._told.clear()
        self._told.add(line)
        self._on_line(text)
