# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""The probe against real servers on loopback that answer well, badly, slowly or never."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler

import pytest
from loopback import completion, events, hang, send, serve

from toolkit import health
from toolkit.engines.reading import FIELDS, take_apart
from toolkit.health import Health, Question, probe
from toolkit.recipe import Think

MESSAGES = (
    {"content": "4", "reasoning": "R"},
    {"content": None, "reasoning": "cut"},
    {"content": "4", "reasoning_content": "R"},
    {"content": "4", "thinking": "R"},
    {"content": "R\n</think>\n\n4"},
    {"content": " <think>\nR</think>4"},
    {"content": "<think>never ends"},
    {"content": "<think>\n\n</think>\n\n4"},
    {"content": "4", "reasoning": ""},
    {"content": "4"},
    {"content": None},
)


@pytest.mark.parametrize("message", MESSAGES, ids=json.dumps)
def test_a_message_is_read_as_the_engines_read_it(message):
    pieces = take_apart(message, Think())
    assert health.take_apart(message) == (pieces.reasoning, pieces.text, pieces.where) and health.FIELDS == FIELDS


def asked(serve, answer, **options) -> Health:
    return probe(Question(serve(answer), **{"model": "m", "timeout": 5.0, **options}))


@pytest.mark.parametrize(
    ("deltas", "code", "where"),
    [
        (({"role": "assistant", "content": ""}, {"reasoning": "Two "}, {"reasoning": "and"}), 0, "reasoning"),
        (({"reasoning_content": "R"}, {"content": "4"}), 0, "reasoning_content"),
        (({"thinking": "R"},), 0, "thinking"),
        (({"content": "<thi"}, {"content": "nk>R"}), 0, "inline"),
        (({"content": "<think>\n"}, {"content": "\n</think>4"}), 6, None),
        (({"content": "4"},), 6, None),
    ],
)
def test_a_stream_says_whether_the_model_answers_and_thinks(serve, deltas, code, where):
    found = asked(serve, lambda request: send(request, events(*deltas, finish="length"), kind="text/event-stream"))
    assert (found.code, found.where) == (code, where), found
    assert found.first_token_seconds is not None


@pytest.mark.parametrize(("finish", "code"), [("stop", 4), ("length", 6)])
def test_a_stream_without_a_piece_is_an_answer_only_where_its_tokens_ran_out(serve, finish, code):
    found = asked(serve, lambda request: send(request, events({"role": "assistant"}, finish=finish), kind="text/event-stream"))
    assert (found.code, found.first_token_seconds) == (code, None)


def test_a_server_that_does_not_stream_is_read_whole(serve):
    found = asked(serve, lambda request: send(request, completion({"content": None, "reasoning": "R R"}, "length")))
    assert (found.code, found.first_token_seconds, found.reasoning_characters) == (0, None, 3)


def test_tokens_without_a_text_are_an_answer(serve):
    assert asked(serve, lambda request: send(request, completion({"content": ""}, "length"))).code == 6


def test_the_first_listed_model_is_asked_with_the_key_and_the_stream_is_wanted(serve):
    seen = []

    def answer(request):
        seen.append((request.path, request.headers["Authorization"]))
        send(request, '{"data": [{"id": "first"}, {"id": "second"}]}' if request.command == "GET" else completion({"content": "<think>R"}))

    found = asked(serve, answer, model="", api_key="f00d")
    assert (found.code, found.model) == (0, "first")
    assert seen == [("/v1/models", "Bearer f00d"), ("/v1/chat/completions", "Bearer f00d")]


def test_comments_and_an_end_without_the_done_line_are_a_stream(serve):
    text = ": still working\n\n" + events({"reasoning": "R"}, finish="stop")
    assert asked(serve, lambda request: send(request, text, kind="text/event-stream")).code == 0


def test_an_end_with_the_done_line_alone_is_a_stream(serve):
    text = events({"reasoning": "R"}, finish=None) + "data: [DONE]\n\n"
    assert asked(serve, lambda request: send(request, text, kind="text/event-stream")).code == 0


def refuse(status: int, body: str, **headers: str):
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body.encode())

    return answer


def streamed(text: str):
    return lambda request: send(request, text, kind="text/event-stream")


def drip(request: BaseHTTPRequestHandler, head: bytes = b"HTTP/1.1 200 OK\r\nX-Slow: ") -> None:
    """Send one byte every 50 ms for longer than any of these tests waits."""
    with contextlib.suppress(OSError):
        request.wfile.write(head)
        for _ in range(200):
            request.wfile.write(b"x")
            request.wfile.flush()
            time.sleep(0.05)


