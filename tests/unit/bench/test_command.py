# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""`thinkship bench` as a person or a program meets it, against a real server."""

from __future__ import annotations

import json

import pytest
from conftest import DEMO
from loopback import Serve, send, serve
from model_server import ModelServer
from terminal import thinkship


def test_the_table_has_a_line_a_level(serve: Serve, tmp_path):
    done = thinkship("bench", "--url", serve(ModelServer(slots=8)), "--streams", "1,4", "--requests", "4", "--tokens", "32", "--store", tmp_path)
    lines = [line.split() for line in done.stdout.splitlines() if line.split()[:1] in (["1"], ["4"])]
    assert done.returncode == 0 and [line[:3] for line in lines] == [["1", "4", "0"], ["4", "4", "0"]], done.stdout + done.stderr
    assert "shared out by the number of streamed pieces" in done.stdout


def test_programs_read_the_same_figures(serve: Serve, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "Sky?"}\n{"Question": "2 + 2?"}\n')
    options = ("--streams", "2", "--questions", tmp_path / "q.jsonl", "--json", "--store", tmp_path)
    done = thinkship("bench", "--url", serve(ModelServer()), "--model", "m", *options)
    found = json.loads(done.stdout)
    assert (found["schema"], found["model"], found["engine"]) == (1, "m", "vllm") and found["levels"][0]["answers"] == 8
    assert found["levels"][0]["answer_tokens"] == 2.0  # "Blue." and "It is 4." in turn


def test_a_level_without_an_answer_is_code_5_and_says_why(serve: Serve, tmp_path):
    done = thinkship(
        "bench", "--url", serve(lambda request: send(request, '{"error": {"message": "full"}}', 503)), "--model", "m", "--store", tmp_path
    )
    assert done.returncode == 5 and "no answer with 1 streams at once" in done.stderr and "full" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--streams", "1,x"), "is no list of numbers"),
        (("--streams", "0"), "each must lie within 1 and 1024"),
        (("--questions", "nowhere.jsonl"), "the questions cannot be read"),
        ((DEMO,), "name it with --engine"),
        ((DEMO, "--url", "http://127.0.0.1:1/v1"), "a recipe and --url were both given"),
        (("--url", "here"), "is no address of an endpoint"),
    ],
)
def test_what_cannot_be_asked_is_code_2(arguments, words, tmp_path):
    done = thinkship("bench", *arguments, "--store", tmp_path)
    assert done.returncode == 2 and words in done.stderr
