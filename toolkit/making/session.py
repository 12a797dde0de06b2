"""What `thinkship data make` does: a first few answers tell what the whole will take, then the rest is asked, and the kept ones become rows."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from toolkit import console
from toolkit.endpoints import Address
from toolkit.engines import Answer, Endpoint
from toolkit.engines.chat import Chat
from toolkit.errors import BrokenError, FailedError, InvalidError, ThinkshipError, UsageError
from toolkit.making import Item, Unit, asking, estimate, journal, questions, rows
from toolkit.making.agenda import Agenda
from toolkit.making.estimate import Prices, Tokens
from toolkit.making.journal import Journal
from toolkit.making.marking import CHECKS, Check, Mark, mark
from toolkit.making.pace import Pace
from toolkit.making.teacher import PLACE, Asking, Teacher

FIRST = 4
"""Answers that the estimate rests on, or as many as are asked at once."""
IN_A_ROW = 10
"""Failures one after the other after which nothing more is asked."""


@dataclass(frozen=True)
class Order:
    """What the command line asks for; `rate` in requests a minute, `timeout` in seconds an answer, prices a million tokens."""

    output: Path
    url: str | None
    model: str | None
    engine: str | None
    api_key_file: Path | None
    store: Path
    samples: int
    keep: int
    check: str | None
    parallel: int
    rate: float | None
    max_tokens: int | None
    temperature: float | None
    system: str | None
    prompt_file: Path | None
    timeout: float
    price_in: float | None
    price_out: float | None
    estimate: bool
    yes: bool

    @property
    def prices(self) -> Prices:
        """What tokens cost."""
        return Prices(self.price_in, self.price_out)


def make(path: Path, order: Order) -> None:
    """Ask a teacher the questions of a file and write the answers that are kept as rows.

    UsageError and InvalidError for what cannot be asked, NotReadyError where the endpoint is gone or stays busy, FailedError where it
    only fails, BrokenError where no answer was kept; what was answered until then is in the journal.
    """
    items = questions.read(path)
    check = _check(order.check, items)
    told = _asking(order)
    _require_output(order.output)
    endpoint = Address(order.url, order.model, order.engine, order.api_key_file).endpoint(order.store)
    with (
        journal.opened(journal.beside(order.output), _settings(endpoint, told, order)) as kept,
        Chat(endpoint, timeout=order.timeout, patient=False) as chat,
    ):
        run = Run(items, check, order, kept, Teacher(chat, told, Pace(order.rate), _tell_wait))
        console.say(
            f"{len(items):,} questions x {order.samples} samples for {endpoint.model} at {endpoint.url}; {len(kept.answers):,} answered already"
        )
        run.first()
        if run.agreed():
            run.ask()
            run.conclude(endpoint.model)


@dataclass
class Run:
    """One call of the command: its answers go into the journal, and what has none yet is asked."""

    items: tuple[Item, ...]
    check: Check
    order: Order
    journal: Journal
    teacher: Teacher
    errors: Counter[str] = field(default_factory=Counter)
    agenda: Agenda = field(init=False)

    def __post_init__(self) -> None:
        self.agenda = Agenda(self.items, self.order.samples, self.order.keep, self._settled)

    def first(self) -> None:
        """Ask a few questions, where there are no answers yet to go by."""
        if not self.journal.answers:
            self.ask(max(FIRST, self.order.parallel))

    def agreed(self) -> bool:
        """Say what the rest will take and whether to go on: a person at a terminal is asked, unless --yes was given."""
        left = self.agenda.most
        expected = estimate.rest(self.journal.answers.values(), left, self.order.parallel, self.order.rate) if left else None
        if expected:
            console.say(f"by the first {len(self.journal.answers):,} answers: {expected.words(self.order.prices)}")
        elif left:
            raise FailedError(f"not one of the first questions was answered: {self.errors.most_common(1)[0][0]}", "look at the endpoint's log")
        if not self.order.estimate and (not expected or self.order.yes or console.confirmed("ask them?")):
            return True
        console.say(f"the answers so far are kept in {self.journal.path}; the same command asks the rest")
        return False

    def ask(self, most: int | None = None) -> None:
        """Ask what is on the agenda, or the first `most` of it; the first error that is not one question's own ends it."""
        broken: ThinkshipError | None = None
        failures, began, done, tokens = 0, time.monotonic(), 0, 0
        with console.bar() as bar:
            for unit, outcome in asking.outcomes(self.agenda, self.teacher.answer, self.order.parallel, most):
                if isinstance(outcome, Answer):
                    self.journal.add(unit, outcome)
                    failures, done, tokens = 0, done + 1, tokens + (outcome.completion_tokens or 0)
                else:
                    failures += 1
                    broken = broken or self._fatal(outcome, failures)
                self.agenda.settle(unit, self._settled(unit) is True)
                if broken:
                    self.agenda.close()  # what is under way is still taken in
                speed = time.monotonic() - began
                bar.report(done, done + self.agenda.most, f"answers, {done / speed * 60:.0f} a minute, {tokens / speed:.0f} tokens/s")
        if broken:
            raise broken

    def _fatal(self, error: ThinkshipError, failures: int) -> ThinkshipError | None:
        """Count an error and return the one that ends the run: the endpoint is gone, or does nothing but fail."""
        if not isinstance(error, FailedError):
            return type(error)(error.message, f"{error.remedy}; then run the same command again to go on")
        self.errors[error.message] += 1
        if failures < IN_A_ROW:
            return None
        return FailedError(f"{failures} questions in a row failed, the last: {error.message}", f"{error.remedy}; the same command again goes on")

    def mark(self, unit: Unit) -> Mark | None:
        """Say what becomes of a unit's answer, None where it has none."""
        answer = self.journal.answers.get(journal.key(unit))
        return mark(answer, unit.item, self.check) if answer else None

    def _settled(self, unit: Unit) -> bool | None:
        found = self.mark(unit)
        return None if found is None else found == "kept"

    def conclude(self, model: str) -> None:
        """Write the rows and say what became of all answers; BrokenError where none was kept."""
        marked = {unit: self.mark(unit) for item in self.items for unit in (Unit(item, sample) for sample in range(self.order.samples))}
        chosen: Counter[Item] = Counter()
        made = []
        for unit, found in marked.items():
            if found == "kept" and chosen[unit.item] < self.order.keep:
                chosen[unit.item] += 1
                made.append(rows.row(unit, self.journal.answers[journal.key(unit)], model))
        self._tell(Counter(found for found in marked.values() if found), len(chosen))
        if not made:
            raise BrokenError(
                "no answer was kept", f"the answers are in {self.journal.path}: look at some, and at --check, --prompt and --max-tokens"
            )
        rows.write(self.order.output, made)
        console.say(f"{self.order.output}: {len(made):,} rows (every answer: {self.journal.path})")

    def _tell(self, marks: Counter[Mark], answered: int) -> None:
        counts = ", ".join(f"{count:,} {name}" for name, count in marks.most_common())
        console.say(f"{sum(marks.values()):,} answers: {counts or 'none'}; {answered:,} of {len(self.items):,} questions have a kept one")
        console.say(Tokens.of(self.journal.answers.values()).words(self.order.prices))
        for message, count in self.errors.most_common():
            console.say(f"{count:,} failed: {message}")
        if self.errors:
            console.say("the same command again asks those that failed once more")


