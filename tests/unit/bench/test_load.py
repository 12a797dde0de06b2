# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""Streams timed on a real server that takes its time, the thinking apart from the answer."""

from __future__ import annotations

import json
import time
from itertools import pairwise

import pytest
from loopback import Serve, events, send, serve
from model_server import ModelServer, event

from toolkit.bench.figures import figures, percentile
from toolkit.bench.load import Level, Timing, grown, level, timing
from toolkit.engines import Answer, Endpoint
from toolkit.engines.chat import Chat

QUESTIONS = ["2 + 2?", "Capital of France?", "Sky?"] * 3


def chat(url: str, engine: str = "vllm") -> Chat:
    return Chat(Endpoint(engine, url, "m"), timeout=5)


def slowly(request):
    """Think for 0.1 s, answer after another 0.1 s."""
    request.send_response(200)
    request.send_header("Content-Type", "text/event-stream")
    request.end_headers()
    for delta in ({"reasoning": "a "}, {"reasoning": "b "}, {"content": "\n"}, {"content": "c"}):
        time.sleep(0.05)
        event(request, {"delta": delta, "finish_reason": None})
    event(request, {"delta": {}, "finish_reason": "stop"})
    usage = {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}
    request.wfile.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode())


def test_thinking_and_answer_are_timed_apart(serve: Serve):
    with chat(serve(slowly)) as client:
        found = level(client, ["q"], 1, 64)
    (one,) = found.timings
    assert 0.04 < one.first < 0.15 and one.first_answer and one.first_answer - one.first > 0.12 and one.last == one.first_answer
    assert (one.thinking, one.answer, one.told) == (6, 2, False) and len(one.gaps) == 3


def test_streams_at_once_are_faster_together_and_each_is_asked_its_own_question(serve: Serve):
    server = ModelServer(slots=4)
    with chat(serve(server)) as client:
        found = level(client, QUESTIONS, 3, 64)
    row = figures(found)
    assert (row["answers"], row["failed"], row["streams"]) == (9, 0, 3)
    assert len([path for path in server.asked if path.endswith("/chat/completions")]) == 9
    assert row["thinking_tokens"] == pytest.approx(3, abs=1) and row["tokens_per_second"] > 0


def test_one_client_after_the_other_waits_and_many_wait_together(serve: Serve):
    url = serve(slowly)
    with chat(url) as client:
        alone, together = level(client, ["q"] * 4, 1, 8), level(client, ["q"] * 4, 4, 8)
    assert alone.seconds > 0.75 > together.seconds


def test_an_answer_that_fails_is_counted_and_the_others_are_timed(serve: Serve):
    def half(request):
        if b"Sky?" in request.body:
            send(request, '{"error": {"message": "busy"}}', 503)
        else:
            send(request, events({"reasoning": "r"}, {"content": "a"}), kind="text/event-stream")

    with chat(serve(half)) as client:
        row = figures(level(client, QUESTIONS, 2, 8))
    assert (row["answers"], row["failed"]) == (6, 3) and "busy" in row["errors"][0] and len(row["errors"]) == 1


def timed(*parts: tuple[str, str], where: str | None = "reasoning", **told: int):
    """Time an answer whose reasoning and text grow by one pair a second."""
    states = [Answer("", "", None)]
    for reasoning, text in parts:
        states.append(Answer(states[-1].reasoning + reasoning, states[-1].text + text, None))
    moments = [grown(*pair, float(second)) for second, pair in enumerate(pairwise(states), 1)]
    whole = states[-1]
    return timing(Answer(whole.reasoning, whole.text, "stop", where=where, **told), [moment for moment in moments if moment])


def test_thinking_inside_the_content_is_known_by_its_closing_tag():
    states = [("", "so"), ("", "so it"), ("so it", ""), ("so it", "\n"), ("so it", "\n4")]
    answers = [Answer("", "", None), *(Answer(*state, None) for state in states)]
    moments = [grown(*pair, float(second)) for second, pair in enumerate(pairwise(answers), 1)]
    found = timing(Answer("so it", "\n4", "stop", completion_tokens=10, where="inline"), [moment for moment in moments if moment])
    assert (found.thinking, found.answer, found.first, found.first_answer) == (8, 2, 1.0, 5.0)


def test_what_the_server_tells_of_its_thinking_is_believed():
    found = timed(("r", ""), ("", "4"), completion_tokens=10, reasoning_tokens=7)
    assert (found.thinking, found.answer, found.told, found.tokens) == (7, 3, True, 10)


def test_an_answer_without_thinking_is_all_answer():
    found = timed(("", "4"), ("", "2"), where=None, completion_tokens=2)
    assert (found.thinking, found.answer, found.first_answer) == (0, 2, 1.0)


def test_an_answer_that_is_cut_off_while_thinking_has_no_first_token_of_its_answer():
    found = timed(("r", ""), ("s", ""), completion_tokens=2)
    assert found.first_answer is None and (found.thinking, found.answer) == (2, 0)
    row = figures(Level(1, 2.0, (found,), ()))
    assert row["cut_while_thinking"] == 1 and row["first_answer_token_seconds"] == {"p50": None, "p95": None}


def test_an_empty_answer_has_no_speed():
    found = timing(Answer("", "", "stop", completion_tokens=0, seconds=0.2), ())
    assert found == Timing(0.2, None, 0.2, (), 0, 0, False) and found.speed is None


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 3.0), (0.95, 4.8), (1.0, 5.0)])
def test_percentiles_lie_between_their_neighbours(share, value):
    assert percentile([5.0, 1.0, 4.0, 2.0, 3.0], share) == pytest.approx(value)


def test_no_values_have_no_percentile():
    assert percentile([], 0.5) is None
