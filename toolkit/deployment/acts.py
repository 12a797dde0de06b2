"""What deploying consists of, as values: a program run, a file written, a candidate proven, the state kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.deployment.state import Deployed, Deployment
from toolkit.process import Command


@dataclass(frozen=True)
class Run:
    """Run a program to its end."""

    why: str
    command: Command
    seconds: float
    """Its time limit."""
    must: bool = True
    """Whether its failure is one of the deployment."""
    told: bool = False
    """Whether its output is for the reader."""

    def __str__(self) -> str:
        return str(self.command)


@dataclass(frozen=True)
class Write:
    """Write a file whole."""

    why: str
    path: Path
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text.strip()}" if self.text.count("\n") < 2 else str(self.path)


@dataclass(frozen=True)
class Access:
    """How a candidate is reached, apart from everything else that serves."""

    port: int
    """Of 127.0.0.1."""
    forward: Command | None = None
    """What makes the port lead there while it runs, where nothing does by itself."""
    key_file: Path | None = None
    """File with the API key."""
    secret: Command | None = None
    """What prints the API key in base64, where it lies in no file."""

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}/v1"


@dataclass(frozen=True)
class Prove:
    """Hold a candidate against every contract that its release passed."""

    why: str
    deployed: Deployed
    access: Access

    def __str__(self) -> str:
        through = f" through {self.access.forward}" if self.access.forward else ""
        return f"verify {self.access.url}{through}"


@dataclass(frozen=True)
class Keep:
    """Write down what is deployed."""

    why: str
    state: Deployment

    def __str__(self) -> str:
        parts = ("current", "previous", "candidate", "leftover")
        told = [f"{part} {one.title}" for part in parts if (one := getattr(self.state, part))]
        return f"{self.state.name}.json: {', '.join(told) or 'nothing is deployed'}"


Act = Run | Write | Prove | Keep


@dataclass(frozen=True)
class Plan:
    """What will be done: what was left is taken away, the new release is tried and promoted or taken back, the old one is taken away."""

    before: tuple[Act, ...] = ()
    trial: tuple[Act, ...] = ()
    """Until all requests go to the new release; where one of these fails, `back` is done."""
    back: tuple[Act, ...] = ()
    after: tuple[Act, ...] = ()
    """What fails here leaves the new release serving; the same command again goes on."""

    def lines(self) -> Iterator[str]:
        """Yield the plan for a reader."""
        parts: Sequence[tuple[str, tuple[Act, ...]]] = (
            ("", self.before + self.trial),
            ("if one of these fails:", self.back),
            ("when all requests go to it:", self.after),
        )
        number = 0
        for title, acts in parts:
            if title and acts:
                yield title
            for act in acts:
                number += 1
                yield f"{number:>3}. {act.why}"
                yield f"     {act}"
