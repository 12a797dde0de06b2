# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""Requests out of the ordinary, against a real server that takes them well, and against one for each way of taking them badly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from loopback import send, serve
from thinker import QUESTION, REASONING, TEXT, Thinker, number, prompt, tokens

from toolkit.chat_template import ChatTemplate
from toolkit.engines import Endpoint, Ends
from toolkit.engines.chat import Chat
from toolkit.verify import Expectations, Finding, Reply, Tokenized, edges
from toolkit.verify.ends import of_model
from toolkit.verify.tokens import read

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
OPENED = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
CLOSABLE = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{{ '</think>' if enable_thinking is false }}{% endif %}"
TEMPLATE = ChatTemplate(TURNS + OPENED, {"eos_token": "<|im_end|>"})
SWITCHED = ChatTemplate(TURNS + CLOSABLE, {"eos_token": "<|im_end|>"})
SENT = prompt([{"role": "user", "content": QUESTION}])
KNOWN = Reply(
    question=QUESTION,
    reasoning=REASONING,
    text=TEXT,
    finish="stop",
    where="reasoning_content",
    prompt_tokens=len(tokens(SENT)),
    completion_tokens=len(tokens(REASONING + TEXT)),
)
TOKENIZED = (Tokenized("Hello, world", tuple(map(number, tokens("Hello, world")))), Tokenized(SENT, tuple(map(number, tokens(SENT))), QUESTION))
FULL = Expectations(
    template=TEMPLATE, tokenized=TOKENIZED, ends=Ends(("<|im_end|>",), (2,), ("<|im_end|>", "<|im_start|>")), context=256, parallel=4, timeout=5
)


def found(url: str, expectations: Expectations = FULL, engine: str = "llamacpp", replies: tuple[Reply, ...] = (KNOWN,)) -> dict[str, Finding]:
    with Chat(Endpoint(engine, url, "m"), timeout=5) as chat:
        return {finding.name: finding for finding in edges.checks(chat, expectations, replies)}


def test_a_good_server_passes_every_check(serve):
    seen = found(serve(Thinker()))
    assert {name: finding.status for name, finding in seen.items()} == dict.fromkeys(edges.EDGES, "pass")
    assert "thinking cannot be switched off (the template has no switch)" in seen["switch"].message
    assert "becomes that token" in seen["injection"].message and not seen["injection"].required
    assert "is refused with words; an answer that fills the context has finish_reason length" in seen["context"].message
    assert "2 texts by their token ids, 1 prompts by their length" in seen["tokens"].message
    assert "returned by a tool" in seen["quoting"].message


@pytest.mark.parametrize(
    ("fault", "name", "words"),
    [
        ("says stop", "truncation", "finish_reason is stop after 8 tokens"),
        ("answers at once", "truncation", "stands in the answer, and the thinking was not over"),
        ("tags", "truncation", "a tag is left in the reasoning"),
        ("inline", "truncation", "the reasoning is left in the content, between tags"),
        ("streams inline", "truncation", "and left in the content, between tags when streamed"),
        ("looks at the prompt", "quoting", "tags typed by the user: the reasoning is sent as the answer: 'Tens"),
        ("looks at tools", "quoting", "tags returned by a tool: the reasoning is sent as the answer: 'Tens"),
        ("believes", "switch", "its reasoning is sent as the answer"),
        ("cut bytes", "characters", "hold half a character"),
        ("surrogates", "characters", "hold half a character"),
        ("leaks stops", "ends", "a client's stop at 'plus' is not honoured"),
        ("keeps stops", "ends", "a client's stop at 'plus' is not honoured"),
        ("stops as length", "ends", "ends with finish_reason length"),
        ("another tokenizer", "tokens", "token ids of 'Hello, world' are"),
        ("cuts prompts", "context", "are read and the others dropped without a word"),
        ("breaks on long prompts", "context", "is not refused with a 4xx: "),
        ("fills in silence", "context", "an answer that fills the context ends with finish_reason stop"),
        ("breaks when full", "context", "an answer that does not fit into the context: "),
    ],
)
def test_each_fault_is_named_by_its_check(serve, fault, name, words):
    finding = found(serve(Thinker(fault)))[name]
    assert finding.status == "fail" and words in finding.message and finding.remedy, finding


def test_a_switch_that_works_passes_and_one_that_does_not_fails(serve):
    switched = replace(FULL, template=SWITCHED)
    assert "the answer comes without reasoning" in found(serve(Thinker("switches")), switched)["switch"].message
    ignored = found(serve(Thinker()), switched)["switch"]
    assert ignored.status == "fail" and "the template can switch thinking off, and the server does not" in ignored.message


def test_a_refused_switch_is_told_and_no_fault(serve):
    finding = found(serve(Thinker("refuses the switch")))["switch"]
    assert finding.status == "pass" and "unknown field" in finding.message


def test_the_same_words_from_the_same_prompt_are_no_answer_without_thinking(serve):
    class Blind(Thinker):
        def _message(self, reasoning, text):
            return {"content": reasoning + text}

    finding = found(serve(Blind()))["switch"]
    assert finding.evidence["outcome"] == "misread" and finding.status == "fail"


