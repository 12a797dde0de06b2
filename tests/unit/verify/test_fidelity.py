# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""What quantising cost, from the file's figures and from the log-probabilities of a real server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from loopback import send, serve

from toolkit.assessment import Fidelity
from toolkit.chat_template import ChatTemplate
from toolkit.engines import Endpoint
from toolkit.engines.chat import Chat
from toolkit.quality import breaches, recommended
from toolkit.verify import Expectations, Finding, Probe, fidelity

TEMPLATE = ChatTemplate("{% for m in messages %}Q: {{ m.content }} A:{% endfor %}", {})
PROBE = Probe("2 + 2?", ((" It", -0.1), (" is", -0.01), (" 4", -0.2), (".", -0.02)), ("No",))
EXPECTED = Expectations(template=TEMPLATE, probes=(PROBE,), variant="bf16", timeout=5)
PIECES = ["Q:", " 2", " +", " 2?", " A:", " It", " is", " 4", ".", "<end>"]


class Scorer:
    """A server that scores a given text: `loss` nats below the merged model a token, another likeliest token at some places."""

    def __init__(self, loss: float = 0.0, other: tuple[int, ...] = (), pieces: list[str] = PIECES) -> None:
        self.loss, self.other, self.pieces = loss, other, pieces

    def __call__(self, request) -> None:
        body = json.loads(request.body)
        assert (body["prompt"], body["echo"], body["logprobs"]) == ("Q: 2 + 2? A: It is 4.", True, 1)
        known = [None] + [-1.0] * 4 + [value - self.loss for _, value in PROBE.wanted] + [-0.5]
        values = known[: len(self.pieces)]
        best = [{"?" if place in self.other else piece: -0.1} for place, piece in enumerate(self.pieces)]
        told = {"tokens": self.pieces, "token_logprobs": values, "top_logprobs": [None, *best[1:]], "text_offset": []}
        choice = {"index": 0, "text": body["prompt"], "finish_reason": "length", "logprobs": told}
        send(request, json.dumps({"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}))


def check(url: str, **changes: Any) -> Finding:
    with Chat(Endpoint("vllm", url, "m"), timeout=5) as chat:
        return fidelity.check(chat, Expectations(**{**vars(EXPECTED), **changes}))


def test_the_merged_model_itself_loses_nothing(serve):
    finding = check(serve(Scorer()))
    assert finding.status == "pass" and (finding.evidence["top1"], finding.evidence["gap"]) == (1.0, 0.0)


def test_a_loss_beyond_the_limit_is_found_and_a_coarse_variant_may_lose_more(serve):
    url = serve(Scorer(loss=0.07))
    assert check(url).status == "fail" and check(url, variant="bnb-nf4").status == "pass"
    assert check(url, fidelity=Fidelity(gap={"bf16": 0.1})).status == "pass"
    assert check(serve(Scorer(loss=0.27)), variant="bnb-nf4").status == "fail"  # a model of half the size


def test_another_likeliest_token_is_found(serve):
    finding = check(serve(Scorer(other=(7,))), variant="bnb-nf4")
    assert finding.status == "fail" and finding.evidence["top1"] == 0.75 and finding.remedy
    assert check(serve(Scorer(other=(7,))), fidelity=Fidelity(top1={"bf16": 0.7})).status == "pass"


@pytest.mark.parametrize(
    "answer",
    [
        Scorer(pieces=["4."]),
        Scorer(pieces=[*PIECES[:7], " 4.", "<end>"]),
        lambda request: send(request, '{"error": {"message": "echo is not supported"}}', 400),
        lambda request: send(request, json.dumps({"choices": [{"index": 0, "text": "x", "finish_reason": "length"}]})),
    ],
)
def test_a_server_that_does_not_score_a_text_is_skipped(serve, answer):
    finding = check(serve(answer))
    assert (finding.status, finding.required) == ("skip", False) and "not score" in finding.message


def test_without_answers_of_the_merged_model_there_is_nothing_to_score(serve):
    assert check(serve(Scorer()), probes=()).status == "skip"


def gguf(**limits: Any) -> dict[str, Any]:
    def file(size: float, kl: float, top1: float = 1.0, growth: float = 0.0) -> dict[str, float]:
        return {"bytes": size * 1e6, "mean_kl": kl, "max_kl": kl * 9, "p99_kl": kl * 3, "top1": top1, "perplexity_growth": growth, "tokens": 370.0}

    types = {"f16": file(270, 0.0), "q8_0": file(145, 4e-5), "q6_k": file(138, 2e-4), "q4_k_m": file(105, 0.002, 0.99, 0.01)}
    return {"reference": "f16", "types": types, "limits": limits}


LIMITS = {"max_kl": {"q8_0": 0.01, "q4_k_m": 0.2}, "min_top1": {"q4_k_m": 0.9}, "max_perplexity_growth": {"q4_k_m": 0.05}}


def of_files(figures: dict[str, Any]) -> dict[str, Finding]:
    served = [("llamacpp", kind) for kind in figures["types"]] + [("llamacpp", "unknown")]
    return {finding.variant: finding for finding in fidelity.of_files(served, figures)}


def test_files_within_the_limits_pass_with_their_figures():
    seen = of_files(gguf(**LIMITS))
    assert {kind: finding.status for kind, finding in seen.items()} == {"f16": "skip", "q8_0": "pass", "q6_k": "skip", "q4_k_m": "pass"}
    assert "KL 0.00200 nats a token, 99 % of it below 0.0060, the likeliest token the same in 99.0%, perplexity +1.00%" in seen["q4_k_m"].message
    assert seen["q6_k"].message.endswith("the recipe has no limit for q6_k") and not seen["q6_k"].required
    assert seen["q4_k_m"].evidence["limits"] == {"max_kl": 0.2, "min_top1": 0.9, "max_perplexity_growth": 0.05}


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"max_kl": {"q4_k_m": 0.001}}, "mean KL divergence 0.0020, gguf/max_kl/q4_k_m allows 0.001"),
        ({"min_top1": {"q4_k_m": 0.995}}, "share of the same likeliest token 0.9900, gguf/min_top1/q4_k_m allows 0.995"),
        ({"max_perplexity_growth": {"q4_k_m": 0.005}}, "growth of the perplexity 0.0100, gguf/max_perplexity_growth/q4_k_m allows 0.005"),
    ],
)
def test_a_broken_limit_is_named_with_its_key(limit, words):
    figures = gguf(**{**LIMITS, **limit})
    assert breaches("q4_k_m", figures) == [words]
    finding = of_files(figures)["q4_k_m"]
    assert finding.status == "fail" and finding.message.startswith(words) and finding.required


