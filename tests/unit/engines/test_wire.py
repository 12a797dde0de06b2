# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""Plain JSON over HTTP, on real servers that answer badly."""

from __future__ import annotations

from itertools import count

import pytest
from loopback import drip, hang, send, serve

from toolkit.engines import Endpoint, catalogue, engine
from toolkit.engines.wire import answers, ask, ask_for, exchange
from toolkit.errors import FailedError, NotReadyError


@pytest.mark.parametrize("bad", [hang, drip])
def test_an_answer_that_does_not_come_or_does_not_end_is_left_in_time(serve, bad):
    with pytest.raises(NotReadyError, match=r"does not answer within 0\.2 s"):
        ask(serve(bad), timeout=0.2)


@pytest.mark.parametrize(
    ("status", "kind"), [(302, NotReadyError), (401, NotReadyError), (403, NotReadyError), (404, FailedError), (500, FailedError)]
)
def test_a_bad_status_is_an_error_to_those_who_want_json_and_an_answer_to_the_others(serve, status, kind):
    url = serve(lambda request: send(request, '{"a": 1}', status))
    with pytest.raises(kind, match=str(status) if status != 302 else "redirects us"):
        ask(url)
    assert exchange(url).status == status and exchange(url).json() == {"a": 1}


def test_a_server_that_asks_for_a_short_wait_is_asked_once_more(serve):
    numbers = count()

    def busy_at_first(request):
        first = next(numbers) == 0
        request.send_response(429 if first else 200)
        request.send_header("Retry-After", "0")
        request.end_headers()

    assert exchange(serve(busy_at_first)).status == 200 and next(numbers) == 2


@pytest.mark.parametrize("body", ["[]", "{}", "null", '"prompt"', '{"other": 1}'])
@pytest.mark.parametrize("name", ["llamacpp", "vllm"])
def test_a_server_that_is_not_the_engine_it_was_said_to_be_is_an_error(serve, name, body):
    endpoint = Endpoint(name, serve(lambda request: send(request, body)), "m")
    with pytest.raises(FailedError, match="answers without") as problem:
        engine(name).rendered(endpoint, [{"role": "user", "content": "hi"}])
    assert "--engine" in problem.value.remedy
    with pytest.raises(FailedError):
        ask_for("tokens", endpoint.url, {})


@pytest.mark.parametrize("body", ["[]", "{}", "null", '{"data": 1}', '{"data": ["m", {}]}'])
def test_an_odd_list_of_models_names_none(serve, body):
    assert catalogue.names(Endpoint("openai", serve(lambda request: send(request, body)), "")) == ()


def test_only_a_200_is_an_answer_to_a_probe(serve):
    assert answers(serve(lambda request: send(request, "")))
    assert not answers(serve(lambda request: send(request, "", 503)))
    assert not answers(serve(lambda request: send(request, "", 302)))
    assert not answers(serve(hang), timeout=0.2)
