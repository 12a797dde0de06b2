"""Asking a cluster until it answers: a lost line costs time, and no step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from toolkit import console
from toolkit.kubectl import REACH, UnreachableError

SECONDS = 900.0
"""How long a cluster may be out of reach, and a pod may wait for a node, a volume or a quota: nodes with GPUs may be made on demand."""
PAUSE = 1.0
"""Seconds between two looks."""
T = TypeVar("T")


def answered(question: Callable[[], T], job: str) -> T:
    """Return the answer to a question, asked again while the line is lost; UnreachableError where it stays lost."""
    lost = 0.0
    while True:
        try:
            answer = question()
        except UnreachableError as error:
            if not lost:
                lost = time.monotonic()
                console.note(f"{error.message}: the Job {job} goes on there, and is asked for again")
            elif time.monotonic() - lost > SECONDS:
                raise UnreachableError(f"{error.message}; the Job {job} goes on there", f"{REACH}; the same command again follows it") from error
            time.sleep(PAUSE)
        else:
            if lost:
                console.note("the cluster is reached again")
            return answer
