"""The import of adapters that were trained elsewhere: what is whole is left as training leaves it, all else is one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from training import DEMO, PROGRAMS, piece

from toolkit.contracts import check
from toolkit.errors import BrokenError

HERE = Path(__file__).parent
SLICE = {"adapter": {"source": {"path": "good"}, "allow_pickle": False}, "think": DEMO.base.think.model_dump()}


@pytest.fixture(scope="module")
def results(imported: Path) -> dict[str, Any]:
    return json.loads((imported / "results.json").read_text())


REFUSED = {
    "not_a_folder_of_peft": ("is no PEFT adapter: it holds no adapter_config.json", "checkpoint-7"),
    "config_cut_off": ("adapter_config.json is no JSON", "copy the folder again"),
    "other_kind": ("peft_type is 'LOKR'", "base.source"),
    "rank_zero": ("rank {'r': 0} is no rank", "train it again"),
    "pissa": ("changes the base's own weights", "pissa_convert"),
    "no_weights": ("holds no adapter_model.safetensors", "whole folder"),
    "pickled": ("a pickle, which can run anything", "weights_only=True"),
    "cut_off_pickle_allowed": ("adapter_model.bin was cut off or damaged", "copy the file again"),
    "wicked_pickle_allowed": ("holds more than tensors and was not read", "safetensors"),
    "cut_off": ("bytes where its header tells of", "copy the file again"),
    "pointer": ("a Git LFS pointer", "copy the file again"),
    "header_of_noise": ("its header cannot be read", "copy the file again"),
    "other_width": ("q_proj.lora_A.weight is 4 x 320 where this base and the config's rank want 4 x 256", "base.source"),
    "other_rank": ("is 4 x 256 where this base and the config's rank want 8 x 256", "the weights have rank 4"),
    "ungathered": ("q_proj.lora_A.weight is 0 where", "ZeRO-3"),
    "more_layers": ("1 tensors have no place in this base: base_model.model.model.layers.2", "base.source"),
    "fewer_layers": ("over this base are missing: base_model.model.model.layers.0", "base.source"),
    "unknown_module": ("target_modules names c_attn, of which this base has none", "base.source"),
    "resized": ("has 300 rows and this base's vocabulary 264: the trainer resized it", "--until base"),
    "tied_layer_saved": ("embed_tokens, which this base ties", "ensure_weight_tying"),
    "mute": ("does not train the row of </think>, which was added to this base: the model could never say it", "trainable_token_indices"),
    "not_a_number": ("q_proj.lora_A.weight holds 1 values that are no numbers", "learning rate"),
    "untrained": ("every lora_B is zero", "after training"),
    "added_token": ("1 tokens that the base lacks: <tool>", "--until base"),
    "lacking_tags": ("2 tokens of the base are missing: <think>, </think>", "--until base"),
}
TAKEN = {
    "good": ("LLaMA-Factory", None, 1),
    "of_axolotl": ("Axolotl", "0.19.0", 3),
    "of_swift": ("ms-swift", "4.6.0", 3),
    "dora": (None, None, 3),
    "strong": (None, None, 3),
    "strong_elsewhere": (None, None, 3),
    "rank_stabilized": (None, None, 3),
    "trained_tags": (None, None, 3),
    "whole_embeddings_saved": (None, None, 3),
    "mute_no_more": (None, None, 3),
    "pickled_and_allowed": (None, None, 3),
    "added_padding": (None, None, 3),
    "other_template": (None, None, 2),
    "broken_template": (None, None, 3),
}
"""Trainer, its version and how many remarks are made."""


def test_every_case_is_looked_at(results):
    assert set(results) == set(REFUSED) | set(TAKEN)


@pytest.mark.parametrize("name", REFUSED)
def test_an_adapter_that_cannot_be_right_is_one_error_with_its_remedy(results, imported, name):
    message, remedy = REFUSED[name]
    assert results[name].get("code") == 3, results[name]
    assert message in results[name]["message"] and remedy in results[name]["remedy"]
    assert not (imported / f"{name}-output" / "train.json").exists()


def test_a_pickle_runs_nothing(imported):
    assert not (imported / "was-run").exists()


@pytest.mark.parametrize("name", TAKEN)
def test_an_adapter_that_fits_is_left_as_training_leaves_it(results, imported, name):
    trainer, version, remarks = TAKEN[name]
    assert "message" not in results[name], results[name]
    assert (results[name]["trainer"]["name"], results[name]["trainer"]["version"], len(results[name]["remarks"])) == (trainer, version, remarks)
    output = imported / f"{name}-output"
    check("train", output, SLICE)
    assert sorted(path.name for path in (output / "adapter").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((output / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny" and config["r"] == 4


def test_the_contract_notices_other_weights_than_train_json_tells_of(imported, tmp_path):
    output = imported / "of_swift-output"
    weights = output / "adapter" / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BrokenError, match="does not tell of these weights"):
        check("train", output, SLICE)
    weights.write_bytes(content)


def test_losses_are_taken_over_where_the_trainer_told_them_and_never_made_up(results, imported):
    assert json.loads((imported / "good-output" / "metrics.jsonl").read_text()) == {"loss": 2.0, "step": 1}
    assert (imported / "dora-output" / "metrics.jsonl").read_text() == ""
    assert (results["good"]["losses_told"], results["dora"]["losses_told"]) == (1, 0)


def test_another_template_is_told_with_the_difference_and_nothing_that_moves_a_terminal(results):
    told = results["other_template"]["remarks"][0]
    assert "another chat template" in told and "-<|im_start|>user" in told and "+[user] What is 2 + 3?" in told
    assert "\x1b" not in told and "\\x1b[2J" in told
    assert "cannot be rendered" in " ".join(results["broken_template"]["remarks"])


def test_an_imported_adapter_is_merged_like_any_other(imported, tiny_inputs, train_python, run_program, tmp_path):
    done = run_program(
        train_python,
        PROGRAMS / "merge.py",
        {**tiny_inputs, "train": imported / "good-output"},
        piece("merge", merge={"dtype": "float32", "max_logit_difference": 0.01}),
        tmp_path,
    )
    assert done.code == 0, done.log[-3000:] + str(done.events[-1:])


def test_the_program_ends_with_the_designs_exit_codes(imported, tiny_inputs, train_python, run_program, tmp_path):
    for name, code in (("cut_off", 3), ("good", 0)):
        recipe = {**SLICE, "adapter": {"source": {"path": name}, "allow_pickle": False}}
        inputs = {"base": tiny_inputs["base"], "recipe_dir": imported}
        done = run_program(train_python, PROGRAMS / "import_adapter.py", inputs, recipe, tmp_path / name)
        assert done.code == code, done.log[-3000:] + str(done.events[-1:])
    assert "trained elsewhere, by LLaMA-Factory" in str(done.events)
