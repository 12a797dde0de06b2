# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""`thinkship chat` against a real server, through pipes and on a real terminal."""

from __future__ import annotations

import io
import json
import os
import sys
import time

import pytest
from conftest import DEMO
from loopback import completion, send, serve
from talker import Talker, pieces, thinks
from terminal import thinkship
from typist import Typist

from toolkit import process
from toolkit.chat.screen import Screen
from toolkit.engines import Answer


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def piped(monkeypatch: pytest.MonkeyPatch, text: str, *arguments: object):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    done = thinkship("chat", *arguments)
    assert "Traceback" not in done.stderr
    return done


# --- through pipes


def test_answers_alone_go_to_standard_output_and_thinking_to_standard_error(serve, monkeypatch):
    done = piped(monkeypatch, "one\n\ntwo\n", "--url", serve(Talker(thinks)))
    assert (done.returncode, done.stdout) == (0, "Indeed it is so.\nIndeed it is so.\n")
    assert done.stderr == "The user says one.\nThe user says two.\n"


def test_the_model_is_told_what_was_said_and_never_what_it_thought(serve, monkeypatch):
    server = Talker(thinks)
    piped(monkeypatch, "one\ntwo\n/clear\nthree\n", "--url", serve(server), "--system", "S", "--max-tokens", 50)
    system, one, two, three = (
        {"role": role, "content": text} for role, text in (("system", "S"), ("user", "one"), ("user", "two"), ("user", "three"))
    )
    said = {"role": "assistant", "content": "Indeed it is so."}
    assert [body["messages"] for body in server.bodies] == [[system, one], [system, one, said, two], [system, three]]
    first = server.bodies[0]
    assert first["max_tokens"] == 50 and "temperature" not in first and first["stream_options"] == {"include_usage": True}


def test_thinking_that_a_server_leaves_in_the_content_does_not_reach_standard_output(serve, monkeypatch):
    inline = pieces("content", "I think hard.\n</think>\n\nIt is 4.")
    done = piped(monkeypatch, "", "--url", serve(Talker(lambda _: inline)), "--ask", "2 + 2?")
    assert (done.returncode, done.stdout) == (0, "It is 4.\n") and "I think hard." in done.stderr


@pytest.mark.parametrize(("finish", "words"), [("length", "the tokens ended while the model was thinking"), ("stop", "there is no answer")])
def test_thinking_without_an_answer_is_code_6(serve, monkeypatch, finish, words):
    done = piped(monkeypatch, "", "--url", serve(Talker(lambda _: pieces("reasoning", "Well well."), finish)), "--ask", "2 + 2?")
    assert (done.returncode, done.stdout) == (6, "") and words in done.stderr


def test_an_answer_that_is_cut_off_is_said_to_be(serve, monkeypatch):
    done = piped(monkeypatch, "", "--url", serve(Talker(thinks, "length")), "--ask", "one")
    assert (done.returncode, done.stdout) == (0, "Indeed it is so.\n") and "cut off at the limit of tokens" in done.stderr


@pytest.mark.parametrize(("status", "code", "said"), [(401, 4, "refuses us with 401"), (500, 5, "answers 500")])
def test_a_failure_ends_it_with_its_code_and_what_was_answered_stays(serve, monkeypatch, status, code, said):
    good = Talker(thinks)
    url = serve(lambda request: send(request, "{}", status) if good.bodies else good(request))
    done = piped(monkeypatch, "one\ntwo\nthree\n", "--url", url, "--model", "m")
    assert (done.returncode, done.stdout) == (code, "Indeed it is so.\n") and said in done.stderr


def test_a_recipe_and_an_address_are_not_both_taken(monkeypatch):
    done = piped(monkeypatch, "", DEMO, "--url", "http://127.0.0.1:9/v1")
    assert done.returncode == 2 and "both given" in done.stderr


def running(folder, url: str, model: str) -> None:
    own = {"pid": os.getpid(), "started": process.started(os.getpid()), "log": "log"}
    (folder / ".servers").mkdir()
    (folder / ".servers" / "llamacpp.json").write_text(json.dumps({"engine": "llamacpp", "url": url, "model": model, **own}), encoding="utf-8")


def test_the_server_that_runs_is_talked_to_and_left_running(serve, monkeypatch, tmp_path):
    server = Talker(lambda _: [*pieces("reasoning_content", "Hm."), ("content", "Yes.")])
    running(tmp_path, serve(server), "smollm2-demo")
    for whom in ((), (DEMO,), (DEMO, "--engine", "llamacpp")):
        done = piped(monkeypatch, "", *whom, "--store", tmp_path, "--ask", "x")
        assert (done.returncode, done.stdout, done.stderr) == (0, "Yes.\n", "Hm.\n")
    assert {body["model"] for body in server.bodies} == {"smollm2-demo"} and len(server.bodies) == 3


