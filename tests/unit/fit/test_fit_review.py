"""A recipe held against machines it was not made for."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest
from terminal import thinkship

from toolkit import lock_file, recipe_file
from toolkit.errors import NotReadyError
from toolkit.fit import review
from toolkit.fit.card import named
from toolkit.lock_file import Pin
from toolkit.resolve import _stated, resolve
from toolkit.stages import ROOT

RECIPES = ROOT / "recipes"
TUTORIAL, FULL, SEVEN = (RECIPES / f"{name}.yml" for name in ("qwq-32b-medical", "qwq-32b-medical-full", "deepseek-r1-distill-qwen-7b-medical"))


def case(path, card="H100", memory=256, **vllm):
    """Return a case on a machine with so many GiB, with keys of serve.vllm replaced."""
    recipe = recipe_file.load(path)
    serve = recipe.serve.model_copy(update={"vllm": recipe.serve.vllm.model_copy(update={"card": None, **vllm})})
    made = review.case_of(recipe.model_copy(update={"serve": serve}), RECIPES, card)
    assert made
    return dataclasses.replace(made, memory=memory << 30)


def errors(made):
    return {finding.check: finding for finding in review.review(made) if finding.severity == "error"}


def test_a_machine_that_is_large_enough_has_no_error():
    assert not errors(case(FULL))


def test_a_4_bit_base_is_not_merged_onto():
    found = errors(case(TUTORIAL))
    assert set(found) == {"fit merge"} and "--until train" in found["fit merge"].remedy


def test_a_card_too_small_to_train_is_said_with_what_would_fit():
    made = review.case_of(recipe_file.parse(TUTORIAL.read_text().replace("engine: unsloth", "engine: trl"), "x.yml"), RECIPES, "RTX 4090")
    assert made and "fit train" not in errors(case(TUTORIAL, "RTX 4090"))
    found = errors(made)["fit train"]
    assert "of RTX 4090 (24.0 GiB)" in found.message and found.remedy.startswith("dataset.max_length: ")


def test_the_dynamic_4_bit_base_is_told_from_the_plain_one():
    recipe = recipe_file.parse(TUTORIAL.read_text().replace("QwQ-32B-bnb-4bit, rev", "QwQ-32B-unsloth-bnb-4bit, rev"), "x.yml")
    made = review.case_of(recipe, RECIPES, "RTX 4090")
    assert made and made.base.wide_mlps == 45
    assert "45 MLPs of this 4-bit base are in 16 bits" in errors(made)["fit train"].remedy


def test_fp8_on_a_card_without_it_is_refused_with_marlin_named():
    found = errors(case(SEVEN, "A100 80GB", variants=("fp8",)))["fit serve vllm fp8"]
    assert "compute capability 8.0" in found.message and "Marlin" in found.remedy
    assert not errors(case(SEVEN, "A100 80GB", variants=("fp8-weights",)))


@pytest.mark.parametrize("given", [{"tensor_parallel": 2}, {"extra_args": ("--tensor-parallel-size", "2")}, {"extra_args": ("-tp=4",)}])
def test_pre_quantised_bitsandbytes_with_tensor_parallelism_is_refused(given):
    assert "pre-quantised bitsandbytes" in errors(case(TUTORIAL, **given))["fit serve vllm"].message
    assert "fit serve vllm" not in errors(case(FULL, **given))


def test_a_stated_card_larger_than_the_machines_is_not_believed():
    made = dataclasses.replace(case(FULL, "H100", variants=("fp8",)), card=named("RTX 4090"))
    assert "RTX 4090" in errors(made)["fit serve vllm fp8"].message


def test_an_old_driver_is_refused_for_what_runs_on_the_card():
    made = dataclasses.replace(case(FULL), card=dataclasses.replace(named("H100"), driver="570.86.15"))
    found = errors(made)
    assert set(found) == {"fit train", "fit serve"} and "580" in found["fit train"].remedy


def test_a_merge_needs_a_gibibyte_whatever_the_model_and_says_where_its_answers_cannot_be_compared():
    assert "fit merge" not in errors(case(FULL, memory=2))
    assert "this machine has 0.00 GiB" in errors(case(FULL, memory=0))["fit merge"].message
    assert any("rows of every tensor are compared" in finding.message for finding in review.review(case(FULL, "RTX 4090", memory=64)))


def test_a_4_bit_base_is_merged_onto_what_was_trained_on():
    recipe = recipe_file.parse(TUTORIAL.read_text().replace("merge: {", "merge: {base: dequantised, "), "x.yml")
    made = review.case_of(recipe, RECIPES, "H100")
    assert made and "fit merge" not in errors(made)


def test_what_was_merged_onto_dequantised_weights_is_not_rounded_to_4_bits_again():
    made = case(FULL, variants=("bnb-nf4",))
    assert "fit merge" not in errors(made)
    merge = made.recipe.merge.model_copy(update={"base": "dequantised"})
    found = errors(dataclasses.replace(made, recipe=made.recipe.model_copy(update={"merge": merge})))["fit merge"]
    assert "erases the adapter" in found.message and "merge.base: original" in found.remedy


def test_converting_says_its_files_and_warns_where_memory_does_not_hold_the_reference():
    found = {memory: next(f for f in review.review(case(FULL, memory=memory)) if f.check == "fit gguf") for memory in (256, 48)}
    assert found[256].severity == "ok" and "q4_k_m 19.9 GB" in found[256].message  # as the hub lists a 32B model's
    assert found[48].severity == "warning" and "48.0 GiB" in found[48].message


def test_a_context_that_does_not_fit_names_the_largest_one():
    found = errors(case(FULL, "RTX 4090", variants=("bnb-nf4",)))["fit serve vllm bnb-nf4"]
    assert found.remedy.startswith("serve.context: ") and 2048 <= int(found.remedy.split()[1]) < 8192


def test_formats_that_no_cpu_computes_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr("toolkit.fit.choice.has_avx512", lambda: False)
    made = dataclasses.replace(case(SEVEN, variants=("bf16", "int8", "w4a16", "fp8-dynamic", "auto")), card=None)
    assert {name for name in errors(made) if name.startswith("fit serve")} == {"fit serve vllm w4a16", "fit serve vllm fp8-dynamic"}
    with pytest.raises(NotReadyError, match="w4a16: vLLM serves w4a16 on a GPU, or a processor with AVX-512"):
        review.require(made, {"serve"})


def test_only_the_stages_that_are_asked_for_stop_a_run():
    made = case(TUTORIAL)
    review.require(made, {"base", "dataset", "train"})
    with pytest.raises(NotReadyError, match="fit merge"):
        review.require(made, {"merge"})
    review.require(None, {"merge"})


def test_auto_is_pinned_to_a_format_in_the_plan(tmp_path):
    recipe = recipe_file.load(TUTORIAL)
    sources = {"base/source": recipe.base.source, "dataset/source": recipe.dataset.source, "dataset/holdout": recipe.dataset.holdout}
    pins = {key: Pin(source=_stated(source), commit="0" * 40, files=()) for key, source in sources.items()}
    lock_file.write(lock_file.path_of(tmp_path, recipe.name), pins)
    pinned = resolve(recipe, tmp_path, ("vllm",)).recipe
    assert pinned.serve.vllm.variants == ("bnb-nf4",)  # the card that the recipe states, whatever is here


@pytest.fixture
def small_card(tmp_path, monkeypatch):
    """Let nvidia-smi show a card of 8 GiB and an old driver."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA Small, 8192, 8.9, 550.1'\n")
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("words", [("run", TUTORIAL, "--until", "train"), ("serve", FULL, "--engine", "vllm", "--variant", "bf16")])
def test_what_cannot_work_is_refused_before_a_hub_is_asked_and_nothing_is_made(tmp_path, small_card, words):
    done = thinkship(*words, "--store", tmp_path / "store")
    assert done.returncode == 4, done.stderr
    assert "NVIDIA driver 550.1 is older than 580" in done.stderr and "fix: install driver 580" in done.stderr
    assert "hub" not in done.stderr and not (tmp_path / "store").exists()


@pytest.mark.loopback
def test_a_stage_that_is_sealed_is_not_looked_at_again(tmp_path, small_card, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (tmp_path / "store" / "train-0123").mkdir(parents=True)
    (tmp_path / "store" / "train-0123" / "record.json").write_text("{}")
    done = thinkship("run", TUTORIAL, "--until", "train", "--store", tmp_path / "store")
    assert done.returncode == 4 and "fit" not in done.stderr and "cannot be reached" in done.stderr


def test_doctor_says_what_fits_a_card_by_name(tmp_path):
    done = thinkship("doctor", TUTORIAL, "--card", "H100", "--json")
    assert done.returncode == 4
    found = [finding for finding in json.loads(done.stdout) if finding["check"].startswith("fit")]
    assert {finding["check"] for finding in found} == {"fit base", "fit train", "fit merge", "fit serve vllm auto", "fit disk"}
    assert any(finding["message"].startswith("fp8: 32.2 GiB of weights") for finding in found)
    assert any("room for max_length" in finding["message"] for finding in found)


def test_doctor_refuses_an_unknown_card():
    done = thinkship("doctor", TUTORIAL, "--card", "RTX 4091")
    assert done.returncode == 2 and "did you mean RTX 4090" in done.stderr
