"""From what is deployed and what is wanted to what is done about it; pure, so that every path can be printed and tested without a server."""

from __future__ import annotations

from typing import Protocol

from toolkit.deployment.acts import Act, Keep, Plan
from toolkit.deployment.state import Deployed, Deployment
from toolkit.errors import NotReadyError

Acts = tuple[Act, ...]


class Goal(Protocol):
    """Where releases are deployed: a host with Docker Compose, a cluster with Helm. Each act may be done twice."""

    def placed(self, new: Deployed, old: Deployed | None) -> Deployed:
        """Return the new release with a place of its own beside the old one; UsageError where it cannot follow that one."""

    def mended(self, state: Deployment) -> Acts:
        """Return what must be set right before anything else, where a command was killed."""

    def tried(self, old: Deployed | None, new: Deployed, percent: int) -> Acts:
        """Return what starts a release beside the old one, gives it a share of the requests and proves it."""

    def started(self, old: Deployed | None, new: Deployed) -> Acts:
        """Return what starts a release that served before, without requests."""

    def promoted(self, old: Deployed | None, new: Deployed) -> Acts:
        """Return what sends all requests to the new release."""

    def witnessed(self, new: Deployed) -> Acts:
        """Return what shows the last words of a release that failed."""

    def removed(self, gone: Deployed, kept: Deployed | None) -> Acts:
        """Return what sends all requests to the one that is kept, if any, and takes the other away when it has answered what it began."""

    def retired(self, old: Deployed | None, new: Deployed) -> Acts:
        """Return what takes away all but the new release, to which all requests go already."""


def deploy(goal: Goal, state: Deployment, wanted: Deployed, percent: int) -> Plan:
    """Return how a release comes to serve, of `percent` of the requests at first; without a trial where it serves already.

    A deployment of the same release that was cut off goes on; one of another release is taken away first. UsageError as `placed`.
    """
    going_on = state.candidate if wanted.same(state.candidate) else None
    before, cleared = _cleared(goal, state, going_on)
    if wanted.same(state.current) and not going_on:
        return Plan(before)
    new = going_on or goal.placed(wanted, cleared.current)
    return _brought(goal, cleared.trying(new), before, goal.tried(cleared.current, new, percent))


def rollback(goal: Goal, state: Deployment) -> Plan:
    """Return how what served before comes back: a deployment under way is taken back, else the previous release is started and promoted.

    NotReadyError where there is none.
    """
    before, cleared = _cleared(goal, state)
    if state.candidate:
        return Plan(before)
    if not cleared.previous:
        raise NotReadyError(f"{state.name} has no earlier release to go back to", "deploy one: thinkship deploy RELEASE")
    new = goal.placed(cleared.previous, cleared.current)
    return _brought(goal, cleared.trying(new), before, goal.started(cleared.current, new))


def _brought(goal: Goal, trying: Deployment, before: Acts, tried: Acts) -> Plan:
    """Return the plan around a trial: what is kept before and after it, and how it is undone."""
    old, new = trying.current, trying.candidate
    assert new
    refused, promoted = trying.refused(), trying.promoted()
    return Plan(
        before=before,
        trial=(Keep(f"{new.title} is tried", trying), *tried, *goal.promoted(old, new), Keep(f"{new.title} serves", promoted)),
        back=(
            *goal.witnessed(new),
            Keep(f"{new.title} is taken back", refused),
            *goal.removed(new, old),
            Keep("all is as before", refused.cleared()),
        ),
        after=(*goal.retired(old, new), Keep("nothing is left over", promoted.cleared())),
    )


def _cleared(goal: Goal, state: Deployment, going_on: Deployed | None = None) -> tuple[Acts, Deployment]:
    """Return what takes away that which a killed command left, and the state after it, in which nothing is tried or left over."""
    acts = [*goal.mended(state)]
    if state.candidate and not going_on:
        state = state.refused()
        assert state.leftover
        acts.append(Keep(f"{state.leftover.title}, whose deployment was cut off, is taken back", state))
    if state.leftover:
        acts += goal.removed(state.leftover, state.current)
        state = state.cleared()
        acts.append(Keep("nothing is left over", state))
    return tuple(acts), state.model_copy(update={"candidate": None})
