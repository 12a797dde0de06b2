from __future__ import annotations

import json

import pytest
from tools import stand_in
from worlds import wanted

from toolkit.deployment import cluster, seen
from toolkit.deployment.seen import Installed
from toolkit.deployment.state import Deployment, Ledger
from toolkit.errors import FailedError, NotReadyError

pytestmark = pytest.mark.loopback

VERSION = json.dumps({"serverVersion": {"major": "1", "minor": "34", "gitVersion": "v1.34.4"}})
GOOD = f"""case "$*" in
  version*) echo '{VERSION}';;
  "get namespace"*) echo namespace/team;;
  "auth can-i"*) ;;
  *) exit 1;;
esac"""


def kubectl(**other: str) -> str:
    """A kubectl of a good cluster but for one answer."""
    name, answer = next(iter(other.items()))
    return f'case "$1" in {name}) {answer};; esac\n{GOOD}'


def test_a_cluster_that_can_be_deployed_to(tmp_path, monkeypatch):
    asked = stand_in(tmp_path, monkeypatch, kubectl=GOOD, helm="exit 0")
    seen.require("team")
    lines = asked.read_text().splitlines()
    assert len([line for line in lines if "can-i" in line]) == len(seen.GRANTS)
    assert "kubectl auth can-i create pods/portforward --namespace team --quiet" in lines


REFUSED = "echo '{}'; echo 'dial tcp 10.0.0.1:6443: connect: connection refused' >&2; exit 1"
NO_SECRETS = 'case "$*" in *secrets*) exit 1;; esac'
LACKING = "you may not create secrets, get secrets in the namespace team"
FEW = (("create", "secrets"), ("create", "services"), ("get", "secrets"))
OLD = json.dumps({"serverVersion": {"major": "1", "minor": "26+", "gitVersion": "v1.26.3"}})


@pytest.mark.parametrize(
    ("answer", "words", "remedy"),
    [
        ({"version": REFUSED}, "cannot be reached: .*refused", "KUBECONFIG"),
        ({"version": "echo '{\"clientVersion\": {}}'; exit 0"}, "cannot be reached", "KUBECONFIG"),
        ({"version": f"echo '{OLD}'; exit 0"}, "runs Kubernetes v1.26.3", "1.27"),
        ({"get": "echo 'Error from server (NotFound): namespaces' >&2; exit 1"}, "there is no namespace team", "kubectl create namespace team"),
        ({"auth": NO_SECRETS}, LACKING, "role `edit`"),
    ],
)
def test_what_keeps_us_from_a_cluster_is_said(tmp_path, monkeypatch, answer, words, remedy):
    stand_in(tmp_path, monkeypatch, kubectl=kubectl(**answer), helm="exit 0")
    monkeypatch.setattr(seen, "GRANTS", FEW)
    with pytest.raises(NotReadyError, match=words) as error:
        seen.require("team")
    assert remedy in error.value.remedy


def test_who_may_not_see_namespaces_may_deploy_to_one(tmp_path, monkeypatch):
    monkeypatch.setattr(seen, "GRANTS", FEW)
    stand_in(tmp_path, monkeypatch, kubectl=kubectl(get="echo 'Error from server (Forbidden)' >&2; exit 1"), helm="exit 0")
    seen.require("team")


def test_a_missing_tool_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotReadyError, match="kubectl is not on PATH"):
        seen.require("team")


def helm(statuses: tuple[str, ...], values: str = '{"a": 1}') -> str:
    history = json.dumps([{"revision": number, "status": status} for number, status in enumerate(statuses, 4)])
    return f"""case "$1 $2" in
  "history demo") echo '{history}';;
  "get values") echo '{values}';;
  *) echo 'Error: release: not found' >&2; exit 1;;
esac"""


@pytest.mark.parametrize(
    ("statuses", "found"),
    [
        (("superseded", "deployed"), Installed("deployed", 5, {"a": 1})),
        (("deployed", "failed"), Installed("failed", 4, {"a": 1})),
        (("deployed", "pending-upgrade"), Installed("pending-upgrade", 4, {"a": 1})),
        (("superseded", "superseded", "pending-rollback"), Installed("pending-rollback", 5, {"a": 1})),
        (("pending-install",), Installed("pending-install", None, {})),
    ],
)
def test_helms_history_tells_what_serves(tmp_path, monkeypatch, statuses, found):
    asked = stand_in(tmp_path, monkeypatch, helm=helm(statuses), kubectl="echo 3")
    looked = seen.look("demo", "team", "llamacpp")
    assert looked.main == found and looked.canary is None and looked.replicas == 0, "a number is a number without a line's end"
    if found.good:
        assert f"helm get values demo --namespace team --revision {found.good} --output json" in asked.read_text()


def test_the_pods_that_serve_are_counted(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, helm=helm(("deployed",)), kubectl="printf 3")
    assert seen.look("demo", "team", "llamacpp").replicas == 3


def test_a_helm_that_does_not_answer_is_no_missing_release(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, helm="echo 'Error: Kubernetes cluster unreachable' >&2; exit 1", kubectl="exit 1")
    with pytest.raises(FailedError, match="does not tell what demo is: Error: Kubernetes cluster unreachable"):
        seen.look("demo", "team", "llamacpp")


def test_what_the_chart_refuses_is_said_in_its_words(tmp_path, monkeypatch):
    said = "WARNING: old\nError: UPGRADE FAILED: execution error:\n  - apiKey/secret: there is no Secret key in team"
    asked = stand_in(tmp_path, monkeypatch, helm=f"echo '{said}' >&2; exit 1")
    with pytest.raises(NotReadyError, match=r"cannot be installed as demo: UPGRADE FAILED: execution error:\n  - apiKey/secret") as error:
        seen.rehearse("demo", "team", cluster.CHART, "name: x\n")
    assert "nothing was changed" in error.value.remedy and "--dry-run=server" in asked.read_text()


def there(tmp_path, monkeypatch, state: Deployment, released, values: dict) -> cluster.Cluster:
    stand_in(tmp_path, monkeypatch, kubectl=GOOD, helm=helm(("deployed",), json.dumps(values)))
    monkeypatch.setattr(seen, "GRANTS", ())
    return cluster.there(Ledger(tmp_path, "demo"), state, None)


STATE = Deployment(name="demo", goal="k8s", namespace="team")


def test_a_helm_release_of_somebody_else_is_left_alone(tmp_path, monkeypatch, released):
    with pytest.raises(NotReadyError, match="demo in team was not deployed from this store, or was changed since"):
        there(tmp_path, monkeypatch, STATE, released, {"a": 1})


def test_our_own_is_known_by_its_values(tmp_path, monkeypatch, released):
    state = STATE.trying(wanted(released, {"a": 1})).promoted()
    assert there(tmp_path, monkeypatch, state, released, {"a": 1}).seen.main == Installed("deployed", 4, {"a": 1})
    with pytest.raises(NotReadyError, match="was changed since"):
        there(tmp_path, monkeypatch, state, released, {"a": 2})
