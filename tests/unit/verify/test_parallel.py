# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""Streams at once, on a real server that keeps them apart and frees what is abandoned, and on one that does not."""

from __future__ import annotations

import pytest
from loopback import completion, events, send, serve
from model_server import WORDS, ModelServer

from toolkit.engines import Endpoint
from toolkit.engines.chat import Chat
from toolkit.verify import Expectations, Reply, streams

REPLIES = [Reply(question=question, reasoning=reasoning, text=text) for question, (reasoning, text) in WORDS.items()]
THREE = Expectations(parallel=3, timeout=5)


def chat(url: str, engine: str = "vllm") -> Chat:
    return Chat(Endpoint(engine, url, "m"), timeout=5)


def concurrency(url: str, replies: list[Reply] = REPLIES):
    with chat(url) as client:
        return streams.concurrency(client, THREE, replies)


def test_streams_that_stay_apart_pass(serve):
    finding = concurrency(serve(ModelServer()))
    assert (finding.status, finding.message) == ("pass", "3 of 3 streams at once answer their own question")


def test_streams_that_are_mixed_are_found_with_the_question_they_belong_to(serve):
    finding = concurrency(serve(ModelServer({"mixed": True})))
    assert finding.status == "fail" and "which belongs to" in finding.evidence["faults"][0] and finding.remedy


def test_streams_that_fail_at_once_are_found(serve):
    finding = concurrency(serve(lambda request: send(request, '{"error": {"message": "busy"}}', 503)))
    assert finding.status == "fail" and "0 of 3" in finding.message and "busy" in finding.message


@pytest.mark.parametrize("replies", [REPLIES[:1], [], [REPLIES[0], REPLIES[1].model_copy(update={"error": "hung"})]])
def test_one_answered_question_is_not_enough_to_tell(serve, replies):
    finding = concurrency(serve(ModelServer()), replies)
    assert (finding.status, finding.required) == ("skip", False)


def known(text: str, question: str = "a?") -> Reply:
    return Reply(question=question, reasoning="", text=text)


OWN = known("Tens: 70 + 50 = 120. Ones: 3 + 6 = 9. Together: 120 + 9 = 129.")
OTHER = known("Tens: 20 + 30 = 50. Ones: 4 + 5 = 9. Together: 50 + 9 = 59.", "b?")


@pytest.mark.parametrize(
    ("said", "mixed"),
    [
        ("Tens: 70 + 50 = 120. Ones: 3", False),
        ("Tens: 70 + 50 = 130. Ones: 3", False),  # as another batch may round it
        ("Sum: 123 + 6 = 129", False),
        ("Tens: 20 + 30 = 50. Ones: 4", True),
        ("Tens: 20 + 50 30 = 50. 120.", True),
    ],
)
def test_only_another_questions_answer_counts_as_mixed(said, mixed):
    assert bool(streams._fault(OWN, known(said), [OWN, OTHER])) is mixed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("own", "said", "other", "mixed"),
    [
        ("首先看症状：咳嗽三天，无发热。", "检查血压：收缩压一百四十", "检查血压：收缩压一百四十，偏高。", True),
        ("首先看症状：咳嗽三天，无发热。", "首先看症状：咳嗽", "检查血压：收缩压一百四十，偏高。", False),
        ("The answer is 4.", "It is 5.", "The answer is 5.", False),  # one word is chance
    ],
)
def test_what_is_mixed_is_seen_without_spaces_and_not_in_one_word(own, said, other, mixed):
    assert bool(streams._fault(known(own), known(said), [known(own), known(other, "b?")])) is mixed  # type: ignore[arg-type]


def test_streams_without_text_prove_nothing(serve):
    finding = concurrency(serve(lambda request: send(request, events({}, finish="length"), kind="text/event-stream")))
    assert (finding.status, finding.required) == ("skip", False) and "no text" in finding.message


def test_equal_answers_of_two_questions_are_not_mixed():
    assert streams._fault(OWN, known("Ones"), [OWN, OWN.model_copy(update={"question": "b?"})]) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["vllm", "openai"])
def test_places_that_are_free_again_pass(serve, engine):
    with chat(serve(ModelServer(slots=3)), engine) as client:
        finding = streams.cancellation(client, THREE, grace=1.0)
    assert finding.status == "pass" and finding.evidence["abandoned"] == 3


def test_a_server_that_goes_on_for_nobody_is_found(serve):
    with chat(serve(ModelServer({"deaf": 2.0}, slots=3))) as client:
        finding = streams.cancellation(client, THREE, grace=0.2)
    assert finding.status == "fail" and "after 3 abandoned streams" in finding.message and finding.remedy


def test_a_stream_in_one_piece_cannot_be_abandoned(serve):
    def one_piece(request):
        if b'"stream":true' in request.body.replace(b" ", b""):
            send(request, 'data: {"choices": []}\n\n', kind="text/event-stream")
        else:
            send(request, completion({"content": "4"}))

    with chat(serve(one_piece)) as client:
        finding = streams.cancellation(client, THREE)
    assert (finding.status, finding.required) == ("skip", False) and "one piece" in finding.message


def test_an_engine_that_answers_one_after_the_other_is_asked_for_two(serve):
    with chat(serve(ModelServer()), "transformers") as client:
        assert streams.concurrency(client, Expectations(parallel=8), REPLIES).evidence["streams"] == 2