def test_a_figure_that_is_no_number_keeps_no_limit():
    figures = gguf(**LIMITS)
    figures["types"]["q4_k_m"]["mean_kl"] = float("nan")
    assert breaches("q4_k_m", figures)


@pytest.mark.parametrize(
    ("limit", "best", "words"),
    [
        (None, "q4_k_m", "q4_k_m (105 MB, KL 0.002) is the smallest file that keeps the recipe's limits"),
        (140, "q6_k", "q6_k (138 MB, KL 0.0002) is the nearest to 16 bits within 140 MB"),
        (1000, "f16", "f16 (270 MB, KL 0) is the nearest"),
        (100, None, "no good file is within 100 MB; the smallest is q4_k_m (105 MB"),
    ],
)
def test_the_best_file_is_recommended(limit, best, words):
    found, why = recommended(gguf(**LIMITS), limit)
    assert found == best and words in why


def test_a_file_that_breaks_a_limit_is_never_recommended():
    broken = {**LIMITS, "max_kl": {"q8_0": 0.01, "q4_k_m": 0.001}}
    assert recommended(gguf(**broken))[0] == "q8_0"
    assert recommended(gguf(**broken), 110) == (None, "no good file is within 110 MB; the smallest is q6_k (138 MB, KL 0.0002)")
    assert recommended({**gguf(**LIMITS), "size_limit": 140})[0] == "q6_k"
