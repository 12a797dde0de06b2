# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""Prompt parity, against a real server that renders and counts well, and against those that do not."""

from __future__ import annotations

import json

import pytest
from loopback import completion, send, serve
from thinker import Thinker, prompt, tokens

from toolkit.chat_template import ChatTemplate
from toolkit.engines import Endpoint
from toolkit.engines.chat import Chat
from toolkit.stages import MODELFILES
from toolkit.verify import Expectations
from toolkit.verify.conversations import THOUGHT, called
from toolkit.verify.prompt import OVERRULED, canonical, check, talks

QWQ = ChatTemplate((MODELFILES / "qwq.chat.jinja").read_text(encoding="utf-8"), {"bos_token": "<|im_start|>"})
SIMPLE = ChatTemplate(
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def found(url: str, engine: str = "llamacpp", template: ChatTemplate = SIMPLE):
    with Chat(Endpoint(engine, url, "m"), timeout=5) as chat:
        return check(engine, Expectations(template=template, parallel=4), chat)


def test_a_server_that_prompts_as_the_template_does_passes(serve):
    finding = found(serve(Thinker()))
    assert finding.status == "pass" and finding.message.startswith("12 of 12 prompts equal"), finding
    assert finding.evidence["conversations"][-3:] == ["tags typed by the user", "control tokens typed by the user", "reasoning sent back"]


def test_a_longer_prompt_than_the_one_that_is_shown_is_found(serve):
    finding = found(serve(Thinker("begins twice")))
    assert finding.status == "fail" and finding.message.startswith("8 of 12")
    assert "a chat is answered from a prompt of 25 tokens, the template's has 24" in str(finding.evidence["differences"])


def test_only_the_conversations_that_differ_are_named(serve):
    class Forgetful(Thinker):
        def _sent(self, messages):
            return super()._sent(messages[-1:])

    named = [one["conversation"] for one in found(serve(Forgetful())).evidence["differences"]]
    assert named == ["system prompt", "several turns"]


@pytest.mark.parametrize("shown", ["", "<|im_start|>"])
def test_a_beginning_token_that_the_server_takes_off_the_text_is_no_difference(serve, shown):
    def stripped(request):
        if request.path == "/apply-template":
            send(request, json.dumps({"prompt": shown + prompt(json.loads(request.body)["messages"]).removeprefix("<|im_start|>")}))
        else:
            Thinker()(request)

    bos = ChatTemplate(SIMPLE.source, {"bos_token": "<|im_start|>"})
    assert found(serve(stripped), template=bos).status == "pass"


def test_a_template_that_knows_tools_is_asked_for_them():
    made = {talk.title: talk for talk in talks(Expectations(), QWQ)}
    assert "# Tools" in made["tools"].wanted and "sunny" in made["tools"].wanted and '{"place": "Zürich"}' in made["tools"].wanted
    assert isinstance(made["tools"].messages[1]["tool_calls"][0]["function"]["arguments"], str)
    assert THOUGHT not in made["reasoning sent back"].wanted
    r1 = ChatTemplate((MODELFILES / "deepseek-r1-distill.chat.jinja").read_text(encoding="utf-8"), {"bos_token": "<s>"})
    assert "tools" not in {talk.title for talk in talks(Expectations(), r1)} | {talk.title for talk in talks(Expectations(), SIMPLE)}


def test_a_conversation_that_the_template_refuses_is_left_out_and_said(serve):
    strict = ChatTemplate("{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}" + SIMPLE.source)
    finding = found(serve(Thinker()), template=strict)
    assert finding.status == "pass" and finding.message.startswith("10 of 10 prompts")
    assert finding.evidence["refused_by_the_template"] == ["system prompt", "Chinese"]
    nothing = found(serve(Thinker()), template=ChatTemplate("{{ raise_exception('no') }}"))
    assert (nothing.status, nothing.message) == ("fail", "the chat template refuses every conversation")


def test_json_is_compared_by_what_it_says():
    assert canonical('a\n{"b": 1, "a": "\\u003c"}') == canonical('a\n{"a":"<","b":1}') != canonical('a\n{"a":">","b":1}')


@pytest.mark.parametrize(
    ("given", "joined", "status"),
    [("{{ range .Messages }}", True, "pass"), ("{{ range .Messages }}", False, "fail"), ("{{ .Prompt }}", False, "pass")],
)
def test_a_template_that_ollama_passes_over_is_found(serve, given, joined, status):
    def ollama(request):
        body = json.loads(request.body)
        if request.path == "/api/show":
            send(request, json.dumps({"template": given}))
            return
        turns = body["messages"]
        if joined and len(turns) == 2 and turns[1]["role"] == turns[0]["role"]:
            turns = [{"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}]
        send(request, json.dumps({"_debug_info": {"rendered_template": prompt(turns)}}))

    finding = found(serve(ollama), "ollama")
    assert finding.status == status and (OVERRULED in finding.message) is (status == "fail")
    assert ("OLLAMA_GO_TEMPLATE=1" in finding.remedy) is (status == "fail")


def test_ollama_is_given_the_arguments_of_a_call_as_an_object(serve):
    seen = []

    def ollama(request):
        seen.append(json.loads(request.body))
        send(request, json.dumps({"_debug_info": {"rendered_template": "x"}, "template": ""}))

    found(serve(ollama), "ollama", QWQ)
    calls = [turn["tool_calls"] for body in seen for turn in body.get("messages", ()) if turn.get("tool_calls")]
    assert calls == [[{"function": called(as_text=False)[1]["tool_calls"][0]["function"]}]]