def test_what_an_engine_is_known_for_is_said_and_no_fault(serve):
    def vllm(request):
        request.body = request.body.replace(b'"reasoning_content"', b'"reasoning"')
        Thinker("believes")(request)

    reply = KNOWN.model_copy(update={"where": "reasoning"})
    finding = found(serve(vllm), replace(FULL, tokenized=(), ends=None), "vllm", (reply,))["switch"]
    assert finding.status == "pass" and "known of vllm where the template has no switch" in finding.message
    with_switch = found(serve(vllm), replace(FULL, tokenized=(), ends=None, template=SWITCHED), "vllm", (reply,))["switch"]
    assert with_switch.status == "fail"


@pytest.mark.parametrize(("fault", "status"), [("keeps stops", "pass"), ("leaks stops", "fail")])
def test_transformers_may_leave_the_stop_text_at_the_end_and_nothing_behind_it(serve, fault, status):
    finding = found(serve(Thinker(fault)), engine="transformers")["ends"]
    assert finding.status == status and ("left in the answer, as is known of transformers" in finding.message) is (status == "pass")


@pytest.mark.parametrize("fault", ["no schema", "refuses schemas"])
def test_a_server_without_schemas_proves_nothing_of_characters(serve, fault):
    finding = found(serve(Thinker(fault)))["characters"]
    assert (finding.status, finding.required) == ("skip", False) and "schema" in finding.message


def test_a_server_that_keeps_typed_tokens_as_text_passes_and_injection_can_be_refused(serve):
    assert found(serve(Thinker("escapes")))["injection"].message.endswith("stays text")
    refused = found(serve(Thinker()), replace(FULL, injection="refuse"))["injection"]
    assert (refused.status, refused.required) == ("fail", True) and refused.remedy


def test_a_second_beginning_token_is_told_by_the_prompts_length(serve):
    counted = KNOWN.model_copy(update={"prompt_tokens": len(tokens(SENT)) + 1})
    finding = found(serve(Thinker()), replies=(counted,))["tokens"]
    assert finding.status == "fail" and "a beginning token that the template does not have?" in finding.message


def test_a_longer_context_than_the_recipes_is_no_fault(serve):
    assert "answered whole" in found(serve(Thinker()), replace(FULL, context=60))["context"].message


@pytest.mark.parametrize(
    ("changes", "eos", "words"),
    [
        ({}, "<|endoftext|>", "the server's end token is <|endoftext|>"),
        ({"ends": Ends((), ())}, "", "generation_config.json names no end token"),
        ({"ends": Ends(("</s>",), (2,))}, "", "the tokenizer's eos_token is <|im_end|>, generation_config.json ends at </s>"),
        ({"ends": Ends(("</s>",), (2,))}, "", "the template ends a turn with <|im_end|>"),
    ],
)
def test_files_and_server_must_agree_on_the_end(serve, changes, eos, words):
    finding = found(serve(Thinker(eos=eos)), replace(FULL, **changes))["ends"]
    assert finding.status == "fail" and words in finding.message


@pytest.mark.parametrize(
    ("parameters", "number", "words"),
    [
        ('stop "<|im_end|>"\nstop "User:"\ntemperature 0.6', 2, ""),
        ("temperature 0.6", 2, "<|im_end|>, which ends an answer, is not among the server's stops"),
        ('stop "<|im_end|>"\nstop "<|eot_id|>"', 2, "the server stops at <|eot_id|>, which this model does not have"),
        ('stop "<|im_end|>"', 7, "the server's end token is number 7, the checkpoint's are (2,)"),
    ],
)
def test_ollamas_stops_are_read_off_the_live_server(serve, parameters, number, words):
    def ollama(request):
        if request.path == "/api/show":
            import json

            send(request, json.dumps({"parameters": parameters, "model_info": {"tokenizer.ggml.eos_token_id": number}}))
        else:
            Thinker()(request)

    finding = found(serve(ollama), engine="ollama", replies=())["ends"]
    assert (finding.status, finding.message) == (("fail", words) if words else ("pass", "answers end at <|im_end|>, the server says the same"))


def test_without_one_sound_answer_nothing_is_held_against_it(serve):
    seen = found(serve(Thinker()), Expectations(timeout=5), "openai", (KNOWN.model_copy(update={"reasoning": ""}),))
    assert {finding.status for finding in seen.values()} == {"skip"} and all(finding.message for finding in seen.values())


def test_a_server_that_answers_nothing_fails_each_check_with_its_words(serve):
    seen = found(serve(lambda request: send(request, '{"error": {"message": "on fire"}}', 500)))
    assert {name for name, finding in seen.items() if finding.status == "fail"} == set(edges.EDGES)
    assert all("on fire" in finding.message for finding in seen.values())


def test_the_files_of_a_checkpoint_are_read(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": [{"id": 2, "content": "<|im_end|>"}, {"id": 0, "content": "<|endoftext|>"}]}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    assert of_model(tmp_path) == Ends(("<|im_end|>", "<|endoftext|>"), (2, 0), ("<|im_end|>", "<|endoftext|>"))
    (tmp_path / "tokens.jsonl").write_text('{"text": "a\u2028b", "ids": [1, 2]}\n{"text": "p", "question": "q", "ids": [3]}\n')
    assert read(tmp_path) == (Tokenized("a\u2028b", (1, 2)), Tokenized("p", (3,), "q"))
    assert of_model(tmp_path / "nowhere") is None and read(tmp_path / "nowhere") == ()
