"""A recipe that names an adapter which was trained elsewhere: how it is stated, planned, pinned, sealed and told of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from observations import TASK, observation

from toolkit.contracts import check
from toolkit.errors import BrokenError, InvalidError
from toolkit.fit import review, storage
from toolkit.fit.card import named
from toolkit.hubs import RemoteFile
from toolkit.plan import plan
from toolkit.recipe import Recipe
from toolkit.report import document, facts, junit, page, terminal
from toolkit.resolve import resolve
from toolkit.selection import adapter
from toolkit.verify.judge import judge

LORA = {"peft_type": "LORA", "r": 4}


def with_adapter(recipe: Recipe, path: Path, **settings: Any) -> Recipe:
    data = recipe.model_dump(mode="json", exclude={"train"})
    return Recipe.model_validate({**data, "adapter": {"source": {"path": str(path)}, **settings}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "adapter_config.json").write_text(json.dumps(LORA))
    (made / "adapter_model.safetensors").write_bytes(b"x")
    return made


@pytest.mark.parametrize(("sections", "words"), [({}, "neither is"), ({"train": {"steps": 1}, "adapter": {"source": {"path": "x"}}}, "both are")])
def test_a_recipe_trains_or_takes_an_adapter(demo, sections, words):
    data = demo.model_dump(mode="json", exclude={"train", "adapter"})
    with pytest.raises(ValueError, match=f"one of train and adapter is wanted, and {words} there"):
        Recipe.model_validate({**data, **sections})


def test_an_import_stands_in_the_place_of_training_and_the_rest_is_as_it_was(demo, demo_folder, folder):
    before = {step.name: step for step in plan(resolve(demo, demo_folder))}
    after = {step.name: step for step in plan(resolve(with_adapter(demo, folder), demo_folder))}
    assert list(before) == list(after)
    assert after["train"].stage.program == "images/train/import_adapter.py" and after["train"].stage.network
    assert dict(after["train"].inputs) == {"base": "base"} and "train" not in after["train"].recipe
    assert {name for name in before if before[name].inputs != after[name].inputs} == {"train", "verify"}
    moved = {name for name in before if before[name].id != after[name].id}
    assert {"train", "merge", "gguf", "verify"} <= moved and not {"base", "dataset", "gguf-base"} & moved


def test_the_adapters_content_is_in_the_ids(demo, demo_folder, folder):
    recipe = with_adapter(demo, folder)
    before = {step.name: step.id for step in plan(resolve(recipe, demo_folder))}
    (folder / "adapter_model.safetensors").write_bytes(b"y")
    after = {step.name: step.id for step in plan(resolve(recipe, demo_folder))}
    assert before["train"] != after["train"] and before["base"] == after["base"]


def gone(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def no_config(folder: Path) -> None:
    (folder / "checkpoint-20").mkdir()
    (folder / "adapter_config.json").rename(folder / "checkpoint-20" / "adapter_config.json")


def whole_checkpoint(folder: Path) -> None:
    (folder / "adapter_config.json").rename(folder / "config.json")


def no_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def pickle_alone(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def other_kind(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}')


def no_json(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[]")


FIRST_LOOK = [
    (gone, "is no folder", "from the recipe's folder on"),
    (no_config, "it holds no adapter_config.json", "checkpoint-20"),
    (whole_checkpoint, "it holds no adapter_config.json", "state it as base.source"),
    (no_weights, "it holds no adapter_model.safetensors", "save_pretrained"),
    (pickle_alone, "a pickle, which can run anything", "weights_only=True"),
    (other_kind, "peft_type is 'IA3'", "base.source"),
    (no_json, "is no JSON with settings", "copy"),
]


@pytest.mark.parametrize(("change", "message", "remedy"), FIRST_LOOK, ids=lambda value: getattr(value, "__name__", ""))
def test_what_cannot_be_an_adapter_is_told_before_a_base_is_fetched(demo, demo_folder, folder, change, message, remedy):
    change(folder)
    with pytest.raises(InvalidError) as caught:
        resolve(with_adapter(demo, folder), demo_folder)
    assert message in caught.value.message and remedy in caught.value.remedy


def test_a_pickle_is_taken_where_the_recipe_says_so(demo, demo_folder, folder):
    pickle_alone(folder)
    assert resolve(with_adapter(demo, folder, allow_pickle=True), demo_folder).adapter


def files(*paths: str) -> list[RemoteFile]:
    return [RemoteFile(path, 1, "sha256:0") for path in paths]


def test_of_a_repository_the_adapter_is_taken_and_a_pickle_only_without_it():
    whole = (
        "adapter_config.json",
        "adapter_model.safetensors",
        "adapter_model.bin",
        "README.md",
        "tokenizer.json",
        "optimizer.pt",
        "checkpoint-1/x.json",
    )
    assert [file.path for file in adapter(files(*whole), "x", False)] == sorted(
        {*whole} - {"adapter_model.bin", "optimizer.pt", "checkpoint-1/x.json"}
    )
    pickled = ("adapter_config.json", "adapter_model.bin")
    assert [file.path for file in adapter(files(*pickled), "x", True)] == list(pickled)
    with pytest.raises(InvalidError, match="a pickle"):
        adapter(files(*pickled), "x", False)
    with pytest.raises(InvalidError, match=r"owner/x is no PEFT adapter: it holds no adapter_config\.json"):
        adapter(files("config.json", "model.safetensors"), "owner/x", False)


def test_an_import_without_its_facts_is_not_sealed(tmp_path):
    for name in ("train.json", "metrics.jsonl", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(BrokenError, match="trained_elsewhere"):
        check("train", tmp_path, {"adapter": {}})


def test_nothing_is_said_of_the_memory_of_a_training_that_is_not_made(demo, folder):
    data = demo.model_dump(mode="json", exclude={"train"})
    data["base"]["source"] = {"hub": "Qwen/QwQ-32B"}
    recipe = Recipe.model_validate({**data, "adapter": {"source": {"path": str(folder)}}})
    case = review.case_of(recipe, folder, "H100")
    assert case and case.card == named("H100")
    assert next(review.STAGES["train"](case)).message.startswith("nothing is trained here")
    assert "adapter and checkpoints" not in {term.name for term in storage.disk(case.base, recipe, ("llamacpp",))}


TOLD = {
    "source": "path:lora",
    "trainer": {"name": "LLaMA-Factory", "version": None, "peft": "0.18.1"},
    "kind": "LoRA",
    "rank": 16,
    "target_modules": ["q_proj"],
    "trainable_parameters": 10,
    "sha256": "0" * 64,
    "losses_told": 0,
    "remarks": ["another chat template <b>\n--- as it is served"],
}


def report(**told: Any) -> dict[str, Any]:
    found = judge("demo", TASK, [observation("vllm", "bf16")], {"adapter": {**TOLD, **told}}).model_dump(mode="json", by_alias=True)
    document.Published.model_validate(found)
    return found


def test_every_report_says_that_it_was_trained_elsewhere(capsys):
    sentence = "The adapter was trained elsewhere, by LLaMA-Factory (path:lora, LoRA of rank 16): how its loss fell is not known."
    found = report()
    assert sentence in facts.reasons(found) and sentence in page.html(found)
    assert "another chat template &lt;b&gt;" in page.html(found)
    terminal.show(found)
    shown = capsys.readouterr().out
    assert sentence in shown and "adapter: another chat template" in shown
    assert junit.xml(found)


def test_a_further_adapter_is_told_of_too(capsys):
    found = judge("demo", TASK, [observation("vllm", "bf16-adapter")], {"adapters": {"second": TOLD}}).model_dump(mode="json", by_alias=True)
    document.Published.model_validate(found)
    sentence = (
        "The adapter second, served beside it, was trained elsewhere, by LLaMA-Factory (path:lora, LoRA of rank 16): how its loss fell is not known."
    )
    assert sentence in facts.reasons(found) and sentence in page.html(found)
    terminal.show(found)
    assert sentence in capsys.readouterr().out


def test_a_trainer_that_is_not_known_and_losses_that_were_told_are_called_so():
    found = report(trainer={"name": None, "version": None, "peft": None}, losses_told=24)
    assert "by a trainer that its files do not name" in facts.elsewhere(found) and "its own record of 24 losses was not checked" in facts.elsewhere(
        found
    )
    assert facts.elsewhere(judge("demo", TASK, [observation()]).model_dump(mode="json", by_alias=True)) == ""
