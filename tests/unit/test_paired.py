"""The paired test against published and hand-counted values."""

from __future__ import annotations

import pytest

from toolkit.verify.paired import mcnemar, verdict


# Counted by hand: 5:0 and 6:0 are 2 / 2^n, 2:8 is 2 (1 + 10 + 45) / 1024; 59:121 was summed in exact fractions.
@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125), (2, 8, 0.109375), (8, 2, 0.109375), (3, 3, 1.0), (59, 121, 4.434449263755176e-06)],
)
def test_the_exact_p_of_changed_marks(gained, lost, p):
    assert mcnemar(gained, lost) == pytest.approx(p, rel=1e-12)


@pytest.mark.parametrize(
    ("gained", "lost", "words"),
    [(6, 0, "improved"), (0, 6, "worse"), (5, 0, "no evidence"), (0, 0, "no evidence"), (2, 8, "no evidence"), (47, 0, "improved")],
)
def test_a_change_is_told_only_where_it_is_more_than_chance(gained, lost, words):
    assert verdict(gained, lost) == words


def test_the_level_can_be_chosen():
    assert verdict(5, 0, alpha=0.1) == "improved" and verdict(6, 0, alpha=0.01) == "no evidence"


def test_thousands_of_changed_marks_do_not_overflow():
    assert mcnemar(4000, 4100) == pytest.approx(0.27, abs=0.02) and mcnemar(5000, 0) == 0.0


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="-1 gained"):
        mcnemar(-1, 4)
