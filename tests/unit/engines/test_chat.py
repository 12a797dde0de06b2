# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
from __future__ import annotations

import json

import httpx2
import openai
import pytest
from loopback import completion, drip, events, hang, send, serve

from toolkit.engines import Endpoint
from toolkit.engines.chat import Chat
from toolkit.engines.failures import translated
from toolkit.engines.wire import patience
from toolkit.errors import FailedError, NotReadyError

ASKED = [{"role": "user", "content": "2 + 2?"}]


def chat(url: str, engine: str = "vllm", timeout: float = 5.0) -> Chat:
    return Chat(Endpoint(engine, url, "m"), timeout=timeout)


def test_a_whole_answer_is_read(serve):
    url = serve(lambda request: send(request, completion({"content": "4", "reasoning": "Two and two."})))
    answer = chat(url).ask(ASKED, 16)
    assert (answer.reasoning, answer.text, answer.finish, answer.where) == ("Two and two.", "4", "stop", "reasoning")
    assert (answer.prompt_tokens, answer.completion_tokens, answer.reasoning_tokens) == (5, 7, 3)


def test_a_stream_gives_the_same_answer(serve):
    body = events({"reasoning_content": "Two "}, {"reasoning_content": "and two."}, {"content": "4"})
    url = serve(lambda request: send(request, body, kind="text/event-stream"))
    answer = chat(url, "llamacpp").stream(ASKED, 16)
    assert (answer.reasoning, answer.text, answer.finish) == ("Two and two.", "4", "stop")


def test_a_server_that_hangs_is_left_after_the_time_limit(serve):
    with pytest.raises(FailedError, match=r"no answer within 0\.2 s"):
        chat(serve(hang), timeout=0.2).ask(ASKED, 16)


@pytest.mark.parametrize("call", ["ask", "stream"])
def test_an_answer_that_never_ends_is_left_after_the_time_limit(serve, call):
    with pytest.raises(FailedError, match=r"the answer did not end within 0\.2 s"), chat(serve(drip), timeout=0.2) as client:
        getattr(client, call)(ASKED, 16)


def test_a_refused_key_names_the_variable_to_set(serve):
    url = serve(lambda request: send(request, '{"error": {"message": "bad key"}}', 401))
    with pytest.raises(NotReadyError, match="refuses us with 401") as problem:
        chat(url).ask(ASKED, 16)
    assert "OPENAI_API_KEY" in problem.value.remedy


@pytest.mark.parametrize("call", ["ask", "stream", "complete"])
def test_html_instead_of_json_is_named(serve, call):
    url = serve(lambda request: send(request, "<html><body>Welcome to nginx!</body></html>", kind="text/html"))
    client = chat(url)
    with pytest.raises(FailedError):
        client.complete("x", 4) if call == "complete" else getattr(client, call)(ASKED, 16)


def test_broken_json_is_named(serve):
    url = serve(lambda request: send(request, '{"choices": [{'))
    with pytest.raises(FailedError, match="no chat completion"):
        chat(url).ask(ASKED, 16)


ODD = ('{"choices": []}', '{"choices": [{"index": 0}]}', '{"choices": {"a": 1}}', '{"choices": [{"index": 0, "message": {"content": 5}}]}')


@pytest.mark.parametrize("body", ["[]", "{}", '"text"', "null", *ODD])
def test_json_of_another_shape_is_named(serve, body):
    url = serve(lambda request: send(request, body))
    with pytest.raises(FailedError, match="no chat completion"):
        chat(url).ask(ASKED, 16)


def test_a_stream_with_a_broken_event_is_named(serve):
    url = serve(lambda request: send(request, events({"content": "4"}, finish=None) + "data: {broken\n\n", kind="text/event-stream"))
    with pytest.raises(FailedError, match="no chat completion"):
        chat(url).stream(ASKED, 16)


@pytest.mark.parametrize("body", ["", "data: []\n\n", ": alive\n\n" * 3, "data: [DONE]\n\n"])
def test_a_stream_without_a_chunk_is_named(serve, body):
    url = serve(lambda request: send(request, body, kind="text/event-stream"))
    with pytest.raises(FailedError, match="gave no finish reason"), chat(url) as client:
        client.stream(ASKED, 16)


def test_a_stream_without_its_end_is_named(serve):
    url = serve(lambda request: send(request, events({"content": "4"}, finish=None), kind="text/event-stream"))
    with pytest.raises(FailedError, match="ended after 1 chunks and gave no finish reason"):
        chat(url).stream(ASKED, 16)