def test_a_server_of_another_model_is_not_taken_for_the_recipes(serve, monkeypatch, tmp_path):
    running(tmp_path, serve(Talker(thinks)), "other")
    done = piped(monkeypatch, "", DEMO, "--store", tmp_path, "--ask", "x")
    assert done.returncode == 4 and "serves other at" in done.stderr and "thinkship stop" in done.stderr


# --- on a terminal


def test_a_person_sees_dimmed_thinking_folded_when_the_answer_begins(serve):
    with Typist("toolkit.cli", "chat", "--url", serve(Talker(thinks, delay=0.15))) as person:
        person.sees("> ")
        person.types("hello\r")
        person.sees("The user says hello.")
        person.sees("thought for ")
        person.sees("about 4 tokens  /think shows it")
        person.sees("Indeed it is so.")
        person.sees("(9 tokens, ")
        person.sees("4 of them thinking)")
        person.sees("> ")
        assert "\x1b[2mThe user says hello" in person.raw and "\x1b[2mthought for" in person.raw  # 2 is dim
        person.types("/think\r")
        person.sees("The user says hello.")
        person.types("/quit\r")
        assert person.ended() == 0


def test_thinking_stays_with_no_fold(serve):
    with Typist("toolkit.cli", "chat", "--no-fold", "--url", serve(Talker(thinks)), "--ask", "hello") as person:
        assert person.ended() == 0
        assert person.text.startswith("The user says hello.\n\nIndeed it is so.\n(9 tokens") and "\x1b[2mThe " in person.raw
        assert "thought for" not in person.text


def test_ctrl_c_stops_the_answer_and_ctrl_d_ends_the_program(serve):
    server = Talker(lambda question: thinks(question) if question == "short" else pieces("reasoning", "on and " * 2000), delay=0.02)
    with Typist("toolkit.cli", "chat", "--url", serve(server)) as person:
        person.sees("> ")
        person.types("endless\r")
        person.sees("on and on")
        person.types("\x03")
        person.sees("(stopped)")
        person.sees("> ")
        assert "\x1b[?25h" in person.raw[person.raw.rindex("\x1b[?25l") :]  # the thinking is cleared away and the cursor shown again
        person.types("\x03")
        person.sees("Ctrl-D or /quit ends")
        person.types("short\r")
        person.sees("Indeed it is so.")
        person.sees("> ")
        person.types("\x04")
        assert person.ended() == 0
    deadline = time.monotonic() + 5
    while not server.hung_up and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.hung_up == 1
    assert [message["content"] for message in server.bodies[1]["messages"]] == ["short"]  # what had no answer is forgotten


def test_an_error_is_told_and_the_conversation_goes_on(serve):
    good, broken = Talker(thinks), iter([True])
    url = serve(lambda request: send(request, "{}", 500) if request.command == "POST" and next(broken, False) else good(request))
    with Typist("toolkit.cli", "chat", "--url", url) as person:
        person.sees("> ")
        person.types("one\r")
        person.sees("error: ")
        person.sees("answers 500")
        person.types("two\r")
        person.sees("Indeed it is so.")
        person.types("/nonsense\r")
        person.sees("/clear")
        person.types("/clear\r")
        person.sees("forgotten")
        person.sees("> ")
        person.types("\x04")
        assert person.ended() == 0
    assert len(good.bodies[0]["messages"]) == 1


# --- what is shown, piece by piece


def shown(capsys: pytest.CaptureFixture[str], *seen: Answer) -> str:
    screen = Screen(fold=False)
    for answer in seen:
        screen.take(answer)
    screen.end(seen[-1])
    return capsys.readouterr().out


def test_what_looked_like_the_answer_is_said_to_have_been_thinking(capsys):
    out = shown(capsys, Answer("", "I thi", None), Answer("", "I think", None), Answer("I think", "\n\n4", None), Answer("I think", "\n\n4.", "stop"))
    assert out == "I think\n(what stands above was thinking)\n4.\n"


def test_the_beginning_of_a_tag_is_not_shown(capsys):
    assert shown(capsys, Answer("", "<thi", None), Answer("R", "", None), Answer("R", "4", "stop")) == "R\n\n4\n"


def test_a_model_cannot_steer_the_terminal(capsys):
    out = shown(capsys, Answer("\x1b]0;title\x07R", "", None), Answer("\x1b]0;title\x07R", "\x1b[2J4\x9b\r\n\t5", "stop"))
    assert out == "]0;titleR\n\n[2J4\n\t5\n"


@pytest.mark.parametrize(
    ("answer", "note"),
    [(Answer("", "4", "stop"), "(it did not think)"), (Answer("R", "", "length"), "(it did not answer, cut off at the limit of tokens)")],
)
def test_what_is_missing_is_said(capsys, answer, note):
    assert shown(capsys, answer).endswith(f"{note}\n")
