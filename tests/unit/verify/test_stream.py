# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""A stream is held against the whole answer of the same real server on loopback."""

from __future__ import annotations

import json
from itertools import count

import pytest
from loopback import completion, events, send, serve

from toolkit.engines import Endpoint
from toolkit.engines.chat import Chat
from toolkit.verify import Expectations, Question, Reply
from toolkit.verify.observe import examine
from toolkit.verify.think import compare_stream

WHOLE = {"content": "The answer is 4.", "reasoning": "Two and two."}


def compared(start, whole, *deltas, finish="stop"):
    numbers = count()
    made = whole if callable(whole) else lambda: whole
    first = made()

    def answer(request):
        # The body was read by the handler; the first request is the streamed one.
        if next(numbers):
            send(request, completion(made()))
        else:
            send(request, events(*deltas, finish=finish), kind="text/event-stream")

    known = Reply(question="2 + 2?", reasoning=first["reasoning"], text=first["content"], where="reasoning", finish="stop")
    with Chat(Endpoint("vllm", start(answer), "m"), timeout=5) as chat:
        return compare_stream(chat, known, Expectations())


def test_equal_answers_agree(serve):
    assert compared(serve, WHOLE, {"reasoning": "Two and two."}, {"content": "The answer "}, {"content": "is 4."}) == ""


def test_another_text_is_a_difference(serve):
    assert "text of the answer differs" in compared(serve, WHOLE, {"reasoning": "Two and two."}, {"content": "It is 5."})


def test_reasoning_in_another_place_is_a_difference(serve):
    problem = compared(serve, WHOLE, {"content": "Two and two.</think>The answer is 4."})
    assert "in reasoning when whole and left in the content, between tags when streamed" in problem


def test_a_broken_stream_is_a_difference(serve):
    assert "no finish reason" in compared(serve, WHOLE, {"content": "The"}, finish=None)


def test_a_server_that_never_repeats_itself_is_held_to_the_structure_only(serve):
    numbers = count()
    whole = lambda: {"content": f"answer {next(numbers)}", "reasoning": "R"}  # noqa: E731
    assert compared(serve, whole, {"reasoning": "R"}, {"content": "another"}) == ""


def test_a_server_without_reasoning_fails_the_think_contract_and_keeps_the_stop_contract(serve):
    def answer(request):
        if request.path.endswith("/chat/completions"):
            send(request, completion({"content": "The answer is 4."}))
        else:
            send(request, json.dumps({"error": "no such path"}), 404)

    endpoint = Endpoint("openai", serve(answer), "m")
    replies, findings = examine(endpoint, Expectations(questions=(Question("2 + 2?"),), timeout=5))
    statuses = {finding.name: finding.status for finding in findings}
    assert statuses.items() >= {"think": "fail", "stop": "pass", "prompt": "skip", "identity": "skip", "task": "skip", "concurrency": "skip"}.items()
    assert findings[0].evidence["breaches"] == ["2 + 2? → no reasoning"]
    assert [reply.text for reply in replies] == ["The answer is 4."]


def test_a_base_model_is_measured_and_not_judged(serve):
    endpoint = Endpoint("openai", serve(lambda request: send(request, completion({"content": "4"}))), "m")
    assert examine(endpoint, Expectations(questions=(Question("2 + 2?"),), base=True))[1] == ()


def test_an_endpoint_that_answers_nothing_is_an_error(serve):
    endpoint = Endpoint("openai", serve(lambda request: send(request, "{}", 500)), "m")
    with pytest.raises(Exception, match="not one of 1 questions was answered"):
        examine(endpoint, Expectations(questions=(Question("2 + 2?"),)))
