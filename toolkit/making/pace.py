"""How fast many threads may ask together: so many requests a minute, evenly spaced, and none while a busy server wants to be left alone."""

from __future__ import annotations

import threading
import time


class Pace:
    """Gives each request its turn."""

    def __init__(self, per_minute: float | None = None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = time.monotonic()
        self._lock = threading.Lock()

    def turn(self) -> None:
        """Wait until the next request may be sent."""
        while wait := self._claimed():
            time.sleep(wait)

    def hold(self, seconds: float) -> bool:
        """Let nobody ask for so many seconds; say whether that is news, and not what another thread was told at the same time."""
        with self._lock:
            until = time.monotonic() + seconds
            longer = until - max(self._next, time.monotonic())
            self._next = max(self._next, until)
            return longer > seconds / 2

    def _claimed(self) -> float:
        """Take the turn and return 0, or return the seconds until there may be one."""
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                return self._next - now
            self._next = now + self._gap
            return 0.0
