"""Every family on real engines: its Modelfile makes a thinking model of Ollama, and Ollama and llama.cpp prompt as its Jinja template does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from skips import skip_or_fail

from toolkit import serving
from toolkit.chat_template import ChatTemplate
from toolkit.engines import Endpoint, Target, engine
from toolkit.engines.wire import ask
from toolkit.places import Machine, Place
from toolkit.render import ModelfileValues, render_modelfile
from toolkit.runners.environment import Environment
from toolkit.runners.tools import ollama_version
from toolkit.stages import MODELFILES, ROOT
from toolkit.targets import tools
from toolkit.verify.conversations import CORPUS
from toolkit.verify.prompt import canonical

TUTORIAL = ROOT.parent / "shared" / "chat-templates" / "seed-tutorial.Modelfile"
FAMILIES = ("chatml", "deepseek-r1-distill", "qwen3", "qwq")
ENDS = {"deepseek-r1-distill": "<｜end▁of▁sentence｜>"}
"""What closes a turn; `<|im_end|>` and a newline in the ChatML families."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather <now> & here, 天气",
        "parameters": {"type": "object", "properties": {"place": {"type": "string", "description": "where"}}, "required": ["place"]},
    },
}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "weather", "arguments": {"place": "Zürich"}}}]}
TOOL_TALKS: dict[str, list[dict[str, Any]]] = {
    "offered": [{"role": "user", "content": "Hi"}],
    "offered beside a system prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    "called": [{"role": "user", "content": "Weather?"}, CALL, {"role": "tool", "content": "sunny"}],
    "called and answered": [
        {"role": "user", "content": "Weather?"},
        CALL,
        {"role": "tool", "content": "sunny"},
        {"role": "assistant", "content": "It is sunny."},
        {"role": "user", "content": "And tomorrow?"},
    ],
}


@dataclass(frozen=True)
class Served:
    """A family on a live Ollama."""

    family: str
    endpoint: Endpoint
    bos: str = ""
    """What the server writes for bos_token; Ollama's text has none, since llama.cpp puts BOS in front as a token."""

    def ollama(self, messages: Sequence[Any], **options: Any) -> str:
        body = {"model": self.endpoint.model, "messages": list(messages), "stream": False, "_debug_render_only": True, **options}
        return ask(f"{self.endpoint.root}/api/chat", body, timeout=60)["_debug_info"]["rendered_template"]

    def jinja(self, messages: Sequence[Any], **options: Any) -> str:
        source = (MODELFILES / f"{self.family}.chat.jinja").read_text(encoding="utf-8")
        return ChatTemplate(source, {"bos_token": self.bos}).render(messages, **options)


@pytest.fixture(scope="module")
def gguf(demo, store) -> Path:
    assert demo.returncode == 0, demo.stdout[-2000:] + demo.stderr[-2000:]
    (found,) = store.glob("gguf-[0-9a-f]*/model-q8_0.gguf")
    return found


@pytest.fixture(scope="module")
def ollama(engines, tmp_path_factory) -> Place:
    if "ollama" not in engines:
        skip_or_fail("Ollama cannot be had on this machine")
    return Machine(tools("ollama", tmp_path_factory.mktemp("ollama")))


@pytest.fixture(scope="module", params=FAMILIES)
def own(request, gguf, tmp_path_factory) -> tuple[str, Path]:
    """A family and the demo's GGUF with that family's Jinja template in it."""
    path = tmp_path_factory.mktemp(request.param) / "model.gguf"
    _with_template(gguf, path, MODELFILES / f"{request.param}.chat.jinja")
    return request.param, path


@pytest.fixture(scope="module")
def served(own, ollama) -> Iterator[Served]:
    """The family's GGUF on Ollama, created from its Modelfile."""
    family, own = own
    folder, modelfile = own.parent, own.with_name("Modelfile")
    generation = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
    modelfile.write_text(render_modelfile(ModelfileValues(str(own), family, 1024, ollama_version(), generation, license="Apache-2.0")), "utf-8")
    target = Target("family", 1024, 1, family, "q8_0", gguf=own, modelfile=modelfile)
    with serving.serving("ollama", target, ollama, folder / "log") as endpoint:
        yield Served(family, endpoint)


def _with_template(source: Path, target: Path, template: Path) -> None:
    python = Environment("convert").install()
    package = python.parent.parent / "llama.cpp" / "gguf-py"
    script = package / "gguf" / "scripts" / "gguf_new_metadata.py"
    argv = [str(python), str(script), "--force", "--chat-template-file", str(template), str(source), str(target)]
    subprocess.run(argv, check=True, stdout=sys.stderr, env={"PYTHONPATH": str(package), "NO_LOCAL_GGUF": "1"})


@pytest.fixture
def tutorial(gguf, ollama, tmp_path, monkeypatch) -> Iterator[Served]:
    """The tutorial's Modelfile on Ollama's Go path, forced, since Ollama by itself puts the GGUF's Jinja in its place."""
    if not TUTORIAL.is_file():
        skip_or_fail(f"the tutorial's Modelfile is not at {TUTORIAL}")
    monkeypatch.setenv("OLLAMA_GO_TEMPLATE", "1")
    target = Target("tutorial", 1024, 1, "qwq", "q8_0", gguf=gguf, modelfile=TUTORIAL)
    with serving.serving("ollama", target, ollama, tmp_path / "log") as endpoint:
        yield Served("qwq", endpoint)


