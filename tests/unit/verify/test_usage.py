# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""Token counts, on a real server that counts well, and on one that does not."""

from __future__ import annotations

from typing import Any

import pytest
from loopback import serve
from model_server import WORDS, ModelServer

from toolkit.engines import Endpoint
from toolkit.engines.chat import Chat
from toolkit.verify import Expectations, Finding, Question, Reply, usage
from toolkit.verify.task import ask_all

ASKED = Expectations(questions=tuple(map(Question, WORDS)), timeout=5)


def check(url: str, engine: str = "vllm", replies: list[Reply] | None = None, **changes: Any) -> Finding:
    with Chat(Endpoint(engine, url, "m"), timeout=5) as chat:
        answered = list(ask_all(chat, ASKED)) if replies is None else replies
        return usage.check(engine, ASKED, [reply.model_copy(update=changes) for reply in answered], chat)


def test_a_server_that_counts_well_passes(serve):
    finding = check(serve(ModelServer()))
    assert finding.status == "pass"
    assert finding.message == (
        "prompt_tokens of 3 prompts is what the server's tokenizer counts; "
        "completion_tokens of 3 answers lies within 1 and max_tokens; a stream tells the same"
    )


def test_a_prompt_that_is_counted_wrongly_is_found(serve):
    finding = check(serve(ModelServer({"overcounts": 1})))
    assert finding.status == "fail" and "prompt_tokens is 12 where the server's tokenizer counts 11" in finding.message and finding.remedy


def test_a_completion_that_is_counted_wrongly_is_found(serve):
    finding = check(serve(ModelServer({"multiplies": 3})))
    assert finding.status == "fail" and "completion_tokens is 18 where the tokenizer counts 6 in reasoning and answer" in finding.message


def test_a_stream_that_counts_otherwise_is_found(serve):
    finding = check(serve(ModelServer({"streams another count": 2})))
    assert finding.status == "fail" and "are (7, 6) when whole and (7, 8) when streamed" in finding.message


def test_another_answer_in_the_stream_is_not_held_against_its_count(serve):
    good = ModelServer({"streams another count": 2})

    def never_the_same(request):
        if b'"stream":true' in request.body.replace(b" ", b""):
            request.body = request.body.replace(b"2 + 2?", b"Sky?")
        good(request)

    finding = check(serve(never_the_same))
    assert finding.status == "pass" and "stream not compared: the two answers differ" in finding.message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"completion_tokens": 0}, "completion_tokens is 0"),
        ({"completion_tokens": 513}, "completion_tokens is 513, with max_tokens 512"),
        ({"completion_tokens": 6, "reasoning_tokens": 7}, "reasoning_tokens is 7 of 6"),
    ],
)
def test_a_count_out_of_its_bounds_is_found(serve, changes, words):
    assert words in check(serve(ModelServer()), **changes).message


def test_reasoning_tokens_are_held_against_the_tokens_of_the_reasoning(serve):
    url, long = serve(ModelServer()), "Two and two " * 20
    counts = {"reasoning": long, "text": "It is 4.", "completion_tokens": 63}
    assert check(url, **counts, reasoning_tokens=60).status == "pass"
    finding = check(url, **counts, reasoning_tokens=0)
    assert finding.status == "fail" and "reasoning_tokens is 0 where the tokenizer counts 60 in the reasoning" in finding.message


def test_a_count_that_only_some_answers_have_is_found(serve):
    replies = [Reply(question="2 + 2?", completion_tokens=6), Reply(question="Sky?")]
    assert "completion_tokens is missing in 1 of 2 answers" in check(serve(ModelServer()), replies=replies).message


def test_what_a_server_cannot_tell_is_said(serve):
    finding = check(serve(ModelServer({"streams no usage": True})), "openai")
    assert finding.status == "pass" and "prompt not compared: openai has no request that counts tokens" in finding.message
    assert "stream not compared: no usage is streamed" in finding.message


def test_a_server_that_tells_nothing_is_skipped_and_not_required(serve):
    finding = check(serve(ModelServer({"streams no usage": True})), "openai", completion_tokens=None)
    assert (finding.status, finding.required) == ("skip", False) and "the server tells no completion_tokens" in finding.message


def test_a_probe_that_fails_is_a_reason_and_no_end(serve):
    finding = check(serve(ModelServer()), "llamacpp")  # it has no /apply-template
    assert finding.status == "pass" and "prompt not compared: " in finding.message and "404" in finding.message
