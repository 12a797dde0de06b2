"""An adapter as a GGUF of its own: what llama.cpp makes of it over the base is what the merged model says; what it has no place for is refused."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import program_environment
from training import PROGRAMS, piece

from toolkit.contracts import check
from toolkit.engines import Target
from toolkit.engines.wire import ask
from toolkit.places import Machine
from toolkit.serving import serving
from toolkit.stages import IMAGES
from toolkit.targets import tools

HERE = Path(__file__).parent
CONVERT = IMAGES / "convert"
PRINTABLE = 3 + ord("e")
"""A token of the tiny model that is text by itself: half a letter is answered without its probabilities, which no bias moves."""


def converted(run_program: Any, python: Path, base: Path, adapter: Path, folder: Path) -> Any:
    return run_program(python, CONVERT / "lora_to_gguf.py", {"base": base, "train": adapter}, {}, folder)


REFUSED = {
    "trained_tags": "no place for 1 of the adapter's tensors, as base_model.model.model.embed_tokens",
    "dora": "no place for 4 of the adapter's tensors, as base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector",
    "whole_embeddings_saved": "no place for 1 of the adapter's tensors, as base_model.model.model.embed_tokens.weight",
    "rank_stabilized": "the adapter's scale is not alpha / rank throughout (use_rslora)",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_has_no_place_for_is_refused_and_not_left_out(name, imported, tiny_inputs, convert_python, run_program, tmp_path):
    done = converted(run_program, convert_python, tiny_inputs["base"], imported / f"{name}-output", tmp_path)
    assert done.code == 3, done.log[-2000:]
    assert REFUSED[name] in done.error["message"] and "merged" in done.error["remedy"]
    assert not list(done.output.iterdir())


def gguf(python: Path, model: Path, target: Path) -> Path:
    script = python.parent.parent / "llama.cpp" / "convert_hf_to_gguf.py"
    subprocess.run((python, script, model, "--outfile", target, "--outtype", "f32"), check=True, capture_output=True, env=program_environment())
    return target


Likely = dict[tuple[str, int], float]
"""Log-probabilities of the tokens that may follow texts, by text and token."""
TEXTS = ("What is 12 + 12?", "<think>", "twice")


def followed(root: str, text: str, **fields: Any) -> Likely:
    """Ask a server what may follow a text."""
    told = ask(f"{root}/completion", {"prompt": text, "n_predict": 1, "n_probs": 300, "logit_bias": [[PRINTABLE, 100]], **fields})
    return {(text, seen["id"]): seen["logprob"] for seen in told["completion_probabilities"][0]["top_logprobs"]}


def likeliest(gguf: Path, adapter: Path | None, folder: Path) -> Likely:
    """Return what may follow the texts, of a GGUF with or without an adapter."""
    folder.mkdir()
    target = Target("tiny", 256, 1, "qwq", "f32", gguf=gguf, adapter=adapter)
    with serving("llamacpp", target, Machine(tools("llamacpp", folder)), folder / "log") as endpoint:
        return {key: value for text in TEXTS for key, value in followed(endpoint.root, text).items()}


def test_base_and_adapter_say_what_the_merged_model_says(imported, tiny_inputs, train_python, convert_python, run_program, tmp_path):
    lora = converted(run_program, convert_python, tiny_inputs["base"], imported / "strong-output", tmp_path / "lora")
    assert lora.code == 0, lora.log[-2000:]
    check("lora", lora.output, {})
    assert json.loads((lora.output / "lora.json").read_text())["pairs"] == 4
    wanted = piece("merge", merge={"dtype": "float32", "max_logit_difference": 0.01})
    merged = run_program(train_python, PROGRAMS / "merge.py", {**tiny_inputs, "train": imported / "strong-output"}, wanted, tmp_path / "merge")
    assert merged.code == 0, merged.log[-2000:]
    base = gguf(convert_python, tiny_inputs["base"] / "model", tmp_path / "base.gguf")
    whole = gguf(convert_python, merged.output / "model", tmp_path / "merged.gguf")
    alone, beside, together = (
        likeliest(file, lora_file, tmp_path / name)
        for name, file, lora_file in (("a", base, None), ("b", base, lora.output / "adapter.gguf"), ("c", whole, None))
    )
    assert len(together) > 700 and beside.keys() == together.keys()
    assert max(abs(beside[key] - together[key]) for key in together) < 1e-3
    assert max(abs(alone[key] - together[key]) for key in together) > 0.1, "the adapter must make a difference for this to show anything"


LONG = "How many apples are left when twelve are eaten and thirty are bought? " * 2
"""A prompt that is worth caching."""


@pytest.mark.parametrize("slots", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_prompt_is_never_answered_from_what_another_adapter_read(slots, imported, tiny_inputs, convert_python, run_program, tmp_path):
    """The order in which llama.cpp's caches mix adapters up (ggml-org/llama.cpp#26207, #30129): the prompt, another in its place, the prompt."""
    files = {}
    for name in ("strong", "strong_elsewhere"):
        done = converted(run_program, convert_python, tiny_inputs["base"], imported / f"{name}-output", tmp_path / name)
        assert done.code == 0, done.log[-2000:]
        files[name] = done.output / "adapter.gguf"
    own, other = files.values()
    base = gguf(convert_python, tiny_inputs["base"] / "model", tmp_path / "base.gguf")
    alone = [_alone(base, adapter, tmp_path / f"alone-{number}") for number, adapter in enumerate((own, other))]
    assert max(abs(alone[0][key] - alone[1][key]) for key in alone[0]) > 0.1, "the two must differ for this to show anything"
    first, second = ({"lora": [{"id": number, "scale": float(number == wanted)} for number in (0, 1)]} for wanted in (0, 1))
    target = Target("tiny", 512, slots, "qwq", "f32", gguf=base, adapter=own, adapters={"other": other})
    (tmp_path / "both").mkdir()
    with serving("llamacpp", target, Machine(tools("llamacpp", tmp_path / "both")), tmp_path / "log") as endpoint:
        for asked, wanted in ((first, 0), (second, 1), ({}, 0), (second, 1), (first, 0)):
            for place in range(slots):
                followed(endpoint.root, f"{place} is another text altogether, and it is about the sea, which is large. " * 2, **asked)
            found = followed(endpoint.root, LONG, **asked)
            assert max(abs(found[key] - alone[wanted][key]) for key in found) < 1e-3, (asked, wanted)


def _alone(base: Path, adapter: Path, folder: Path) -> Likely:
    folder.mkdir()
    target = Target("tiny", 512, 1, "qwq", "f32", gguf=base, adapter=adapter)
    with serving("llamacpp", target, Machine(tools("llamacpp", folder)), folder / "log") as endpoint:
        return followed(endpoint.root, LONG)