def _tell_wait(seconds: float) -> None:
    if seconds >= 5:
        console.note(f"the endpoint is busy: nothing is asked for {seconds:.0f} s")


def _check(name: str | None, items: tuple[Item, ...]) -> Check:
    """Return the check that was asked for; UsageError where none was and there is something to check, InvalidError where there is not."""
    expecting = [item for item in items if item.expected is not None]
    if name is None and expecting:
        raise UsageError("the questions have expected answers, and nothing says how they are compared", f"--check {'|'.join(CHECKS)}")
    if name not in (None, "none") and len(expecting) < len(items):
        bare = next(item for item in items if item.expected is None)
        raise InvalidError(
            f"--check {name} needs an expected answer to every question, and {bare.text!r} has none", "add `expected`, or --check none"
        )
    return CHECKS[name or "none"]


def _asking(order: Order) -> Asking:
    if order.samples > 1 and order.temperature == 0:
        raise UsageError("every sample at temperature 0 is the same answer", "leave --temperature out, or set it above 0")
    if order.keep > order.samples:
        raise UsageError(f"--keep {order.keep} of --samples {order.samples} cannot be", "keep at most as many as are asked")
    return Asking(order.system, _prompt(order.prompt_file), order.max_tokens, order.temperature)


def _prompt(file: Path | None) -> str:
    if not file:
        return PLACE
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the prompt cannot be read: {error}", "name a text file") from error
    if PLACE not in text:
        raise UsageError(f"{file} does not say where the question goes", f"put {PLACE} there")
    return text


def _require_output(output: Path) -> None:
    if output.is_dir() or not output.parent.is_dir():
        raise UsageError(
            f"{output} cannot be written: {'it is a folder' if output.is_dir() else 'there is no such folder'}", "name a file with --output"
        )
    if output.exists() and not journal.beside(output).exists():
        raise UsageError(f"{output} is there already, and no journal beside it says how it was made", "name another --output")


def _settings(endpoint: Endpoint, told: Asking, order: Order) -> dict[str, object]:
    """Return what must be the same for answers to belong together; the check may change, since the journal keeps them unmarked."""
    asked = {"system": told.system, "prompt": told.prompt, "max_tokens": told.max_tokens, "temperature": told.temperature}
    return {"url": endpoint.url, "model": endpoint.model, "samples": order.samples, **asked}
