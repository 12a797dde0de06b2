"""Whatever is deployed, fails or is killed, and wherever: the old release is asked until the new one has passed, and the same command goes on."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable

import pytest
from worlds import Host, Killed, Pods, World, acts_of, variant_of, wanted

from toolkit.deployment import chart, cluster
from toolkit.deployment.acts import Keep, Plan
from toolkit.deployment.performing import perform
from toolkit.deployment.plan import deploy, rollback
from toolkit.deployment.state import Deployed, Deployment
from toolkit.errors import BrokenError, FailedError, NotReadyError, ThinkshipError
from toolkit.export.place import parse

Make = Callable[[], World]
WORLDS = ["compose", "k8s", "k8s, killed within Helm"]


@pytest.fixture(scope="module")
def releases(released):
    return {letter: variant_of(released, letter) for letter in "abc"}


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(cluster, "text", json.dumps)


@pytest.fixture(params=WORLDS)
def world(request, releases) -> Make:
    """world() is an empty one."""

    def make() -> World:
        if request.param == "compose":
            return Host(Deployment(name="demo", goal="compose"), ids={letter * 12: one.id for letter, one in releases.items()})
        return Pods(Deployment(name="demo", goal="k8s", namespace="team"), dies_within="Helm" in request.param)

    return make


@pytest.fixture
def bring(releases) -> Callable[..., Plan]:
    """bring(world, letter, percent) deploys a release; bring(world, None) goes back."""

    def run(world: World, letter: str | None, percent: int = 10) -> Plan:
        goal = world.goal()
        plan = deploy(goal, world.state, asked_for(world, releases[letter]), percent) if letter else rollback(goal, world.state)
        perform(plan, world, "demo")
        return plan

    return run


def asked_for(world: World, release) -> Deployed:
    if isinstance(world, Host):
        return wanted(release)
    wish = chart.Wish(parse("pvc://models"), "key")
    return wanted(release, chart.values("demo", release, release.engine(None), wish))


def serves(world: World, current, previous=None) -> bool:
    """Whether all is settled: one release runs, is asked and is kept, with the one before it."""
    state = world.state
    assert state.candidate is None and state.leftover is None
    assert (state.current and state.current.release.id, state.previous and state.previous.release.id) == (
        current and current.id,
        previous and previous.id,
    )
    return world.asked() == world.trying() == ({current.id} if current else set())


def test_the_first_release_is_proven_before_anybody_is_asked(world, bring, releases):
    seen = []
    place = world()
    plan = bring(place, "a")
    assert serves(place, releases["a"])
    again = world()
    for act in plan.trial[:-1]:
        again.do(act)
        seen.append((type(act).__name__, bool(again.asked())))
    first = next(number for number, (_, asked) in enumerate(seen) if asked)
    assert ("Prove", False) in seen[:first] and ("Prove", True) not in seen


def test_a_second_release_takes_its_share_passes_and_is_promoted(world, bring, releases):
    place = world()
    bring(place, "a")
    plan = deploy(place.goal(), place.state, asked_for(place, releases["b"]), 10)
    asked = []
    for act in (*plan.trial, *plan.after):
        place.do(act)
        asked.append((type(act).__name__, place.asked()))
    assert ("Prove", {releases["a"].id, releases["b"].id}) in asked
    assert serves(place, releases["b"], releases["a"])


def test_without_a_share_nobody_asks_the_new_one_before_it_has_passed(world, bring, releases):
    place = world()
    bring(place, "a")
    plan = deploy(place.goal(), place.state, asked_for(place, releases["b"]), 0)
    for act in plan.trial:
        if type(act).__name__ == "Prove":
            assert place.asked() == {releases["a"].id} and releases["b"].id in place.trying()
            break
        place.do(act)


def test_a_release_that_does_not_pass_is_taken_back_and_the_old_one_serves_all_the_while(world, bring, releases):
    place = world()
    bring(place, "a")
    place.bad = {releases["b"].id}
    with pytest.raises(BrokenError, match="did not pass"):
        bring(place, "b")
    assert serves(place, releases["a"])


def test_a_first_release_that_does_not_pass_leaves_nothing(world, bring, releases):
    place = world()
    place.bad = {releases["a"].id}
    with pytest.raises(BrokenError):
        bring(place, "a")
    assert serves(place, None)
    place.bad = set()
    bring(place, "a")
    assert serves(place, releases["a"])


def test_a_deployment_that_was_done_is_not_done_again(world, bring, releases):
    place = world()
    bring(place, "a")
    plan = deploy(place.goal(), place.state, asked_for(place, releases["a"]), 10)
    assert plan == Plan()


def test_a_rollback_brings_the_previous_release_back_and_a_second_one_the_other(world, bring, releases):
    place = world()
    bring(place, "a")
    with pytest.raises(NotReadyError, match="no earlier release"):
        bring(place, None)
    bring(place, "b")
    bring(place, None)
    assert serves(place, releases["a"], releases["b"])
    bring(place, None)
    assert serves(place, releases["b"], releases["a"])


def killed_at(place: World, number: int, act: Callable[[], Plan]) -> None:
    place.left = number
    with pytest.raises(Killed):
        act()
    place.left = None


def test_a_deployment_that_was_killed_anywhere_goes_on_with_the_same_command(world, bring, releases):
    first = world()
    bring(first, "a")
    acts = acts_of(deploy(first.goal(), first.state, asked_for(first, releases["b"]), 10))
    assert acts >= 8
    for number in range(acts):
        place = world()
        bring(place, "a")
        killed_at(place, number, lambda place=place: bring(place, "b"))
        assert place.asked() <= {releases["a"].id, releases["b"].id}
        bring(place, "b")
        assert serves(place, releases["b"], releases["a"]), number


def test_a_deployment_that_was_killed_anywhere_is_taken_back_by_a_rollback_or_for_another_release(world, bring, releases):
    first = world()
    bring(first, "a")
    plan = deploy(first.goal(), first.state, asked_for(first, releases["b"]), 10)
    promoted = len(plan.trial)
    for number in range(acts_of(plan)):
        place = world()
        bring(place, "a")
        killed_at(place, number, lambda place=place: bring(place, "b"))
        if number == 0:
            continue
        bring(place, None)
        assert serves(place, releases["a"], releases["b"] if number >= promoted else None), number
        place = world()
        bring(place, "a")
        killed_at(place, number, lambda place=place: bring(place, "b"))
        bring(place, "c")
        assert serves(place, releases["c"], releases["b"] if number >= promoted else releases["a"]), number


def test_a_kill_while_it_is_taken_back_is_gone_on_from_too(world, bring, releases):
    for number in range(40):
        place = world()
        bring(place, "a")
        place.bad = {releases["b"].id}
        place.left = number
        with pytest.raises((Killed, BrokenError)) as ended:
            bring(place, "b")
        place.left = None
        if ended.type is BrokenError:
            break
        with contextlib.suppress(BrokenError):
            bring(place, "b")
        assert serves(place, releases["a"]), number
    assert number >= 9, "each act of the way back was the last one once"


@pytest.mark.parametrize("word", ["up", "upgrade"])
def test_a_command_that_fails_takes_the_new_one_back(world, bring, releases, word):
    place = world()
    bring(place, "a")
    place.fails = word
    if (word == "upgrade") is isinstance(place, Host):
        bring(place, "b")
        return
    with pytest.raises(FailedError, match="exit code 1"):
        bring(place, "b")
    assert serves(place, releases["a"])


def test_what_cannot_be_taken_back_is_said_and_the_next_command_takes_it_back(world, bring, releases):
    place = world()
    bring(place, "a")
    place.bad, place.fails = {releases["b"].id}, "down" if isinstance(place, Host) else "uninstall"
    with pytest.raises(FailedError, match=r"(?s)did not pass\nand it could not be taken back: .*exit code 1") as error:
        bring(place, "b")
    assert "thinkship rollback demo" in error.value.remedy and place.asked() >= {releases["a"].id}
    place.bad = set()
    bring(place, "c")
    assert serves(place, releases["c"], releases["a"])


def test_an_interrupted_trial_is_taken_back(world, bring, releases, monkeypatch):
    place = world()
    bring(place, "a")
    do = place.do

    def interrupted(act):
        if type(act).__name__ == "Prove":
            raise KeyboardInterrupt
        do(act)

    monkeypatch.setattr(place, "do", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bring(place, "b")
    assert serves(place, releases["a"])


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_somebody_answers_and_in_the_end_all_is_settled(world, bring, releases, seed):
    dice, place = random.Random(seed), world()
    for _ in range(25):
        place.left = dice.choice([None, None, dice.randrange(14)])
        place.bad = {one.id for one in releases.values() if dice.random() < 0.3}
        with contextlib.suppress(Killed, ThinkshipError):
            bring(place, dice.choice(["a", "b", "c", None]), dice.choice([0, 10, 50]))
        assert len(place.trying()) <= 2
    place.left, place.bad = None, set()
    bring(place, "a")
    assert serves(place, releases["a"], place.state.previous and place.state.previous.release)


def test_a_plan_reads_as_what_will_be_done(world, bring, releases):
    place = world()
    bring(place, "a")
    plan = deploy(place.goal(), place.state, asked_for(place, releases["b"]), 10)
    lines = list(plan.lines())
    assert lines.index("if one of these fails:") < lines.index("when all requests go to it:")
    assert f"demo.json: current {releases['a'].short} (llamacpp q8_0), candidate {releases['b'].short} (llamacpp q8_0)" in lines[1]
    assert sum(line.lstrip().split(".")[0].isdigit() for line in lines) == acts_of(plan) + len(plan.back)
    assert isinstance(plan.trial[0], Keep) and isinstance(plan.trial[-1], Keep), "what is under way is on the disk before it begins"
