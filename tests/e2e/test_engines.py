"""Real engines on the demo's real models: what must fail does fail, and a server's life leaves nothing behind."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from skips import skip_or_fail

from toolkit import servers, serving
from toolkit.assessment import Soak
from toolkit.chat_template import ChatTemplate
from toolkit.engines import Endpoint, Target, engine
from toolkit.engines.chat import Chat
from toolkit.errors import FailedError, NotReadyError
from toolkit.places import Machine, Place
from toolkit.targets import tools
from toolkit.verify import Expectations, Question, hardware, memory, prompt, settings
from toolkit.verify.judge import REQUIRED
from toolkit.verify.observe import examine

QUESTIONS = (Question("What is 47 + 85?", "132"), Question("What is 12 + 34?", "46"))


@pytest.fixture(scope="session")
def made(demo, store) -> Path:
    assert demo.returncode == 0, demo.stdout[-2000:] + demo.stderr[-2000:]
    return store


def one(store: Path, pattern: str) -> Path:
    (found,) = store.glob(pattern)
    return found


@pytest.fixture(scope="session")
def template(made) -> ChatTemplate:
    return ChatTemplate.of_model(one(made, "merge-*/model"))


@pytest.fixture(scope="session")
def tuned(made) -> Target:
    return Target("demo", 1024, 2, "qwq", "q8_0", one(made, "merge-*/model"), one(made, "gguf-[0-9a-f]*/model-q8_0.gguf"))


@pytest.fixture(scope="session")
def base(made) -> Target:
    return Target("demo", 1024, 2, "qwq", "f16", one(made, "base-*/model"), one(made, "gguf-base-*/model-f16.gguf"))


@pytest.fixture(scope="session")
def llamacpp(tmp_path_factory) -> Place:
    return Machine(tools("llamacpp", tmp_path_factory.mktemp("llamacpp")))


@pytest.fixture
def ollama(tmp_path, engines) -> Place:
    if "ollama" not in engines:
        skip_or_fail("Ollama cannot be had on this machine")
    return Machine(tools("ollama", tmp_path / "ollama"))


def statuses(endpoint: Endpoint, template: ChatTemplate) -> dict[str, str]:
    expectations = Expectations(template=template, questions=QUESTIONS)
    return {finding.name: finding.status for finding in examine(endpoint, expectations)[1]}


def test_the_tuned_model_keeps_every_contract_and_is_healthy(tuned, template, llamacpp, tmp_path):
    with serving.serving("llamacpp", tuned, llamacpp, tmp_path / "log") as endpoint:
        seen = statuses(endpoint, template)
        skipped = {name for name, status in seen.items() if status == "skip"}
        assert skipped == {
            *("task", "authentication", "identity", "tokens", "context"),
            *("context_length", "quantization", "sampling", "fidelity", "hardware"),
        } and set(seen.values()) == {"pass", "skip"}, seen
        assert set(seen) >= {*REQUIRED, "models", "metrics"}
        found = serving.health(endpoint.url, endpoint.model, "llamacpp")
        assert (found.answers, found.thinks) == (True, True)


def test_llama_cpp_says_how_it_serves_and_its_memory_stays_flat(tuned, llamacpp, tmp_path):
    with serving.serving("llamacpp", tuned, llamacpp, tmp_path / "log") as endpoint:
        assert_as_served(endpoint, 1024)


def test_ollama_says_how_it_serves_and_its_memory_stays_flat(made, tuned, ollama, tmp_path):
    modelfile = one(made, f"modelfile-{'?' * 12}/Modelfile")
    context = int(re.findall(r"^PARAMETER num_ctx (\d+)$", modelfile.read_text(encoding="utf-8"), re.MULTILINE)[0])
    with serving.serving("ollama", replace(tuned, modelfile=modelfile), ollama, tmp_path / "log") as endpoint:
        assert_as_served(endpoint, context)
        elsewhere = hardware.check(endpoint, Expectations(gpu=True, weights=1), [])
        assert elsewhere.status == "fail" and "0% of the model is on the GPU" in elsewhere.message


def assert_as_served(endpoint: Endpoint, context: int) -> None:
    sampling = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
    expected = Expectations(variant="q8_0", context=context, sampling=sampling, soak=Soak(requests=100), parallel=2)
    with Chat(endpoint) as chat:
        found = [*settings.checks(chat, expected), *memory.checks(chat, expected)]
    assert {finding.name: finding.status for finding in found} == dict.fromkeys(("context_length", "quantization", "sampling", "memory"), "pass"), (
        found
    )


def test_the_base_model_breaks_the_think_contract(base, template, llamacpp, tmp_path):
    with serving.serving("llamacpp", base, llamacpp, tmp_path / "log") as endpoint:
        assert statuses(endpoint, template)["think"] == "fail"


def test_a_prompt_that_differs_by_one_newline_is_found(tuned, template, llamacpp, tmp_path):
    other = ChatTemplate(template.source.replace("<think>\\n", "<think>"), template.tokens)
    assert other.source != template.source
    with serving.serving("llamacpp", tuned, llamacpp, tmp_path / "log") as endpoint, Chat(endpoint) as chat:
        found = prompt.check("llamacpp", Expectations(template=other), chat)
    assert found.status == "fail" and found.message.startswith("0 of ")
    assert found.evidence["differences"][0]["server"].endswith("<think>\n")


def test_a_modelfile_with_another_template_is_found(tuned, template, ollama, tmp_path):
    modelfile = tmp_path / "Modelfile"
    body = "{{- range .Messages }}{{ .Role }}: {{ .Content }}\n{{ .Thinking }}{{ end }}<think>{{- range .Messages }}{{ .Thinking }}{{ end }}</think>"
    modelfile.write_text(f'FROM x\nTEMPLATE """{body}"""\n')
    with serving.serving("ollama", replace(tuned, modelfile=modelfile), ollama, tmp_path / "log") as endpoint:
        with Chat(endpoint) as chat:
            found = prompt.check("ollama", Expectations(template=template), chat)
        with pytest.raises(NotReadyError, match="knows no model 'nobody'"), Chat(replace(endpoint, model="nobody")) as chat:
            chat.ask([{"role": "user", "content": "hi"}], 1)
    # Either the foreign TEMPLATE ran and prompts otherwise, or Ollama took the GGUF's Jinja in its place.
    used, overruled = found.evidence["template"], prompt.OVERRULED in found.message
    assert found.status == "fail" and (used, overruled) in {("the Modelfile's TEMPLATE", False), ("the Jinja template in the GGUF", True)}


def test_ollama_says_why_it_refuses_a_modelfile(tuned, ollama, tmp_path):
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text("FROM x\nPARAMETER temprature 1\n")
    with pytest.raises(FailedError, match="temprature"), serving.serving("ollama", replace(tuned, modelfile=modelfile), ollama, tmp_path / "log"):
        pytest.fail("a refused Modelfile must not be served")


def test_a_file_that_is_no_gguf_is_reported_with_the_servers_words(tuned, llamacpp, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    with (
        pytest.raises(FailedError, match="before it was ready"),
        serving.serving("llamacpp", replace(tuned, gguf=broken), llamacpp, tmp_path / "log"),
    ):
        pytest.fail("a broken file must not be served")


def test_a_server_in_the_background_lives_until_it_is_stopped(tuned, llamacpp, tmp_path):
    started = servers.start("llamacpp", tuned, llamacpp, tmp_path / "servers")
    try:
        assert serving.health(started.url, started.model, started.engine).thinks
        assert serving.detect(started.url) == "llamacpp"
        with pytest.raises(NotReadyError, match="is being served already"):
            servers.start("llamacpp", tuned, llamacpp, tmp_path / "servers")
    finally:
        stopped = servers.stop(tmp_path / "servers")
    assert [server.pid for server in stopped] == [started.pid] and not started.alive()
    assert not engine("llamacpp").alive(started.endpoint.root)


def test_a_served_model_ends_with_all_its_processes(tuned, llamacpp, tmp_path):
    with serving.serving("llamacpp", tuned, llamacpp, tmp_path / "log") as endpoint:
        port = endpoint.root.rpartition(":")[2]
        assert holders(port)
    deadline = time.monotonic() + 5
    while holders(port) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not holders(port)


def holders(port: str) -> list[str]:
    """Process ids whose command line names the port."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if port.encode() in words and process.name != str(os.getpid()):
            found.append(process.name)
    return found
