"""Does what a plan says, and undoes a trial that fails, whatever it fails by."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from typing import Protocol, assert_never

from toolkit import console, process
from toolkit.deployment.acts import Access, Act, Keep, Plan, Prove, Run, Write
from toolkit.deployment.gate import Gate, pass_through
from toolkit.deployment.state import Ledger
from toolkit.deployment.way import reached
from toolkit.engines import Endpoint, key_in
from toolkit.errors import BrokenError, FailedError, NotReadyError, ThinkshipError

ASKED = 30.0
"""Seconds within which a cluster must tell a key."""


class Hands(Protocol):
    """Whoever does an act."""

    def do(self, act: Act) -> None:
        """Do it to its end; a ThinkshipError where that fails."""


@dataclass(frozen=True)
class Real:
    """Does acts for real, the gate among them."""

    ledger: Ledger
    held: Gate | None = None
    """What a candidate is held against; none for a plan that proves nothing."""

    def do(self, act: Act) -> None:
        """Do an act and say so."""
        console.step(act.why, "", "run")
        match act:
            case Run():
                self._run(act)
            case Write():
                write(act)
            case Keep():
                self.ledger.write(act.state)
            case Prove():
                self._prove(act)
            case _:
                assert_never(act)

    def _run(self, act: Run) -> None:
        log = self.ledger.folder / "log"
        log.write_bytes(b"")
        try:
            process.run(act.command, log=log, timeout=act.seconds, on_line=console.note if act.told else None, check=act.must)
        except FailedError:
            if act.must:
                raise
        for line in process.tail(log).splitlines() if act.told else ():
            console.note(line)

    def _prove(self, act: Prove) -> None:
        assert self.held
        with reached(act.access, self.ledger.folder / "forward.log") as url, console.bar() as bar:
            endpoint = Endpoint(act.deployed.engine, url, act.deployed.release.model, key_of(act.access))
            pass_through(endpoint, self.held, act.deployed, self.ledger.folder, lambda done, total, unit: bar.report(done, total, unit))


def perform(plan: Plan, hands: Hands, name: str) -> None:
    """Do a plan; a trial that fails, or is interrupted, is taken back before its error is raised."""
    for act in plan.before:
        hands.do(act)
    try:
        for act in plan.trial:
            hands.do(act)
    except (Exception, KeyboardInterrupt) as error:
        _take_back(plan, hands, name, error)
        raise
    for act in plan.after:
        hands.do(act)


def _take_back(plan: Plan, hands: Hands, name: str, error: BaseException) -> None:
    try:
        for act in plan.back:
            hands.do(act)
    except ThinkshipError as second:
        first = error.message if isinstance(error, ThinkshipError) else str(error) or type(error).__name__
        message = f"{first}\nand it could not be taken back: {second.message}"
        raise FailedError(message, f"mend that, then `thinkship rollback {name}` goes on taking it back; {second.remedy}") from error


def write(act: Write) -> None:
    """Write a file whole, readable for the containers' user; NotReadyError where that is not possible."""
    draft = act.path.with_name(f".{act.path.name}")
    try:
        draft.write_text(act.text, encoding="utf-8")
        draft.chmod(0o644)
        os.replace(draft, act.path)
    except OSError as error:
        raise NotReadyError(f"{act.path} cannot be written: {error.strerror}", "free space, or make the store writable") from error


def key_of(access: Access) -> str | None:
    """Return the API key of a candidate, None where it asks for none; NotReadyError where it cannot be had."""
    if access.secret is None:
        try:
            return key_in(access.key_file)
        except OSError as error:
            raise NotReadyError(f"the API key cannot be read: {error}", "deploy as a user who may read it") from error
    try:
        return base64.b64decode(process.run(access.secret, timeout=ASKED).output, validate=True).decode().strip()
    except ValueError as error:
        raise BrokenError("the Secret with the API key does not hold one", "kubectl create secret generic …") from error
