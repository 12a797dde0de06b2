from __future__ import annotations

import pytest

from toolkit.engines import Answer
from toolkit.errors import FailedError, NotReadyError
from toolkit.making import Item, Unit, asking, estimate, rows
from toolkit.making.agenda import Agenda
from toolkit.making.estimate import Prices

A, B = Item("a"), Item("b")


def agenda(samples: int, keep: int, **settled: bool) -> Agenda:
    return Agenda((A, B), samples, keep, lambda unit: settled.get(f"{unit.item.text}{unit.sample}"))


def drawn(some: Agenda) -> str:
    return " ".join(f"{unit.item.text}{unit.sample}" for unit in iter(some.next, None))


def test_every_question_comes_once_before_one_comes_again():
    some = agenda(3, 2)
    assert (some.most, drawn(some), some.most) == (6, "a0 b0 a1 b1", 6)


def test_another_sample_is_taken_only_for_one_that_was_not_kept():
    some = agenda(3, 1)
    assert drawn(some) == "a0 b0"
    some.settle(Unit(A, 0), True)
    some.settle(Unit(B, 0), False)
    assert (drawn(some), some.most) == ("b1", 2)


def test_with_two_to_keep_one_that_fails_beside_one_that_is_kept_is_made_good():
    some = agenda(3, 2)
    drawn(some)
    some.settle(Unit(A, 0), True)
    some.settle(Unit(A, 1), False)
    some.settle(Unit(B, 0), True)
    some.settle(Unit(B, 1), True)
    assert drawn(some) == "a2" and some.most == 1


def test_what_is_settled_already_is_not_asked():
    assert drawn(agenda(2, 1, a0=True, b0=False)) == "b1"
    assert drawn(agenda(2, 2, a0=True, b1=True)) == "a1 b0"


def test_what_is_closed_gives_nothing_more():
    some = agenda(2, 1)
    unit = some.next()
    some.close()
    some.settle(unit, False)
    assert (some.next(), some.most) == (None, 0)


def test_no_more_are_under_way_than_may_be_and_errors_of_ours_are_outcomes():
    def ask(item):
        if item == B:
            raise FailedError("no")
        return Answer("r", "t", "stop")

    some = agenda(1, 1)
    found = {}
    for unit, outcome in asking.outcomes(some, ask, 2):
        some.settle(unit, isinstance(outcome, Answer))
        found[unit.item.text] = type(outcome).__name__
    assert found == {"a": "Answer", "b": "FailedError"}


def test_a_bug_in_a_thread_is_raised_and_not_waited_for():
    with pytest.raises(ZeroDivisionError):
        list(asking.outcomes(agenda(1, 1), lambda item: 1 // 0, 2))


def test_the_rest_is_reckoned_from_those_that_told_their_tokens():
    known = [Answer("", "", "stop", 10, 100, seconds=2.0), Answer("", "", "stop", None, None, seconds=4.0)]
    found = estimate.rest(known, 100, 4, None)
    assert (found.seconds, found.tokens.prompt, found.tokens.completion) == (75.0, 1000, 10000)
    assert estimate.rest(known, 100, 4, rate=30).seconds == 200.0
    assert found.words(Prices(1, 2)) == "at most 100 more requests: about 1,000 prompt + 10,000 completion tokens, cost 0.0210, 75 s"
    assert "tells no token counts" in estimate.rest(known[1:], 100, 4, None).words(Prices(1, 2))
    assert estimate.rest([], 100, 4, None) is None


@pytest.mark.parametrize(("seconds", "words"), [(3.4, "3 s"), (119, "119 s"), (600, "10 min"), (9000, "2.5 h")])
def test_a_time_is_said_in_its_own_unit(seconds, words):
    assert estimate.clock(seconds) == words


def test_a_file_that_cannot_be_written_whole_leaves_what_was_there(tmp_path):
    def full():
        yield {"Question": "a"}
        raise OSError(28, "No space left on device")

    (tmp_path / "made.jsonl").write_text("before", encoding="utf-8")
    with pytest.raises(NotReadyError, match="No space left"):
        rows.write(tmp_path / "made.jsonl", full())
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["before"]
