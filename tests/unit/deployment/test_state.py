from __future__ import annotations

import json
import stat

import pytest
from worlds import wanted

from toolkit.deployment.state import Deployment, Ledger
from toolkit.errors import InvalidError, NotReadyError, UsageError


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(tmp_path, "demo")


def test_what_is_deployed_is_read_as_it_was_kept_by_its_owner_alone(ledger, released):
    state = Deployment(name="demo", goal="compose").trying(wanted(released)).promoted().cleared()
    with ledger.locked():
        ledger.write(state)
    assert ledger.read("compose") == state and stat.S_IMODE(ledger.path.stat().st_mode) == 0o600
    assert sorted(path.name for path in ledger.path.parent.iterdir()) == [".demo.lock", "demo", "demo.json"]


def test_where_nothing_was_deployed_nothing_is(ledger):
    assert ledger.read("compose") == Deployment(name="demo", goal="compose")
    assert ledger.read("k8s").namespace == "default" and ledger.read("k8s", "team").namespace == "team"


def test_a_name_stands_for_one_place(ledger):
    with ledger.locked():
        ledger.write(Deployment(name="demo", goal="k8s", namespace="team"))
    for goal, namespace in (("compose", ""), ("k8s", "other")):
        with pytest.raises(UsageError, match="demo is deployed to k8s in team"):
            ledger.read(goal, namespace)
    assert ledger.read("k8s").namespace == "team", "which need not be said again"


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 2, "name": "demo", "goal": "compose"}'])
def test_a_damaged_state_changes_nothing(ledger, text):
    with ledger.locked():
        ledger.path.write_text(text)
    with pytest.raises(InvalidError, match=r"demo\.json is damaged"):
        ledger.read("compose")
    assert ledger.path.read_text() == text


def test_two_at_once_are_one_too_many(ledger, tmp_path):
    with ledger.locked(), pytest.raises(NotReadyError, match="demo is being deployed just now"), Ledger(tmp_path, "demo").locked():
        pass
    with ledger.locked(), Ledger(tmp_path, "other").locked():
        pass


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a" * 41])
def test_a_name_that_nothing_can_bear_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="cannot name a deployment"):
        Ledger(tmp_path, name)


def test_a_store_that_is_not_there_is_said(tmp_path):
    with pytest.raises(NotReadyError, match="there is no store"):
        Ledger(tmp_path / "nowhere", "demo")


def test_each_step_of_a_deployment_is_told_by_what_is_kept(released):
    one, state = wanted(released), Deployment(name="demo", goal="compose")
    trying = state.trying(one)
    assert (trying.candidate, trying.refused().leftover, trying.refused().cleared()) == (one, one, state)
    served = trying.promoted()
    assert (served.current, served.previous, served.candidate, served.leftover) == (one, None, None, None)
    again = served.trying(one).promoted()
    assert again.leftover == again.previous == one
    assert json.loads(again.model_dump_json(by_alias=True))["schema"] == 1


def test_the_same_is_what_serves_the_same_in_the_same_way(released):
    one = wanted(released)
    assert one.same(one.model_copy(update={"slot": "green", "port": 1})) and not one.same(None)
    assert not one.same(one.model_copy(update={"registry": "r.example"})) and not one.same(one.model_copy(update={"values": {"a": 1}}))