@pytest.fixture(scope="module")
def llamacpp(own, tmp_path_factory) -> Iterator[Served]:
    """The family's GGUF on llama.cpp's server, which knows its Jinja template only."""
    family, path = own
    target, scratch = Target("family", 1024, 1, family, "q8_0", gguf=path), tmp_path_factory.mktemp("llamacpp")
    with serving.serving("llamacpp", target, Machine(tools("llamacpp", scratch)), scratch / "log") as endpoint:
        yield Served(family, endpoint, bos="<|im_start|>")


def test_the_modelfile_makes_a_thinking_model_with_its_parameters(served):
    shown = ask(f"{served.endpoint.root}/api/show", {"model": served.endpoint.model}, timeout=60)
    assert "thinking" in shown["capabilities"]
    parameters = dict(line.split(maxsplit=1) for line in shown["parameters"].splitlines() if not line.startswith("stop"))
    assert {name: float(value) for name, value in parameters.items()} == {
        "temperature": 0.6, "top_p": 0.95, "top_k": 20, "repeat_penalty": 1, "num_ctx": 1024,
    }  # fmt: skip
    assert re.search(r"apache", shown["license"], re.IGNORECASE)


@pytest.mark.parametrize("title", CORPUS)
def test_the_go_template_prompts_as_the_jinja_template_does(served, title):
    assert served.ollama(CORPUS[title]) == served.jinja(CORPUS[title])


@pytest.mark.parametrize("title", TOOL_TALKS)
def test_tools_are_told_as_the_jinja_template_tells_them(served, title):
    if served.family in ("chatml", "deepseek-r1-distill"):
        with pytest.raises(Exception, match="does not support tools"):
            served.ollama(TOOL_TALKS[title], tools=[WEATHER])
        return
    ours = served.ollama(TOOL_TALKS[title], tools=[WEATHER])
    assert canonical(ours) == canonical(served.jinja(TOOL_TALKS[title], tools=[WEATHER]))


def test_an_unfinished_answer_is_gone_on_with_instead_of_closed(served):
    talk = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One, two"}]
    closed = served.jinja(talk[:1], add_generation_prompt=False) + served.jinja(talk[1:], add_generation_prompt=False)
    if served.family == "qwen3":  # its Jinja gives a last turn an empty thought, which an unfinished answer must not have
        closed = closed.replace("<think>\n\n</think>\n\n", "")
    assert served.ollama(talk) == closed.removesuffix(ENDS.get(served.family, "<|im_end|>\n"))


def test_think_false_closes_the_reasoning_at_once(served):
    assert served.ollama(CORPUS["one question"], think=False).endswith("<think>\n\n</think>\n\n")


def test_past_reasoning_is_not_sent_again(served):
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "thinking": "SECRET"}, {"role": "user", "content": "c"}]
    assert "SECRET" not in served.ollama(talk)


def test_what_ollama_changes_by_its_own_rules(served):
    # template.go, collate: turns of one role are joined, a late system turn is moved to the front, an empty one is dropped
    joined = served.ollama([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    assert joined == served.jinja([{"role": "user", "content": "a\n\nb"}])
    empty = served.ollama([{"role": "system", "content": ""}, {"role": "user", "content": "a"}])
    if served.family != "chatml":  # which writes the messages as they come
        assert empty == served.jinja([{"role": "user", "content": "a"}])


@pytest.mark.parametrize("title", CORPUS)
def test_llama_cpp_runs_the_jinja_template_as_python_does(llamacpp, title):
    assert engine("llamacpp").rendered(llamacpp.endpoint, CORPUS[title]).text == llamacpp.jinja(CORPUS[title])


@pytest.mark.parametrize("title", TOOL_TALKS)
def test_llama_cpp_tells_tools_as_the_jinja_template_does(llamacpp, title):
    if llamacpp.family not in ("qwq", "qwen3"):
        return  # the other two tell no tools
    body = {"messages": list(map(_openai, TOOL_TALKS[title])), "tools": [WEATHER]}
    prompt = ask(f"{llamacpp.endpoint.root}/apply-template", body, timeout=60)["prompt"]
    assert canonical(prompt) == canonical(llamacpp.jinja(TOOL_TALKS[title], tools=[WEATHER]))


def _openai(turn: dict[str, Any]) -> dict[str, Any]:
    """Write a turn's calls as OpenAI's API has them: with a type, the arguments as JSON in a string."""
    calls = [call["function"] for call in turn.get("tool_calls", ())]
    as_text = [{"type": "function", "function": {**call, "arguments": json.dumps(call["arguments"])}} for call in calls]
    return {**turn, "tool_calls": as_text} if calls else turn


def test_the_tutorials_ninth_fault_its_prompts_are_not_the_templates(tutorial):
    """Nor what vLLM renders, therefore; the other eight are in tests/unit/test_render.py."""
    assert [title for title in CORPUS if tutorial.ollama(CORPUS[title]) == tutorial.jinja(CORPUS[title])] == []
