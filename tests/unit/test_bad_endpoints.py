# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""`thinkship verify --url` on real servers that answer badly: one clear error or finding, the right exit code, and an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

import pytest
from loopback import drip, events, hang, send, serve
from model_server import ModelServer
from terminal import Done, thinkship

SECONDS = 15
"""An end that comes even on a busy machine; without a limit most of these would take minutes."""


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def verify(url: str, *arguments: object, timeout: float = 0.2) -> Done:
    began = time.monotonic()
    done = thinkship("verify", "--url", url, "--timeout", timeout, *arguments)
    assert time.monotonic() - began < SECONDS
    assert "Traceback" not in done.stdout + done.stderr
    return done


def streams(request: BaseHTTPRequestHandler) -> bool:
    return b'"stream":true' in request.body.replace(b" ", b"")


def is_chat(request: BaseHTTPRequestHandler) -> bool:
    return request.path.endswith("/chat/completions")


def redirects(request: BaseHTTPRequestHandler) -> None:
    request.send_response(307)
    request.send_header("Location", "https://elsewhere.example/v1")
    request.send_header("Content-Length", "0")
    request.end_headers()


def asks_to_wait(request: BaseHTTPRequestHandler) -> None:
    request.send_response(429)
    request.send_header("Retry-After", "60")
    request.send_header("Content-Length", "0")
    request.end_headers()


def only_in_chats(bad: Callable[[BaseHTTPRequestHandler], None]) -> Callable[[BaseHTTPRequestHandler], None]:
    good = ModelServer(owner="me")
    return lambda request: bad(request) if is_chat(request) else good(request)


@pytest.mark.parametrize(
    ("answer", "words", "remedy"),
    [
        (hang, "does not answer within 0.2 s", "look at its log"),
        (only_in_chats(hang), "not one of 2 questions was answered: ", "look at the server's log"),
        (drip, "does not answer within 0.2 s", "look at its log"),
        (only_in_chats(drip), "the answer did not end within 0.2 s", "look at the server's log"),
        (lambda request: send(request, '{"choices": [{'), "no chat completion", "log"),
        (lambda request: send(request, "<html>Welcome</html>", kind="text/html"), "no chat completion", "log"),
        (lambda request: send(request, '{"error": {"message": "out of memory"}}', 500), "500: Error code: 500", "log"),
        (lambda request: send(request, '{"error": {"message": "no key"}}', 401), "refuses us with 401", "OPENAI_API_KEY"),
        (asks_to_wait, "too many requests and wants 60 waited for", "come again later"),
        (redirects, "redirects us to https://elsewhere.example/v1", "with --url"),
        (only_in_chats(redirects), "redirects us to https://elsewhere.example/v1", "with --url"),
        (only_in_chats(lambda request: send(request, '{"error": {"message": "model m not found"}}', 404)), "knows no model 'm'", "/v1/models"),
        (lambda request: send(request, "404 page not found", 404, "text/plain"), "has no such place", "ending in /v1"),
        (lambda request: request.connection.close(), "", ""),
    ],
)
def test_an_endpoint_that_does_not_answer_is_one_error_with_its_remedy_and_code_4(serve, answer, words, remedy):
    done = verify(serve(answer), "--model", "m")
    assert done.returncode == 4, done.stderr
    error, fix = done.stderr.strip().splitlines()
    assert error.startswith("error: ") and words in error and fix.startswith("fix: ") and remedy in fix


def test_who_answers_nothing_is_not_asked_everything(serve):
    asked = []

    def count_chats(request):
        asked.append(request.path)
        time.sleep(0.1 if is_chat(request) else 0)
        send(request, "{}", 500)

    assert verify(serve(count_chats), "--model", "m", timeout=5).returncode == 4
    assert sum(path.endswith("/chat/completions") for path in asked) <= 3  # the third may be under way when the second has failed


def test_nothing_that_listens_is_code_4():
    done = verify("http://127.0.0.1:9/v1", "--model", "m")
    assert done.returncode == 4 and "cannot be reached" in done.stderr


@pytest.mark.parametrize(
    ("streamed", "words"),
    [
        (events({"content": "4"}, finish=None), "the stream ended after 1 chunks and gave no finish reason"),
        ("data: {broken\n\n", "answers what is no chat completion"),
        ('data: {"error": {"message": "out of memory"}}\n\n', "out of memory"),
    ],
)
def test_a_stream_that_is_broken_is_a_finding_and_code_6(serve, streamed, words):
    good = ModelServer()
    url = serve(lambda request: send(request, streamed, kind="text/event-stream") if streams(request) else good(request))
    done = verify(url, "--model", "m", timeout=5)
    assert done.returncode == 6 and "fail: think" in done.stdout and words in " ".join(done.stdout.split()), done.stdout
    assert done.stderr.splitlines()[-1].startswith("fix: ")


def test_a_stream_that_breaks_off_is_a_finding_and_code_6(serve):
    good = ModelServer()

    def cut(request):
        if not streams(request):
            good(request)
            return
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.send_header("Content-Length", "100000")
        request.end_headers()
        request.wfile.write(events({"content": "4"}, finish=None).encode())

    done = verify(serve(cut), "--model", "m", timeout=5)
    assert done.returncode == 6 and "the connection broke off in the answer" in " ".join(done.stdout.split())


def test_a_good_endpoint_passes_and_what_was_skipped_is_said_with_the_reason(serve):
    done = thinkship("verify", "--url", serve(ModelServer()), "--model", "m", "--timeout", 10)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict: pass" in done.stdout and "skip: authentication" in done.stdout and "no API key is configured" in done.stdout


def test_the_name_is_taken_from_the_list_where_none_is_given(serve):
    assert thinkship("verify", "--url", serve(ModelServer()), "--timeout", 10).returncode == 0


@pytest.mark.parametrize(("body", "words"), [('{"data": []}', "lists no model"), ("[]", "lists no model"), ("<html>", "does not say what it serves")])
def test_an_endpoint_that_lists_nothing_is_asked_for_by_name(serve, body, words):
    done = verify(serve(lambda request: send(request, body)))
    assert done.returncode == 4 and words in done.stderr and "--model" in done.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1/v1", "http://", "http://[::1/v1", "http://127.0.0.1:99999/v1", "http://a b/v1"])
def test_what_is_no_address_is_code_2(url):
    done = verify(url, "--model", "m")
    assert done.returncode == 2 and "is no address of an endpoint" in done.stderr


@pytest.mark.parametrize("key", ["one\ntwo", "one two", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_code_2_and_is_not_printed(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    done = verify("http://127.0.0.1:9/v1", "--model", "m")
    assert done.returncode == 2 and "OPENAI_API_KEY does not hold one key" in done.stderr
    assert key not in done.stderr and "one\\n" not in done.stderr


def test_a_line_break_after_the_key_is_no_part_of_it(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k\n")
    done = thinkship("verify", "--url", serve(ModelServer(key="k")), "--timeout", 10)
    assert done.returncode == 0 and "skip: authentication" not in done.stdout
