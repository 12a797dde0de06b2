from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from worlds import variant_of, wanted

from toolkit.deployment import chart, cluster
from toolkit.deployment.acts import Prove, Run, Write
from toolkit.deployment.chart import Wish, canary, laid_over, replicas_for, values
from toolkit.deployment.cluster import CHART, Cluster
from toolkit.deployment.seen import Installed, Seen
from toolkit.deployment.state import Deployed, Deployment
from toolkit.errors import InvalidError, UsageError
from toolkit.export.place import parse
from toolkit.export.values import values as exported_values

GOAL = Cluster("demo", "team", Path("/store/deployments/demo"), Seen(), 40001)
STATE = Deployment(name="demo", goal="k8s", namespace="team")
WISH = Wish(parse("pvc://models/releases"), "key")


def deployed(release, letter: str, **more) -> Deployed:
    one = variant_of(release, letter)
    return wanted(one, values("demo", one, one.engine(None), replace(WISH, more=more)))


@pytest.fixture
def old(released) -> Deployed:
    return GOAL.placed(deployed(released, "a"), None)


@pytest.fixture
def new(released, old) -> Deployed:
    return GOAL.placed(deployed(released, "b"), old)


def given(acts) -> dict:
    """The values that the acts write, by file."""
    return {act.path.name: yaml.safe_load(act.text) for act in acts if isinstance(act, Write)}


def lines(acts) -> list[str]:
    return [" ".join(act.command.argv) for act in acts if isinstance(act, Run)]


@pytest.mark.parametrize("place", ["pvc://models/releases", "hostpath:///srv/models", "s3://bucket/prefix", "hf://a/b@c"])
def test_a_release_becomes_the_values_that_export_writes_and_its_own_marks(released, exported, place):
    wish = Wish(parse(place), "key", "r.example/team")
    found = values("demo", released, released.engine(None), wish)
    export = exported_values([exported("llamacpp", registry="r.example/team")], wish.place, "r.example/team", "key")
    assert found.pop("serves") == "demo" and found.pop("pod") == {"annotations": {"thinkship/release": released.id}}
    export["engines"]["llamacpp"].setdefault("env", {})
    assert found == export


def test_ollama_which_asks_for_no_key_is_given_none(two_engines):
    assert values("demo", two_engines, two_engines.engine("ollama"), WISH)["apiKey"] == {"none": True}


def test_values_of_ones_own_lie_over_ours(released):
    more = {"engines": {"llamacpp": {"replicas": 3}}, "pod": {"annotations": {"team": "x"}}, "apiKey": {"key": "other"}}
    found = values("demo", released, released.engine(None), replace(WISH, more=more))
    assert found["engines"]["llamacpp"]["replicas"] == 3 and found["engines"]["llamacpp"]["image"].startswith("thinkship/llamacpp:")
    assert found["apiKey"] == {"secret": "key", "key": "other"}
    assert found["pod"]["annotations"] == {"thinkship/release": released.id, "team": "x"}


def test_an_image_that_holds_the_model_must_be_named(released):
    wish = Wish(parse("image"), "key")
    with pytest.raises(UsageError, match="no image that holds the model is named"):
        values("demo", released, released.engine(None), wish)
    found = values("demo", released, released.engine(None), replace(wish, more={"engines": {"llamacpp": {"image": "r.example/demo:1"}}}))
    assert found["engines"]["llamacpp"]["image"] == "r.example/demo:1" and found["model"] == {"volume": {}, "files": []}
    assert "args" not in found["engines"]["llamacpp"]


def test_a_canary_has_few_pods_one_engine_and_nothing_that_the_deployment_has_once(released):
    engine = {"replicas": 3, "service": {"type": "NodePort", "nodePort": 30080}, "host": "h", "autoscaling": {"type": "hpa"}}
    more = {"engines": {"llamacpp": engine, "vllm": {"image": "x:1"}}, "ingress": {"enabled": True}, "monitoring": {"watch": True, "interval": "9s"}}
    main = values("demo", released, released.engine(None), replace(WISH, more=more))
    few = canary(main, "llamacpp", 2, asked=True)
    assert set(few["engines"]) == {"llamacpp"}
    told = {key: few["engines"]["llamacpp"][key] for key in ("replicas", "service", "host", "autoscaling")}
    assert told == {"replicas": 2, "service": {}, "host": "", "autoscaling": {}}
    assert not few["ingress"]["enabled"] and few["monitoring"] == {**chart.UNWATCHED["monitoring"], "interval": "9s"}
    assert few["serves"] == "demo" and canary(main, "llamacpp", 1, asked=False)["serves"] == ""
    assert main["engines"]["llamacpp"]["replicas"] == 3, "the deployment's own values stay as they are"


@pytest.mark.parametrize(("percent", "serving", "few"), [(10, 1, 1), (10, 9, 1), (10, 20, 2), (50, 4, 4), (90, 1, 9), (1, 1, 1)])
def test_a_share_is_as_near_as_pods_allow(percent, serving, few):
    assert replicas_for(percent, serving) == few


