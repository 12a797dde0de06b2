from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from finished_store import finish

from toolkit.engines import Tools, engine
from toolkit.errors import BrokenError, InvalidError, NotReadyError, UsageError
from toolkit.export.served import MODELS, Wish, served, spread
from toolkit.stages import ROOT

RECIPE = ROOT / "recipes" / "smollm2-demo.yml"


def local(name, target, **how):
    """The command line of the local runner."""
    tools = Tools({name: Path("python")}, Path("programs"), Path("/tmp"), Path("ollama"), **how)
    return list(engine(name).launch(target, engine(name).port, tools).argv)


@pytest.mark.parametrize(("name", "gpu"), [("llamacpp", False), ("vllm", False), ("vllm", True)])
def test_the_flags_are_the_local_runners_with_other_paths(exported, name, gpu):
    found = exported(name, gpu=gpu or None)
    flags = local(name, found.target, bind="0.0.0.0", gpu=gpu)
    assert list(found.args) == flags[flags.index("--model") :]
    assert found.args[1].startswith(f"{MODELS}/")


def test_vllms_reasoning_parser_and_quantisation_are_among_them(exported):
    words = " ".join(exported("vllm").args)
    assert "--reasoning-parser qwen3" in words and "--quantization bitsandbytes --load-format bitsandbytes" in words


def test_ollama_is_told_by_settings_and_leaves_to_its_image_what_the_place_decides(exported):
    found = exported("ollama")
    assert found.args == () and found.env["MODEL_NAME"] == "smollm2-demo" and found.env["OLLAMA_CONTEXT_LENGTH"] == "1024"
    assert found.env["MODELFILE"].startswith("/models/modelfile-") and "OLLAMA_HOST" not in found.env and "HOME" not in found.env


def test_only_what_an_engine_reads_is_asked_for(exported):
    assert [file.path.partition("/")[2] for file in exported("llamacpp").files] == ["model-q8_0.gguf"]
    assert [file.path.partition("/")[2] for file in exported("ollama").files] == ["model-q8_0.gguf", "Modelfile"]
    assert [file.source for file in exported("vllm").files] == ["config.json", "model.safetensors", "tokenizer.json"]


def test_an_adapter_is_asked_for_by_the_models_name_beside_its_base(exported):
    found = exported("vllm", adapter=True)
    words = list(found.args)
    assert found.checkpoint.startswith("base-") and words[words.index("--served-model-name") + 1] == "smollm2-demo-base"
    assert words[words.index("--lora-modules") + 1] == f"smollm2-demo=/models/{found.adapter}" and words[words.index("--max-lora-rank") + 1] == "16"
    assert [file.source for file in found.files if "/adapter/" in file.path] == ["adapter_config.json", "adapter_model.safetensors"]


def test_gpus_are_asked_for_where_recipe_and_image_can_use_them(exported):
    assert (exported("vllm").gpus, exported("vllm", gpu=True).gpus, exported("llamacpp").gpus) == (0, 1, 0), "the demo says verify.gpu: false"
    assert exported("vllm").image.startswith("thinkship/vllm-cpu:") and exported("vllm", gpu=True).image.startswith("thinkship/vllm:")
    with pytest.raises(UsageError, match="build for the CPU"):
        exported("llamacpp", gpu=True)


def test_a_registry_stands_before_the_contents_tag(exported):
    assert exported("llamacpp", registry="r.example/team/").image.startswith("r.example/team/thinkship/llamacpp:")


def test_an_unfinished_store_is_said_with_what_finishes_it(tmp_path):
    with pytest.raises(NotReadyError, match=r"base-[0-9a-f]{12} is not there") as error:
        served(RECIPE, Wish("llamacpp"), tmp_path)
    assert "thinkship run" in error.value.remedy


def test_what_was_touched_since_is_not_deployed(tmp_path):
    finish(RECIPE, tmp_path, ("llamacpp",))
    (gguf,) = tmp_path.glob("gguf-*/model-q8_0.gguf")
    gguf.write_text("another model", encoding="utf-8")
    with pytest.raises(BrokenError, match=r"model-q8_0\.gguf"):
        served(RECIPE, Wish("llamacpp"), tmp_path)


def test_engines_without_an_image_and_adapters_without_vllm_are_refused(exported):
    with pytest.raises(UsageError, match="transformers has no image"):
        exported("transformers")
    with pytest.raises(UsageError, match="ollama is not given adapters"):
        exported("ollama", adapter=True)


def test_an_unverified_model_is_said_beside_the_result(exported, capsys):
    assert exported("llamacpp").verdict == ""
    assert "not verified yet" in capsys.readouterr().err


def test_matrices_are_spread_within_a_node_and_layers_between_nodes(exported):
    found = exported("vllm", gpu=True)
    assert spread(found, 2, 3) == (3, 2)
    assert spread(replace(found, prequantised=True), 2, 3) == (1, 6), "bitsandbytes' own format knows no tensor parallel"
    with pytest.raises(InvalidError, match="9 attention heads cannot be spread over 2"):
        spread(found, 1, 2)
    with pytest.raises(InvalidError, match="30 layers cannot be spread over 31"):
        spread(found, 31, 1)


def test_a_checkpoint_in_bitsandbytes_own_format_is_noticed(tmp_path):
    from toolkit.export.served import _prequantised

    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "bitsandbytes"}}), encoding="utf-8")
    assert _prequantised(tmp_path) and not _prequantised(None)
