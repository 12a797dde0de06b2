from __future__ import annotations

import json

import pytest

from toolkit.chat_template import ChatTemplate
from toolkit.errors import InvalidError
from toolkit.stages import MODELFILES
from toolkit.verify.conversations import CORPUS

QWQ = MODELFILES / "qwq.chat.jinja"


def test_the_demo_family_opens_the_reasoning():
    text = ChatTemplate(QWQ.read_text()).render([{"role": "user", "content": "hi"}])
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n"


@pytest.mark.parametrize("title", CORPUS)
def test_every_conversation_of_the_corpus_keeps_its_last_question(title):
    assert CORPUS[title][-1]["content"] in ChatTemplate(QWQ.read_text()).render(CORPUS[title])


def test_json_in_templates_keeps_its_characters():
    # Plain Jinja would write \u and HTML escapes; transformers does not.
    assert ChatTemplate("{{ messages[0] | tojson }}").render([{"a": "é<&'"}]) == json.dumps({"a": "é<&'"}, ensure_ascii=False)


def test_a_template_can_refuse():
    with pytest.raises(InvalidError, match="roles must alternate"):
        ChatTemplate("{{ raise_exception('roles must alternate') }}").render([])


def test_special_tokens_come_from_the_checkpoint(tmp_path):
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": null}')
    assert ChatTemplate.of_model(tmp_path).render([{"content": "hi"}]) == "<s>hi</s>"


def test_a_checkpoint_without_a_template_is_refused(tmp_path):
    with pytest.raises(InvalidError, match="has no chat_template"):
        ChatTemplate.of_model(tmp_path)