def flood(request: BaseHTTPRequestHandler) -> None:
    """Stream comments without an end."""
    with contextlib.suppress(OSError):
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while True:
            request.wfile.write(b": wait" * 2000 + b"\n")


def close(request: BaseHTTPRequestHandler) -> None:
    request.connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refuse(401, "no: f00d"), "refuses us with 401"),
        (refuse(404, "nobody"), "it knows no model 'm'"),
        (refuse(429, "", Retry_After="17"), "come again in 17 s"),
        (refuse(500, "<b>the key\nf00d is\x1b[31m wrong</b>"), "it answers 500: <b>the key *** is [31m wrong</b>"),
        (refuse(500, "x" * 158 + "f00d"), "xx**"),  # cut off in the middle of the key
        (refuse(307, "", Location="https://other/v1"), "it answers 307: https://other/v1"),
        (refuse(200, "<html>Welcome</html>"), "what is no JSON: <html>Welcome"),
        (refuse(200, "[]"), "what is no chat completion: []"),
        (refuse(200, "[" * 100_000), "what is no JSON: [[["),
        (refuse(200, '{"choices": []}'), "what is no chat completion"),
        (refuse(200, '{"choices": [{"message": "hi"}]}'), "what is no chat completion"),
        (refuse(200, '{"error": {"message": "out of memory"}}'), "an error: {"),
        (streamed("data: {oops\n\n"), "what is no JSON: {oops"),
        (streamed('data: {"error": "overloaded"}\n\n'), "an error: "),
        (streamed(events({"reasoning": "R"}, finish=None)), "its stream breaks off"),
        (streamed(f"data: {'x' * 100_000}\n\n"), "what is no JSON: xxx"),
        (flood, "far too long"),
        (close, "the connection broke off"),
    ],
)
def test_a_bad_answer_is_told_in_words_without_the_key(serve, answer, words):
    found = asked(serve, answer, api_key="f00d")
    assert found.code == 4 and words in found.message and "f00d" not in found.message, found
    assert found.message.isprintable() and len(found.message) <= 400


def drip_the_body(request: BaseHTTPRequestHandler) -> None:
    drip(request, b"HTTP/1.1 200 OK\r\n\r\n")


def drip_a_stream(request: BaseHTTPRequestHandler) -> None:
    drip(request, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")


@pytest.mark.parametrize("answer", [lambda _: time.sleep(10), drip, drip_a_stream])
def test_a_server_that_hangs_or_drips_takes_no_longer_than_the_timeout(serve, answer):
    began = time.monotonic()
    found = asked(serve, answer, timeout=0.2)
    assert time.monotonic() - began < 3 and found.code == 4  # a busy machine is slow to wake us; without the bound it would be ten
    assert "no whole answer within 0.2 s: it" in found.message


def test_a_probe_that_gives_up_hangs_up(serve):
    left = threading.Event()

    def answer(request):
        drip_the_body(request)  # ends early where nobody listens any more
        left.set()

    asked(serve, answer, timeout=0.2)
    assert left.wait(4)


def test_a_late_answer_is_told_from_none(serve):
    assert "its answer begins and does not end" in asked(serve, drip_the_body, timeout=0.6).message


def test_a_name_that_is_looked_up_for_ever_takes_no_longer_than_the_timeout(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(5) or [])
    began = time.monotonic()
    assert "cannot be reached" in probe(Question("http://slow.example/v1", "m", timeout=0.2)).message
    assert time.monotonic() - began < 3


def test_nothing_listens():
    assert "cannot be reached" in probe(Question("http://127.0.0.1:9/v1", "m")).message


def test_https_where_http_is_spoken_is_told(serve):
    url = serve(hang).replace("http:", "https:")
    assert "SSL" in probe(Question(url, "m")).message


def test_a_handshake_that_is_never_answered_takes_no_longer_than_the_timeout():
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = probe(Question(f"https://127.0.0.1:{silent.getsockname()[1]}/v1", "m", timeout=0.2))
    assert "no whole answer within 0.2 s" in found.message and time.monotonic() - began < 3


@pytest.mark.parametrize("listed", ['{"data": []}', '{"data": null}', "{}", '{"data": ["m"]}'])
def test_an_endpoint_without_a_model_is_told(serve, listed):
    assert "lists no model" in asked(serve, lambda request: send(request, listed), model="").message


@pytest.mark.parametrize(
    "url", ["", "host:8000", "ftp://host/v1", "http:///v1", "http://me:secret@host/v1", "http://host/v1?key=secret", "http://h:99999/"]
)
def test_what_is_no_address_is_refused_and_not_repeated(url):
    with pytest.raises(ValueError, match=r"must look like|Port out of range") as problem:
        Question(url)
    assert "secret" not in str(problem.value)


@pytest.mark.parametrize("key", ["", "two words", "line\nend", "schlüssel"])
def test_a_key_that_cannot_stand_in_a_header_is_refused_and_not_repeated(key):
    with pytest.raises(ValueError, match="one word of ASCII characters"):
        Question("http://host/v1", api_key=key)
    assert "f00d" not in repr(Question("http://host/v1", api_key="f00d"))


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"timeout": -1}, {"timeout": float("nan")}, {"timeout": 1e9}, {"max_tokens": 0}])
def test_a_timeout_that_bounds_nothing_and_an_answer_without_tokens_are_refused(wrong):
    with pytest.raises(ValueError, match="timeout must be"):
        Question("http://host/v1", **wrong)


