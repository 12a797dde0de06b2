# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
from __future__ import annotations

import json
from pathlib import Path

import pytest
from loopback import Serve, send, serve

from toolkit.engines import Endpoint
from toolkit.engines.chat import Chat
from toolkit.recipe import Think
from toolkit.verify import Expectations, Finding, Probe, identity

WANTED = (("20", -0.01), (" +", -0.02), (" 7", -0.03), ("</think>", -0.04), ("27", -0.05))
BASE = ("The", " sum", " of")
PROBE = Probe("20 + 7?", WANTED, BASE)


@pytest.mark.parametrize(
    ("said", "equal", "as_base", "distance"),
    [
        (WANTED, 4, 0, 0.0),
        (tuple(pair for pair in WANTED if pair[0] != "</think>"), 4, 0, 0.0),
        ((("20", -0.11), (" +", -0.02), (" 9", -3.0)), 2, 0, 0.1),
        ((("The", -1.0), (" sum", -1.0)), 0, 2, 0.0),
        ((), 0, 0, 0.0),
    ],
)
def test_an_answer_is_followed_up_to_its_first_other_token(said, equal, as_base, distance):
    found = identity.match(PROBE, said, Think())
    assert (found.equal, found.wanted, found.as_base) == (equal, 4, as_base) and found.distance == pytest.approx(distance)


def told(serve: Serve, tokens: list[tuple[str, float]] | None, variant: str = "q8_0") -> Finding:
    """The finding on a server that says these tokens."""
    content = (
        None if tokens is None else {"content": [{"token": token, "logprob": value, "bytes": None, "top_logprobs": []} for token, value in tokens]}
    )
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}, "logprobs": content}
    body = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})
    with Chat(Endpoint("openai", serve(lambda handler: send(handler, body)), "m"), timeout=5) as chat:
        return identity.check("openai", Expectations(probes=(PROBE, PROBE), variant=variant), chat)


def test_the_merged_models_own_tokens_pass(serve):
    found = told(serve, list(WANTED))
    assert found.status == "pass" and "100% of 8 greedy tokens" in found.message


def test_the_bases_tokens_are_told_as_a_missing_adapter(serve):
    found = told(serve, [(token, -0.5) for token in BASE])
    assert found.status == "fail" and "the adapter is not in it" in found.message and "merge step" in found.remedy


def test_equal_tokens_of_another_probability_are_another_model(serve):
    assert told(serve, [(token, value - 0.2) for token, value in WANTED]).status == "fail"


def test_a_coarse_quantisation_may_stray_further(serve):
    strayed = [*((token, value - 0.15) for token, value in WANTED[:4]), ("28", -0.9)]
    assert told(serve, strayed, "q4_k_m").status == "pass" and told(serve, strayed, "q8_0").status == "fail"


def test_a_server_that_tells_no_tokens_is_skipped_and_says_so(serve):
    found = told(serve, None)
    assert (found.status, found.required) == ("skip", False) and "tells no tokens" in found.message


def test_without_probes_nothing_is_asked():
    with Chat(Endpoint("openai", "http://127.0.0.1:9/v1", "m")) as chat:
        assert identity.check("openai", Expectations(), chat).status == "skip"


def test_a_server_that_is_gone_is_a_finding():
    with Chat(Endpoint("openai", "http://127.0.0.1:9/v1", "m"), timeout=2) as chat:
        found = identity.check("openai", Expectations(probes=(PROBE,)), chat)
    assert found.status == "fail" and "cannot be asked" in found.message


def test_the_merge_stages_file_is_read_line_by_line(tmp_path: Path):
    line = {"question": "20 + 7?", "tokens": [token for token, _ in WANTED], "logprobs": [value for _, value in WANTED], "base_tokens": list(BASE)}
    (tmp_path / identity.FILE).write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert identity.read(tmp_path) == (PROBE,) and identity.read(tmp_path / "elsewhere") == ()
