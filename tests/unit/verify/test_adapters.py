# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""Several adapters on one base: each must answer as itself, and one that colours another is found."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from loopback import Serve, send, serve

from toolkit.engines import Endpoint, engine
from toolkit.engines.chat import Chat
from toolkit.verify import Expectations, Finding, Probe, adapters

QUESTIONS = ("2 + 2?", "3 + 3?", "4 + 4?")
SAYS = {"own": "It is a sum of two", "second": "You ask me for a number", "third": "Sums are what I like"}


def said(name: str, question: str) -> list[tuple[str, float]]:
    return [(f" {word}", -0.1) for word in f"{SAYS[name]} {question}".split()]


def probes(name: str) -> tuple[Probe, ...]:
    return tuple(Probe(question, tuple(said(name, question)), (" Well",)) for question in QUESTIONS)


class Base:
    """A server of adapters by name (vllm) or by number (llamacpp); its fault makes it `deaf` to both, or lets two that run at once `cross`, or lets
    a prompt's `cache` be read by whoever asks the same later.
    """

    def __init__(self, names: tuple[str, ...], fault: str = "") -> None:
        self.names, self.fault = names, fault
        self.running: list[str] = []
        self.first: dict[str, str] = {}
        self.lock = threading.Lock()
        self.asked: list[tuple[str, str]] = []

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.body)
        question, wanted = body["messages"][-1]["content"], self._wanted(body)
        with self.lock:
            self.asked.append((wanted, question))
            self.running.append(wanted)
            wanted = self._answering(wanted, question)
        time.sleep(0.02)
        tokens = self._said(wanted, question)
        content = [{"token": token, "logprob": value, "bytes": None, "top_logprobs": []} for token, value in tokens]
        message = {"role": "assistant", "content": "".join(token for token, _ in tokens)}
        choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": {"content": content}}
        send(request, json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}))
        with self.lock:
            self.running.pop(0)

    def _wanted(self, body: dict[str, Any]) -> str:
        if self.fault == "deaf":
            return self.names[0]
        if "lora" not in body:
            return str(body["model"])
        (number,) = (entry["id"] for entry in body["lora"] if entry["scale"] == 1.0)
        assert [entry["id"] for entry in body["lora"]] == list(range(len(self.names))), "whatever is left out keeps a scale of its own"
        return self.names[number]

    def _said(self, wanted: str, question: str) -> list[tuple[str, float]]:
        """Say what the adapter says; `rounded`, one answer takes another word in the middle, which happens to be another adapter's."""
        tokens = said(wanted, question)
        return [*tokens[:5], (" for", -0.7), (" which", -0.1)] if self.fault == "rounded" and (wanted, question) == ("own", QUESTIONS[0]) else tokens

    def _answering(self, wanted: str, question: str) -> str:
        others = [other for other in self.running if other != wanted]
        if self.fault == "cross" and others:
            return others[0]
        return self.first.setdefault(question, wanted) if self.fault == "cache" else wanted


def found(serve: Serve, server: Base, name: str = "vllm", **expected: Any) -> Finding:
    expectations = Expectations(probes=probes("own"), adapters={"second": probes("second")}, variant="bf16-adapter", parallel=4)
    with Chat(Endpoint(name, f"{serve(server)}/v1", "own"), timeout=10) as chat:
        (finding,) = adapters.checks(chat, expectations if not expected else Expectations(**{**vars(expectations), **expected}))
    return finding


@pytest.mark.parametrize("name", ["vllm", "llamacpp"])
def test_each_adapter_is_asked_in_turn_and_at_once_and_answers_as_itself(serve, name):
    server = Base(("own", "second"))
    finding = found(serve, server, name)
    assert finding.status == "pass" and finding.required, finding.message
    assert "own in turn 100%" in finding.message and "second at once 100%" in finding.message
    in_turn = server.asked[: 2 * len(QUESTIONS)]
    assert in_turn == [(one, question) for question in QUESTIONS for one in ("own", "second")], "the same question goes from one to the next"
    assert sorted(server.asked[len(in_turn) :]) == sorted(in_turn)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("deaf", "second answers as own in turn"),
        ("cross", "at once"),
        ("cache", "second answers as own in turn"),
    ],
)
def test_an_adapter_that_answers_for_another_fails(serve, fault, words):
    finding = found(serve, Base(("own", "second"), fault))
    assert finding.status == "fail" and words in " ".join(finding.evidence["faults"]) and "cache" in finding.remedy
    if fault == "cross":
        assert finding.evidence["adapters"]["own in turn"]["equal"] == 1.0, "asked one after the other it keeps them apart"


def test_a_word_that_rounding_chose_is_not_taken_for_another_adapters_answer(serve):
    like = tuple(Probe(one.question, (*one.wanted[:5], (" for", -0.1), (" certain", -0.1), *one.wanted[5:]), one.base) for one in probes("own"))
    finding = found(serve, Base(("own", "second"), "rounded"), variant="bnb-nf4-adapter", adapters={"second": probes("second"), "third": like})
    assert "third" not in {fault.split()[3] for fault in finding.evidence["faults"] if "answers as" in fault}, finding.evidence


def test_adapters_that_answer_alike_are_said_to_prove_nothing(serve):
    finding = found(serve, Base(("own", "second"), "deaf"), adapters={"second": probes("own")})
    assert finding.status == "pass" and "own and second answer alike" in finding.message


def test_an_adapter_without_a_reference_is_not_passed_over(serve):
    finding = found(serve, Base(("own", "second")), probes=())
    assert (finding.status, finding.required) == ("skip", True) and "no answers of own" in finding.message


def test_a_server_that_does_not_know_a_name_fails(serve):
    def refusing(request: BaseHTTPRequestHandler) -> None:
        if json.loads(request.body)["model"] == "own":
            Base(("own",))(request)
        else:
            send(request, '{"error": {"message": "The model `second` does not exist."}}', 404)

    expectations = Expectations(probes=probes("own"), adapters={"second": probes("second")})
    with Chat(Endpoint("vllm", f"{serve(refusing)}/v1", "own"), timeout=10) as chat:
        (finding,) = adapters.checks(chat, expectations)
    assert finding.status == "fail" and "not every adapter can be asked" in finding.message


def test_one_adapter_alone_is_not_asked_twice():
    with Chat(Endpoint("vllm", "http://127.0.0.1:9/v1", "own")) as chat:
        assert not list(adapters.checks(chat, Expectations(probes=probes("own"))))


def test_llamacpp_is_told_of_every_adapter_in_each_request():
    asked = engine("llamacpp").addressed(Endpoint("llamacpp", "http://x/v1", "own"), ("own", "second", "third"), "second")
    assert asked.model == "own" and asked.extra == {"lora": [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}, {"id": 2, "scale": 0.0}]}
    assert engine("vllm").addressed(Endpoint("vllm", "http://x/v1", "own"), ("own", "second"), "second").model == "second"