def test_a_second_release_is_tried_by_few_pods_and_rolled_out(old, new):
    goal = replace(GOAL, seen=Seen(Installed("deployed", 1, old.values), None, 9))
    acts = goal.tried(old, new, 10)
    words = "--install --values /store/deployments/demo/demo-canary.yaml --wait --timeout 180s --history-max 10 --namespace team"
    assert lines(acts) == [f"helm upgrade demo-canary {CHART} {words}"]
    assert given(acts)["demo-canary.yaml"] == canary(new.values, "llamacpp", 1, asked=True) and "1 of 10 pods" in acts[1].why
    proof = acts[-1]
    assert isinstance(proof, Prove) and proof.access.url == "http://127.0.0.1:40001/v1"
    assert str(proof.access.forward) == "kubectl --namespace team port-forward deployment/demo-canary-llamacpp 40001:8080"
    assert str(proof.access.secret) == "kubectl --namespace team get secret key --output jsonpath={.data.api-key}"
    rolled = goal.promoted(old, new)
    assert "--atomic" in lines(rolled)[0] and "helm upgrade demo " in lines(rolled)[0] and "--timeout 1620s" in lines(rolled)[0]
    assert given(rolled) == {"demo.yaml": new.values}
    assert lines(goal.retired(old, new)) == ["helm uninstall demo-canary --ignore-not-found --wait --timeout 300s --namespace team"]


def test_nobody_asks_a_first_release_or_one_without_a_share_before_it_has_passed(old, new):
    for acts in (GOAL.tried(None, old, 10), GOAL.tried(old, new, 0)):
        assert given(acts)["demo-canary.yaml"]["serves"] == ""


def test_no_key_is_fetched_where_none_is_asked_for(released, two_engines, new):
    open_to_all = new.model_copy(update={"values": laid_over(new.values, {"apiKey": {"secret": ""}})})
    assert GOAL._access(open_to_all).secret is None
    ollama = Deployed(release=two_engines, engine="ollama", values=values("demo", two_engines, two_engines.engine("ollama"), WISH))
    assert GOAL._access(ollama).secret is None and "11434" in str(GOAL._access(ollama).forward)


def test_a_key_with_a_dot_in_its_name_is_asked_for_as_kubectl_wants_it(new):
    dotted = new.model_copy(update={"values": laid_over(new.values, {"apiKey": {"key": "api.key"}})})
    assert GOAL._access(dotted).secret.argv[-1] == r"jsonpath={.data.api\.key}"


def test_a_model_that_is_brought_from_elsewhere_is_given_the_time(released):
    one = deployed(released, "a").served.model_copy(update={"files": (released.engines[0].files[0].model_copy(update={"size": 20_000_000_000}),)})
    large = wanted(released.model_copy(update={"engines": (one,)}))
    assert cluster.deadline(large, fetched=True) - cluster.deadline(large, fetched=False) == 900


def test_another_engine_is_another_deployment(two_engines, old):
    with pytest.raises(UsageError, match="demo serves with llamacpp, and ollama has a Service of its own"):
        GOAL.placed(Deployed(release=two_engines, engine="ollama"), old)


@pytest.mark.parametrize(
    ("main", "canary_", "words"),
    [
        (None, None, []),
        (Installed("deployed", 3), None, []),
        (Installed("failed", 3), None, []),
        (Installed("pending-upgrade", 3), None, ["helm rollback demo 3"]),
        (Installed("pending-rollback", 3), None, ["helm rollback demo 3"]),
        (Installed("pending-install", None), None, ["helm uninstall demo "]),
        (Installed("deployed", 3), Installed("deployed", 1), ["helm uninstall demo-canary "]),
        (None, Installed("pending-install", None), ["helm uninstall demo-canary "]),
    ],
)
def test_what_helm_left_when_it_was_killed_is_mended_first(main, canary_, words):
    found = lines(replace(GOAL, seen=Seen(main, canary_)).mended(STATE))
    assert len(found) == len(words) and all(line.startswith(start) for line, start in zip(found, words, strict=True))


def test_a_canary_that_is_known_is_left_to_whoever_goes_on(new):
    goal = replace(GOAL, seen=Seen(None, Installed("deployed", 1)))
    assert goal.mended(STATE.trying(new)) == ()


def test_a_roll_out_that_was_done_already_is_undone_with_its_canary(old, new):
    rolled = replace(GOAL, seen=Seen(Installed("deployed", 2, new.values), None, 1))
    assert [line.split()[1:3] for line in lines(rolled.removed(new, old))] == [["uninstall", "demo-canary"], ["upgrade", "demo"]]
    assert given(rolled.removed(new, old)) == {"demo.yaml": old.values}
    assert [line.split()[1:3] for line in lines(rolled.removed(new, None))] == [["uninstall", "demo-canary"], ["uninstall", "demo"]]
    untouched = replace(GOAL, seen=Seen(Installed("deployed", 1, old.values), None, 1))
    assert [line.split()[1:3] for line in lines(untouched.removed(new, old))] == [["uninstall", "demo-canary"]]


def test_values_of_several_files_are_read_in_order_and_what_is_none_is_refused(tmp_path):
    for name, text in (("a.yaml", "x: {y: 1, z: 2}"), ("b.yaml", "x: {y: 3}"), ("c.yaml", ""), ("d.yaml", "- 1"), ("e.yaml", "x: [")):
        (tmp_path / name).write_text(text)
    assert chart.read([tmp_path / name for name in ("a.yaml", "b.yaml", "c.yaml")]) == {"x": {"y": 3, "z": 2}}
    for name, words in (("d.yaml", "values are a mapping"), ("e.yaml", "not valid YAML")):
        with pytest.raises(InvalidError, match=words):
            chart.read([tmp_path / name])
    with pytest.raises(UsageError, match="cannot be read"):
        chart.read([tmp_path / "f.yaml"])
