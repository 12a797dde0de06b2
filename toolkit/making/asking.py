"""Many questions under way at once: threads ask, one loop takes their answers in, so that the journal has one writer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Thread

from toolkit.engines import Answer
from toolkit.errors import ThinkshipError
from toolkit.making import Item, Unit
from toolkit.making.agenda import Agenda

Outcome = Answer | BaseException


def outcomes(agenda: Agenda, ask: Callable[[Item], Answer], parallel: int, most: int | None = None) -> Iterator[tuple[Unit, Answer | ThinkshipError]]:
    """Yield what became of each unit as it comes, `parallel` under way at once and `most` in all; the caller settles one before the next is taken.

    An error of ours is yielded, any other is raised.
    """
    todo: SimpleQueue[Unit | None] = SimpleQueue()
    done: SimpleQueue[tuple[Unit, Outcome]] = SimpleQueue()
    # daemons: after Ctrl-C nobody waits for answers that may take minutes
    for _ in range(parallel):
        Thread(target=_work, args=(todo, done, ask), daemon=True).start()
    flying, left = 0, agenda.most if most is None else most
    while True:
        while flying < parallel and left and (unit := agenda.next()):
            todo.put(unit)
            flying, left = flying + 1, left - 1
        if not flying:
            break
        unit, outcome = done.get()
        flying -= 1
        if not isinstance(outcome, Answer | ThinkshipError):
            raise outcome
        yield unit, outcome
    for _ in range(parallel):
        todo.put(None)


def _work(todo: SimpleQueue[Unit | None], done: SimpleQueue[tuple[Unit, Outcome]], ask: Callable[[Item], Answer]) -> None:
    while unit := todo.get():
        try:
            done.put((unit, ask(unit.item)))
        except BaseException as error:  # the loop raises what is not ours
            done.put((unit, error))