def test_a_stream_that_breaks_off_is_named(serve):
    def cut(request):
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.send_header("Content-Length", "100000")
        request.end_headers()
        request.wfile.write(events({"content": "4"}, finish=None).encode())

    with pytest.raises(FailedError, match="broke off"):
        chat(serve(cut)).stream(ASKED, 16)


def test_an_unknown_model_is_named(serve):
    url = serve(lambda request: send(request, '{"error": {"message": "The model `m` does not exist."}}', 404))
    with pytest.raises(NotReadyError, match="knows no model 'm'"):
        chat(url).ask(ASKED, 16)


def test_a_server_error_is_not_retried(serve):
    seen = []

    def fail(request):
        seen.append(request.path)
        send(request, json.dumps({"error": {"message": "out of memory"}}), 500)

    with pytest.raises(FailedError, match=r"500.*out of memory"):
        chat(serve(fail)).ask(ASKED, 16)
    assert len(seen) == 1


def busy(times: int, *headers: tuple[str, str]):
    """A server that answers 429 some times, with these headers, and well then."""
    left = iter(range(times))

    def answer(request):
        if next(left, None) is None:
            send(request, completion({"content": "4"}))
            return
        request.send_response(429)
        for header in (*headers, ("Content-Length", "0")):
            request.send_header(*header)
        request.end_headers()

    return answer


SOON = ("Retry-After", "0")
PAST = ("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT")


@pytest.mark.parametrize("header", [SOON, PAST])
def test_a_short_wait_that_a_server_asks_for_is_kept_once(serve, header):
    with chat(serve(busy(1, header))) as client:
        assert client.ask(ASKED, 16).text == "4"


@pytest.mark.parametrize(
    ("times", "headers", "words"),
    [(2, (SOON,), "wants 0 waited for"), (1, (("Retry-After", "3600"),), "wants 3600 waited for"), (1, (), "429, too many requests$")],
)
def test_a_server_that_stays_busy_is_told_and_not_waited_for(serve, times, headers, words):
    with pytest.raises(NotReadyError, match=words), chat(serve(busy(times, *headers))) as client:
        client.ask(ASKED, 16)


@pytest.mark.parametrize(("header", "seconds"), [("2", 2.0), ("5", 5.0), ("6", None), ("soon", None), ("", None), (None, None)])
def test_only_a_few_seconds_are_waited_for(header, seconds):
    assert patience(header) == seconds


def test_a_redirect_is_told_and_not_followed(serve):
    reached = []
    elsewhere = serve(lambda request: reached.append(request.headers.get("Authorization")))

    def redirect(request):
        request.send_response(307)
        request.send_header("Location", f"{elsewhere}/chat/completions")
        request.end_headers()

    with pytest.raises(NotReadyError, match="redirects us to http") as problem, chat(serve(redirect)) as client:
        client.ask(ASKED, 16)
    assert "--url" in problem.value.remedy and reached == []


def test_a_path_that_is_not_there_is_no_unknown_model(serve):
    url = serve(lambda request: send(request, "404 page not found", 404, "text/plain"))
    with pytest.raises(NotReadyError, match="has no such place") as problem, chat(url) as client:
        client.ask(ASKED, 16)
    assert "/v1" in problem.value.remedy


def test_nothing_listening_is_named():
    with pytest.raises(NotReadyError, match="cannot be reached"):
        chat("http://127.0.0.1:9/v1").ask(ASKED, 16)


def test_a_proxy_of_the_environment_does_not_come_between_us_and_loopback(serve, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    url = serve(lambda request: send(request, completion({"content": "4"})))
    assert chat(url).ask(ASKED, 16).text == "4"


def test_every_error_of_the_client_is_translated():
    endpoint = Endpoint("vllm", "http://127.0.0.1:9/v1", "m")
    kinds = [openai.APIError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    assert len(kinds) >= 13
    for kind in kinds:
        with pytest.raises((FailedError, NotReadyError)), translated(endpoint, 1.0):
            raise bare(kind)


def bare(kind: type[openai.APIError]) -> openai.APIError:
    """An instance whose constructor did not run: each kind wants other arguments, and only its class matters here."""
    error = kind.__new__(kind)
    error.status_code, error.response = 400, httpx2.Response(400)  # type: ignore[attr-defined]
    return error
