from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from toolkit.compression import STORED
from toolkit.engine_settings import Vllm
from toolkit.engines import Target, Tools, engine
from toolkit.errors import BrokenError, NotReadyError, UsageError


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    python = {name: Path(f"/env/{name}/bin/python") for name in ("llamacpp", "vllm", "train")}
    return Tools(python, Path("/opt/thinkship"), tmp_path / "scratch", Path("/tools/ollama"))


@pytest.fixture
def target(tmp_path: Path) -> Target:
    model = tmp_path / "model"
    model.mkdir()
    (model / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    (model / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"id": 0, "content": "<|endoftext|>"}, {"id": 2, "content": "<|im_end|>"}]}))
    (model / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    (tmp_path / "Modelfile").write_text('# ours\nFROM ./model-q8_0.gguf\nTEMPLATE """x"""\n')
    return Target("demo", 1024, 4, "qwq", "q8_0", model, tmp_path / "model-q8_0.gguf", tmp_path / "Modelfile")


def test_llamacpp_gets_the_whole_context_for_each_request(target, tools):
    command = engine("llamacpp").launch(target, 8080, tools)
    assert command.argv == (
        *("/env/llamacpp/bin/python", "/opt/thinkship/serve.py", "--model", str(target.gguf)),
        *("--alias", "demo", "--host", "127.0.0.1", "--port", "8080", "--context", "1024", "--parallel", "4"),
    )


def test_ollama_has_its_own_home_models_and_port(target, tools):
    command = engine("ollama").launch(target, 11500, tools)
    assert command.argv == ("/tools/ollama", "serve")
    assert command.env["OLLAMA_HOST"] == "127.0.0.1:11500"
    assert Path(command.env["OLLAMA_MODELS"]).is_relative_to(tools.scratch) and Path(command.env["HOME"]) == tools.scratch


def test_ollamas_modelfile_names_the_gguf_itself(target, tools):
    engine("ollama").lay_out(target, tools)
    lines = (tools.scratch / "Modelfile").read_text().splitlines()
    assert lines == ["# ours", f"FROM {target.gguf.resolve()}", 'TEMPLATE """x"""']


def test_a_modelfile_without_from_is_refused(target, tools):
    target.modelfile.write_text("TEMPLATE x\n")
    with pytest.raises(BrokenError, match="no FROM line"):
        engine("ollama").lay_out(target, tools)


def test_ollama_missing_is_said_with_its_remedy(target, tools):
    with pytest.raises(NotReadyError, match="Ollama is not on this machine"):
        engine("ollama").launch(target, 1, replace(tools, ollama=None))


@pytest.mark.parametrize(("name", "variant"), [("llamacpp", "q8_0"), ("vllm", "bf16")])
def test_a_key_is_told_by_its_file_and_stands_on_no_command_line(target, tools, name, variant, tmp_path):
    (tmp_path / "key").write_text("f00d\n")
    command = engine(name).launch(replace(target, variant=variant, api_key_file=tmp_path / "key"), 8000, tools)
    assert command.env["API_KEY_FILE"] == str(tmp_path / "key")
    assert "f00d" not in " ".join((*command.argv, *command.env.values()))


@pytest.mark.parametrize("gpu", [False, True])
def test_vllm_takes_the_tutorials_flags(target, tools, gpu):
    target = replace(target, variant="bnb-nf4", vllm=Vllm(extra_args=("--seed", "1")))
    command = engine("vllm").launch(target, 8000, replace(tools, gpu=gpu))
    line = " ".join(command.argv)
    assert "--quantization bitsandbytes --load-format bitsandbytes" in line and "--reasoning-parser qwen3" in line
    assert ("--enforce-eager" in line) is not gpu and ("--gpu-memory-utilization 0.9" in line) is gpu
    assert line.endswith("--seed 1") and "--host 127.0.0.1 --port 8000" in line
    assert "--disable-log-stats" not in line  # with it /metrics holds no figure of vLLM's own
    assert command.env["HF_HUB_OFFLINE"] == "1" and ("VLLM_CPU_KVCACHE_SPACE" in command.env) is not gpu


def test_a_format_that_a_cpu_does_not_compute_is_refused_before_the_server_ends_at_its_first_request(target, tools, monkeypatch):
    for has, refused in ((False, {"w4a16", "fp8-dynamic", "fp8"}), (True, {"fp8-dynamic", "fp8"})):
        monkeypatch.setattr("toolkit.fit.choice.has_avx512", lambda has=has: has)
        for variant in (*STORED, "fp8", "bf16"):
            with pytest.raises(UsageError, match=f"vLLM serves {variant} on a GPU") if variant in refused else nullcontext():
                engine("vllm").launch(replace(target, variant=variant), 8000, tools)


@pytest.mark.parametrize(("gpu", "computed"), [(False, "float32"), (True, "bfloat16")])
def test_16_bit_weights_are_computed_in_float32_on_a_cpu(target, tools, gpu, computed):
    for variant, wanted in (("bf16", computed), ("bnb-nf4", "bfloat16"), ("int8", "bfloat16")):
        argv = engine("vllm").launch(replace(target, variant=variant), 8000, replace(tools, gpu=gpu)).argv
        assert argv[argv.index("--dtype") + 1] == wanted


@pytest.mark.parametrize("variant", STORED)
def test_a_stored_checkpoint_says_itself_how_its_weights_lie(target, tools, variant):
    line = " ".join(engine("vllm").launch(replace(target, variant=variant), 8000, replace(tools, gpu=True)).argv)
    assert "--quantization" not in line and "--load-format" not in line and "--dtype bfloat16" in line


@pytest.mark.parametrize(("name", "variant"), [("llamacpp", "q8_0"), ("vllm", "bf16"), ("transformers", "bf16")])
def test_in_a_container_a_server_listens_at_all_of_its_own_addresses(target, tools, name, variant):
    command = engine(name).launch(replace(target, variant=variant), 8000, replace(tools, bind="0.0.0.0"))
    assert command.argv[command.argv.index("--host") + 1] == "0.0.0.0"


def test_ollamas_client_asks_loopback_wherever_the_server_listens(target, tools):
    tools = replace(tools, bind="0.0.0.0")
    assert engine("ollama").launch(target, 1, tools).env["OLLAMA_HOST"] == "0.0.0.0:1"
    assert engine("ollama").prepare(target, 1, tools).env["OLLAMA_HOST"] == "127.0.0.1:1"


def test_vllm_serves_plain_16_bit_too(target, tools):
    assert "--quantization" not in engine("vllm").launch(replace(target, variant="bf16"), 8000, tools).argv


@pytest.mark.parametrize(("family", "base", "parsed"), [("chatml", True, False), ("chatml", False, True), ("qwq", True, True)])
def test_only_a_plain_base_gets_no_reasoning_parser(target, tools, family, base, parsed):
    command = engine("vllm").launch(replace(target, variant="bf16", family=family, base=base), 8000, tools)
    assert ("--reasoning-parser" in command.argv) is parsed


@pytest.mark.parametrize("name", ["vllm", "transformers"])
def test_a_gguf_type_is_refused_where_checkpoints_are_served(target, tools, name):
    with pytest.raises(UsageError, match=f"{'vLLM' if name == 'vllm' else name} cannot serve q8_0"):
        engine(name).launch(target, 8000, tools)


def test_transformers_sees_the_checkpoint_under_its_served_name(target, tools):
    engine("transformers").lay_out(target, tools)
    view = tools.scratch / "demo"
    assert (view / "tokenizer.json").resolve() == (target.model / "tokenizer.json").resolve()
    config = json.loads((view / "tokenizer_config.json").read_text())
    assert config["response_template"]["fields"]["thinking"]["close"] == ["</think>", "<|im_end|>", "<|endoftext|>"]
    assert config["eos_token"] == "<|im_end|>"


def test_the_checkpoint_itself_is_not_written_to(target, tools):
    before = {path.name: path.read_bytes() for path in target.model.iterdir()}
    engine("transformers").lay_out(target, tools)
    assert {path.name: path.read_bytes() for path in target.model.iterdir()} == before


def test_transformers_is_sent_a_top_k_that_is_an_integer():
    """Its server ends in a 500 at 20.0."""
    sent = json.loads(engine("transformers").sampled({"temperature": 0.6, "top_k": 20.0})["generation_config"])
    assert (sent["top_k"], type(sent["top_k"]), sent["temperature"], sent["do_sample"]) == (20, int, 0.6, True)