def test_a_listed_name_cannot_steer_the_terminal(serve):
    found = asked(serve, lambda request: send(request, '{"data": [{"id": "m\\u001b[2J\\nOK"}]}'), model="")
    assert found.model == "m [2J OK" and "no chat completion" in found.message


def line(*arguments: object, monkeypatch, capsys) -> tuple[str, int]:
    monkeypatch.setattr(sys, "argv", ["health", *map(str, arguments)])
    try:
        code = health.main()
    except SystemExit as end:
        code = int(end.code or 0)
    shown = capsys.readouterr()
    return shown.out + shown.err, code


THINKS = completion({"content": None, "reasoning": "R"})


@pytest.mark.parametrize(
    ("body", "warn", "code", "state"),
    [(THINKS, 5, 0, "OK"), (THINKS, 1e-6, 1, "WARNING"), (completion({"content": "4"}), 5, 2, "CRITICAL"), ("pipe | in it", 5, 2, "CRITICAL")],
)
def test_nagios_gets_one_line_with_performance_data_and_its_code(serve, monkeypatch, capsys, body, warn, code, state):
    url = serve(lambda request: send(request, body))
    shown, ended = line("--url", url, "--model", "m", "--nagios", "--warn", warn, monkeypatch=monkeypatch, capsys=capsys)
    words, _, data = shown.partition("|")
    assert ended == code and words.startswith(f"THINKSHIP {state} - m at {url}: ") and shown.count("\n") == 1
    assert data.startswith("time=0.") and f"s;{warn:g};;0 thinking=" in data


def test_nagios_gets_the_first_token_of_a_stream():
    assert "|time=0.310s;;;0 first_token=0.050s;;;0 thinking=12;;;0" in Health(True, True, 0.31, "", "m", 0.05, 12).nagios("http://h/v1")[0]


@pytest.mark.parametrize("wrong", [("--timeout", "0"), ("--nonsense",), ("--api-key-file", "/nowhere")])
def test_a_wrong_command_line_is_unknown_to_nagios_and_code_2_to_others(monkeypatch, capsys, wrong):
    arguments = ("--url", "http://127.0.0.1:9/v1", "--model", "m", *wrong)
    shown, code = line(*arguments, "--nagios", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 3 and shown.startswith("THINKSHIP UNKNOWN - ") and shown.count("\n") == 1
    assert line(*arguments, monkeypatch=monkeypatch, capsys=capsys)[1] == 2


@pytest.mark.parametrize(("body", "code"), [(THINKS, 0), ("oops", 4), (completion({"content": "4"}), 6)])
def test_the_file_alone_runs_with_the_standard_library_and_nothing_else(serve, tmp_path, body, code):
    url = serve(lambda request: send(request, body) if request.headers["Authorization"] == "Bearer f00d" else send(request, "f00d", 401))
    shutil.copy(health.__file__, tmp_path)
    (tmp_path / "key").write_text("f00d\n")
    arguments = ("health.py", "--url", url, "--model", "m", "--api-key-file", "key", "--json")
    done = subprocess.run((sys.executable, "-I", "-S", *arguments), cwd=tmp_path, env={}, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (code, "") and found["thinks"] == (code == 0) and found["url"] == url
    assert "f00d" not in done.stdout
