# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""What an operator expects of an endpoint, on a real server that does it, and on one that does not."""

from __future__ import annotations

import json

import pytest
from loopback import send, serve
from model_server import ModelServer

from toolkit.engines import NAMES, Endpoint, engine
from toolkit.errors import NotReadyError
from toolkit.verify import Expectations, Finding, bad_requests, endpoint

BOUNDED = Expectations(timeout=5)


def found(url: str, engine: str = "vllm", key: str | None = None) -> dict[str, Finding]:
    return {finding.name: finding for finding in endpoint.checks(Endpoint(engine, url, "m", key), BOUNDED)}


def errors(url: str, engine: str = "vllm", key: str | None = None, expectations: Expectations = BOUNDED) -> Finding:
    return bad_requests.check(Endpoint(engine, url, "m", key), expectations)


def test_a_server_that_does_all_passes(serve):
    url = serve(ModelServer(key="k"))
    statuses = {name: finding.status for name, finding in found(url, key="k").items()}
    assert statuses == {"models": "pass", "authentication": "pass", "metrics": "pass"}
    assert errors(url, key="k").status == "pass"


def test_a_name_that_is_not_listed_is_found_with_those_that_are(serve):
    finding = found(serve(ModelServer({"listed": "other"})))["models"]
    assert finding.status == "fail" and finding.message == "m is not listed, but other" and finding.remedy


def test_ollamas_latest_is_the_same_name(serve):
    assert found(serve(ModelServer({"listed": "m:latest"})), "ollama")["models"].status == "pass"


def test_a_server_without_a_list_of_models_is_found(serve):
    finding = found(serve(lambda request: send(request, '{"error": "none"}', 404)))["models"]
    assert finding.status == "fail" and "404" in finding.message


@pytest.mark.parametrize(
    ("engine", "name", "words"),
    [
        ("transformers", "models", "models of its cache"),
        ("vllm", "authentication", "no API key"),
        ("ollama", "metrics", "ollama has no metrics page"),
    ],
)
def test_what_an_engine_cannot_do_is_skipped_with_the_reason_and_not_required(serve, engine, name, words):
    finding = found(serve(ModelServer({"metrics": "nothing to see"})), engine)[name]
    assert (finding.status, finding.required) == ("skip", False) and words in finding.message


def test_a_key_that_nobody_asks_for_is_found(serve):
    finding = found(serve(ModelServer({"open": True}, key="k")), key="k")["authentication"]
    assert finding.status == "fail" and "without a key: 200" in finding.message and "with a wrong key: 200" in finding.message
    assert "OPENAI_API_KEY" in finding.remedy


def test_a_wrong_key_that_opens_is_found(serve):
    server = ModelServer(key="k")

    def anything_goes(request):
        if request.headers.get("Authorization"):
            request.headers.replace_header("Authorization", "Bearer k")
        server(request)

    assert "with a wrong key: 200" in found(serve(anything_goes), key="k")["authentication"].message


def test_an_engine_that_knows_no_keys_is_not_blamed_where_it_is_asked_directly(serve):
    finding = found(serve(ModelServer()), "ollama", key="k")["authentication"]
    assert finding.status == "skip" and "cannot ask for a key" in finding.message


def test_a_metrics_page_without_the_engines_own_figures_is_found(serve):
    finding = found(serve(ModelServer({"metrics": "process_seconds 1\n"})))["metrics"]
    assert finding.status == "fail" and finding.message == "/metrics has no figure vllm:*" and "--disable-log-stats" in finding.remedy


def test_an_unknown_server_with_figures_has_a_metrics_page(serve):
    finding = found(serve(ModelServer()), "openai")["metrics"]
    assert (finding.status, finding.message) == ("pass", "/metrics has 2 figures")


@pytest.mark.parametrize(("how", "words"), [(500, "500"), (200, "answered"), ("bare", "no error object")])
def test_bad_requests_that_are_not_refused_are_found(serve, how, words):
    names = list(bad_requests.bodies("m"))
    finding = errors(serve(ModelServer(dict.fromkeys(names, how))))
    assert finding.status == "fail" and finding.message.startswith("0 of 4 bad requests") and finding.remedy
    assert finding.evidence["answers"] == dict.fromkeys(names, words)


def test_one_bad_request_that_is_not_refused_is_named(serve):
    finding = errors(serve(ModelServer({"negative max_tokens": 500})))
    assert finding.message == "3 of 4 bad requests are refused with a 4xx and an error object; negative max_tokens: 500"


def test_what_an_engine_is_known_to_do_is_said_and_does_not_fail(serve):
    finding = errors(serve(ModelServer({"unknown model": 200, "broken JSON": 500})), "llamacpp")
    assert finding.status == "pass" and "known of this engine: unknown model: answered, broken JSON: 500" in finding.message


@pytest.mark.parametrize("name", NAMES)
def test_the_habits_of_an_engine_are_of_bad_requests_there_are(name):
    lenient = engine(name).habits.lenient
    assert set(lenient) <= set(bad_requests.bodies("m")) and set(lenient.values()) <= {"answered", "no error object", "500"}


def test_a_hang_is_no_habit_of_any_engine(serve):
    finding = errors(serve(ModelServer({"broken JSON": "hang"})), "llamacpp", expectations=Expectations(timeout=0.3))
    assert finding.status == "fail" and "does not answer within 0.3 s" in finding.evidence["answers"]["broken JSON"]


def test_a_server_that_takes_no_more_requests_is_an_error_and_no_finding(serve):
    url = serve(lambda request: send(request, json.dumps({"error": {"message": "slow down"}}), 429))
    with pytest.raises(NotReadyError, match="429"):
        errors(url)

    def busy_with_chats(request):
        send(request, "{}", 429 if request.path.endswith("/chat/completions") else 200)

    with pytest.raises(NotReadyError, match="429"):
        found(serve(busy_with_chats), key="k")
