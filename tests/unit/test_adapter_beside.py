# ruff: noqa: F401, F811 - pytest finds the imported fixture `folder` by its name
"""Adapters that lie beside their base, one or several: how they are stated, planned, given to engines and exported."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finished_store import finish
from test_adapter import files, folder, pickle_alone, with_adapter

from toolkit import host, lock_file, service
from toolkit.engines import Target, Tools, engine
from toolkit.errors import BrokenError, InvalidError, UsageError
from toolkit.export.served import Wish, served
from toolkit.fit import review
from toolkit.lock_file import Pin
from toolkit.pipeline import Task
from toolkit.plan import plan
from toolkit.recipe import Recipe
from toolkit.render import ModelfileValues, render_modelfile
from toolkit.resolve import resolve
from toolkit.servers import Server
from toolkit.stages import ROOT
from toolkit.targets import target
from toolkit.verify import Expectations, identity


def apart(recipe: Recipe, folder: Path, **serve: Any) -> Recipe:
    data = recipe.model_dump(mode="json", exclude={"train"})
    data["serve"] |= serve
    return Recipe.model_validate({**data, "adapter": {"source": {"path": str(folder)}}})


def test_an_adapter_can_be_served_beside_its_base(demo, demo_folder, folder):
    vllm = {"variants": ["bf16"], "adapter": "both"}
    recipe = apart(demo, folder, llamacpp={"adapter": "separate"}, vllm=vllm)
    planned = {step.name: step for step in plan(resolve(recipe, demo_folder), ("llamacpp", "vllm"))}
    assert [name for name in planned if name.startswith("serve-")] == [
        "serve-llamacpp-f16-adapter",
        "serve-llamacpp-f16-base",
        "serve-vllm-bf16",
        "serve-vllm-bf16-adapter",
        "serve-vllm-bf16-base",
    ]
    assert dict(planned["lora"].inputs) == {"base": "base", "train": "train"}
    llamacpp = {"model": "merge", "dataset": "dataset", "base": "base", "lora": "lora", "gguf": "gguf-base"}
    assert dict(planned["serve-llamacpp-f16-adapter"].inputs) == llamacpp
    assert dict(planned["serve-vllm-bf16-adapter"].inputs) == {"model": "merge", "dataset": "dataset", "base": "base", "train": "train"}
    assert "lora" not in {step.name for step in plan(resolve(recipe, demo_folder), ("vllm",))}
    assert "train" in planned["verify"].inputs


def test_rows_of_added_tags_are_not_served_beside_a_base(demo):
    data = demo.model_dump(mode="json", exclude={"adapter"})
    data["serve"]["vllm"]["adapter"] = "separate"
    with pytest.raises(ValueError, match=r"serve\.vllm\.adapter: rows of added tags .* merged is wanted"):
        Recipe.model_validate(data)


def launched(folder: Path, name: str, **config: Any) -> tuple[str, ...]:
    """Return the command line of an engine for a base with this adapter beside it."""
    (folder / "adapter_config.json").write_text(json.dumps({"r": 24, **config}))
    inputs = {"model": folder, "base": folder.parent, "train": folder.parent, "lora": folder, "gguf": folder}
    if name == "vllm":
        del inputs["lora"], inputs["gguf"]
    served = {"name": "sums", "context": 64, "parallel": 2, "vllm": {}}
    recipe = {"serve": served, "family": "qwq", "variant": "f16-adapter", "think": {}, "base": False}
    tools = Tools({name: Path("python")}, Path("/programs"), folder)
    return engine(name).launch(target(recipe, inputs), 8000, tools).argv


def test_llamacpp_is_given_the_base_and_the_adapters_file(folder):
    argv = launched(folder, "llamacpp")
    assert argv[argv.index("--model") + 1] == str(folder / "model-f16.gguf") and argv[argv.index("--lora") + 1] == str(folder / "adapter.gguf")


def test_vllm_serves_the_adapter_under_the_models_name(folder):
    argv = launched(folder, "vllm", rank_pattern={"up_proj": 40})
    assert argv[argv.index("--model") + 1] == str(folder.parent / "model") and argv[argv.index("--dtype") + 1] == "float32"
    assert argv[argv.index("--served-model-name") + 1] == "sums-base" and argv[argv.index("--lora-modules") + 1] == f"sums={folder}"
    assert argv[argv.index("--max-lora-rank") + 1] == "64" and "--enable-lora" in argv


@pytest.mark.parametrize(
    "config", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [1]}, {"bias": "all"}, {"r": 1024}]
)
def test_what_vllm_has_no_place_for_is_refused_before_it_starts(folder, config):
    with pytest.raises(InvalidError) as caught:
        launched(folder, "vllm", **config)
    assert "vLLM" in caught.value.message and "merged" in caught.value.remedy


def test_a_variant_beside_its_base_is_judged_by_its_quantisation():
    expected = Expectations(variant="q4_k_m-adapter")
    assert expected.quantization == "q4_k_m" and identity.allowed(expected) == (identity.EQUAL_COARSE, identity.DISTANCE_COARSE)
    assert expected.finding("x", "llamacpp", status="pass", message="m").variant == "q4_k_m-adapter"


def copied(folder: Path, name: str) -> Path:
    """Return another adapter beside this one, with other bytes."""
    made = folder.with_name(name)
    shutil.copytree(folder, made)
    (made / "adapter_model.safetensors").write_bytes(name.encode())
    return made


def several(recipe: Recipe, folder: Path, *names: str, **serve: Any) -> Recipe:
    further = [{"name": name, "source": {"path": str(copied(folder, name))}} for name in names]
    placed = {"llamacpp": {"adapter": "both"}, "vllm": {"variants": ["bf16"], "adapter": "separate"}} | serve
    return apart(recipe, folder, adapters=further, **placed)


def test_further_adapters_are_imported_referenced_and_served_beside_the_own(demo, demo_folder, folder):
    recipe = several(demo, folder, "second", "third")
    planned = {step.name: step for step in plan(resolve(recipe, demo_folder), ("llamacpp", "vllm"))}
    assert planned["adapter-second"].stage.program == "images/train/import_adapter.py" and "name" not in planned["adapter-second"].recipe["adapter"]
    assert dict(planned["reference-second"].inputs) == {"base": "base", "train": "adapter-second", "dataset": "dataset"}
    assert dict(planned["lora-third"].inputs) == {"base": "base", "train": "adapter-third"}
    beside = {name: dict(step.inputs) for name, step in planned.items() if name.endswith("-adapter")}
    assert beside["serve-vllm-bf16-adapter"] == {
        **{"model": "merge", "dataset": "dataset", "base": "base", "train": "train"},
        **{"adapter-second": "adapter-second", "reference-second": "reference-second"},
        **{"adapter-third": "adapter-third", "reference-third": "reference-third"},
    }
    assert {"lora-second", "lora-third", "reference-third", "lora", "gguf"} <= set(beside["serve-llamacpp-f16-adapter"])
    assert planned["serve-vllm-bf16-adapter"].recipe["adapters"] == ["second", "third"]
    assert {"adapter-second", "adapter-third"} <= set(planned["verify"].inputs)
    names = list(planned)
    assert all(names.index(other) < names.index(name) for name, step in planned.items() for other in step.inputs.values())
    assert not any("second" in name for name in (step.name for step in plan(resolve(recipe, demo_folder), ("ollama", "transformers"))))


def test_the_memory_of_a_reference_is_asked_for_where_further_adapters_are_served_alone(demo, demo_folder, folder):
    recipe = several(demo, folder, "second")
    for engines, asked in {("ollama",): False, ("vllm",): True, ("transformers", "llamacpp"): True}.items():
        case = review.case_of(recipe, demo_folder, None, engines)
        assert case and ("fit reference" in {found.check for found in review.review(case)}) == asked, engines


def test_a_further_adapter_moves_what_serves_it_alone_and_by_its_content(demo, demo_folder, folder):
    alone = {step.name: step.id for step in plan(resolve(several(demo, folder), demo_folder), ("llamacpp", "vllm"))}
    recipe = several(demo, folder, "second")
    before = {step.name: step.id for step in plan(resolve(recipe, demo_folder), ("llamacpp", "vllm"))}
    assert {name for name in alone if alone[name] != before[name]} == {"serve-llamacpp-f16-adapter", "serve-vllm-bf16-adapter", "verify"}
    (folder.with_name("second") / "adapter_model.safetensors").write_bytes(b"other")
    after = {step.name: step.id for step in plan(resolve(recipe, demo_folder), ("llamacpp", "vllm"))}
    moved = {name for name in before if before[name] != after[name]}
    assert moved == {"adapter-second", "reference-second", "lora-second", "serve-llamacpp-f16-adapter", "serve-vllm-bf16-adapter", "verify"}


@pytest.mark.parametrize(
    ("names", "serve", "words"),
    [
        (("second", "second"), {}, "second is the name of more than one model"),
        (("smollm2-demo",), {}, "smollm2-demo is the name of more than one model"),
        (("smollm2-demo-base",), {}, "smollm2-demo-base is the name of more than one model"),
        (("second",), {"llamacpp": {}, "vllm": {}, "ollama": {"adapter": "both"}}, "in vLLM or llama.cpp alone"),
        (("Second",), {}, "String should match pattern"),
        ((), {"vllm": {"variants": ["bf16", "w4a16"], "adapter": "separate"}}, "w4a16 is made of the merged model"),
    ],
)
def test_adapters_that_cannot_be_told_apart_or_lie_nowhere_are_refused(demo, folder, names, serve, words):
    further = [{"name": name, "source": {"path": str(folder)}} for name in names]
    with pytest.raises(ValueError, match=words):
        apart(demo, folder, adapters=further, **({"vllm": {"variants": ["bf16"], "adapter": "both"}} | serve))


def test_a_further_adapter_is_looked_at_before_a_base_is_fetched(demo, demo_folder, folder):
    recipe = several(demo, folder, "second")
    pickle_alone(folder.with_name("second"))
    with pytest.raises(InvalidError, match=r"serve/adapters/second/source/path: .*second holds adapter_model\.bin alone"):
        resolve(recipe, demo_folder)


def test_a_further_adapter_of_a_hub_is_locked_like_the_own(demo, folder, tmp_path):
    data = several(demo, folder).model_dump(mode="json")
    data["serve"]["adapters"] = [{"name": "second", "source": {"hub": "owner/second"}}]
    for part in ("source", "holdout"):
        data["dataset"][part]["path"] = str(ROOT / "recipes" / data["dataset"][part]["path"])
    recipe = Recipe.model_validate(data)
    pin = Pin(source={"hub": "owner/second", "revision": "main"}, commit="1" * 40, files=tuple(files("adapter_config.json")))
    lock_file.write(lock_file.path_of(tmp_path, recipe.name), {"serve/adapters/second/source": pin})
    lock = resolve(recipe, tmp_path)
    step = next(step for step in plan(lock, ("vllm",)) if step.name == "adapter-second")
    assert step.recipe["adapter"]["source"] == {"hub": "owner/second", "revision": "1" * 40}
    assert [file["path"] for file in step.recipe["files"]["source"]] == ["adapter_config.json"]


def served_together(folder: Path, name: str, *names: str, gpu: bool = False) -> tuple[str, ...]:
    """Return the command line of an engine for a base with its own and further adapters beside it."""
    inputs = {"model": folder, "base": folder.parent, "train": folder.parent}
    inputs |= {f"adapter-{one}": folder.with_name(one) for one in names}
    if name == "llamacpp":
        inputs |= {"lora": folder, "gguf": folder} | {f"lora-{one}": folder.with_name(one) for one in names}
    served = {"name": "sums", "context": 64, "parallel": 2, "vllm": {}}
    recipe = {"serve": served, "family": "qwq", "variant": "f16-adapter", "think": {}, "base": False, "adapters": names}
    tools = Tools({name: Path("python")}, Path("/programs"), folder, gpu=gpu)
    return engine(name).launch(target(recipe, inputs), 8000, tools).argv


def test_vllm_has_room_for_every_adapter_in_one_batch(folder):
    for name, config in (("second", {"r": 8, "rank_pattern": {"x": 100}}), ("third", {"r": 1})):
        (folder.with_name(name) / "adapter").mkdir(parents=True)
        (folder.with_name(name) / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    argv = served_together(folder, "vllm", "second", "third")
    place = argv.index("--lora-modules")
    others = [f"{name}={folder.with_name(name) / 'adapter'}" for name in ("second", "third")]
    assert list(argv[place + 1 : place + 4]) == [f"sums={folder}", *others] and argv[place + 4] == "--enable-lora"
    assert argv[argv.index("--max-loras") + 1] == "4", "on a CPU the base takes the last adapter's place: an empty one"
    assert argv[argv.index("--max-lora-rank") + 1] == "128"
    on_gpu = served_together(folder, "vllm", "second", "third", gpu=True)
    assert on_gpu[on_gpu.index("--max-loras") + 1] == "3"
    (folder.with_name("third") / "adapter" / "adapter_config.json").write_text(json.dumps({"r": 1, "use_dora": True}))
    with pytest.raises(InvalidError, match="cannot serve the adapter third beside its base: use_dora") as caught:
        served_together(folder, "vllm", "second", "third")
    assert "a recipe of its own" in caught.value.remedy


def test_llamacpp_is_given_the_own_adapter_first(folder):
    argv = served_together(folder, "llamacpp", "second", "third")
    given = [argv[number + 1] for number, word in enumerate(argv) if word == "--lora"]
    assert given == [str(path / "adapter.gguf") for path in (folder, folder.with_name("second"), folder.with_name("third"))]


def test_whoever_starts_a_server_is_told_how_each_adapter_is_asked_for(capsys, tmp_path):
    for name in ("vllm", "llamacpp"):
        service._introduce(Server(engine=name, url="http://127.0.0.1:1/v1", model="own", log=tmp_path / "log"), ("second",))
    words = capsys.readouterr().out
    assert 'second beside it: {"model": "second"}' in words
    assert 'second beside it: {"model": "own", "lora": [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]}' in words


def test_ollama_is_given_a_modelfile_of_the_base_with_the_adapter(demo, demo_folder, folder):
    recipe = apart(demo, folder, ollama={"adapter": "both"})
    planned = {step.name: step for step in plan(resolve(recipe, demo_folder), ("ollama",))}
    assert {"serve-ollama-q8_0", "serve-ollama-f16-adapter", "serve-ollama-f16-base"} <= set(planned)
    made = planned["modelfile-adapter"]
    assert dict(made.inputs) == {"gguf": "gguf-base", "model": "merge", "dataset": "dataset", "lora": "lora"}
    assert made.recipe == planned["modelfile-base"].recipe, "template and parameters are the same"
    served = dict(planned["serve-ollama-f16-adapter"].inputs)
    assert served["modelfile"] == "modelfile-adapter" and served["gguf"] == "gguf-base" and served["lora"] == "lora"
    assert "modelfile-adapter" not in {step.name for step in plan(resolve(recipe, demo_folder), ("llamacpp",))}


def test_ollama_takes_no_rows_of_added_tags(demo):
    data = demo.model_dump(mode="json", exclude={"adapter"})
    data["serve"]["ollama"]["adapter"] = "separate"
    with pytest.raises(ValueError, match=r"serve\.ollama\.adapter: rows of added tags .* merged is wanted"):
        Recipe.model_validate(data)


def test_the_modelfile_stage_names_the_adapter_and_the_engine_its_own_path(folder, tmp_path):
    store, output = tmp_path / "store", tmp_path / "modelfile-adapter-1"
    places = {name: store / f"{name}-1" for name in ("gguf", "lora", "model", "dataset")}
    for path in (output, *places.values(), places["model"] / "model"):
        path.mkdir(parents=True)
    (places["model"] / "model" / "generation_config.json").write_text('{"temperature": 0.6}')
    (places["dataset"] / "stats.json").write_text('{"longest_row": 100}')
    wanted = {"gguf": "f16", "parameters": {}, "answer_tokens": 512, "system": None, "license": ""}
    task = Task(places, output, tmp_path, tmp_path / "log")
    host.modelfile({"modelfile": wanted, "family": "qwq"}, task, no_place)
    text = (output / "Modelfile").read_text()
    assert text.startswith("FROM ../gguf-1/model-f16.gguf\nADAPTER ../lora-1/adapter.gguf\n\nTEMPLATE ")
    plain = replace(task, inputs={name: path for name, path in places.items() if name != "lora"})
    host.modelfile({"modelfile": wanted, "family": "qwq"}, plain, no_place)
    assert (output / "Modelfile").read_text() == text.replace("ADAPTER ../lora-1/adapter.gguf\n", "")
    (output / "Modelfile").write_text(text)
    beside = Target("x", 64, 1, "qwq", "f16", gguf=places["gguf"] / "m.gguf", modelfile=output / "Modelfile", adapter=places["lora"] / "adapter.gguf")
    tools = Tools({}, Path("/programs"), tmp_path / "scratch", Path("/ollama"))
    engine("ollama").lay_out(beside, tools)
    lines = (tools.scratch / "Modelfile").read_text().splitlines()
    assert lines[:2] == [f"FROM {places['gguf'] / 'm.gguf'}", f"ADAPTER {places['lora'] / 'adapter.gguf'}"]
    (output / "Modelfile").write_text("FROM x\n")
    with pytest.raises(BrokenError, match="has no ADAPTER line"):
        engine("ollama").lay_out(beside, tools)


def no_place(*_: Any) -> Any:
    raise AssertionError("no server is started here")


def test_a_path_of_an_adapter_that_a_modelfile_cannot_hold_is_refused():
    with pytest.raises(InvalidError, match="ADAPTER: 'a ' is no path"):
        render_modelfile(ModelfileValues("x.gguf", "qwq", 512, "0.33.0", adapter="a "))


def test_a_base_with_its_adapter_is_not_exported_as_a_variant(demo, folder, tmp_path):
    data = apart(demo, folder, llamacpp={"adapter": "separate"}).model_dump(mode="json", exclude={"train"})
    data["dataset"] |= {part: {"path": str(ROOT / "recipes" / data["dataset"][part]["path"])} for part in ("source", "holdout")}
    (tmp_path / "x.yml").write_text(json.dumps(data))
    with pytest.raises(UsageError, match="f16-adapter is the base with its adapter beside it"):
        served(tmp_path / "x.yml", Wish("llamacpp"), tmp_path)


def test_a_variant_beside_its_base_is_exported_for_vllm_as_with_the_option(demo, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("toolkit.export.served.present", tuple)
    found = {}
    for placed in ("separate", "merged"):
        vllm = {"variants": ["bf16"], "adapter": placed}
        further = [{"name": "second", "source": {"path": str(folder)}}] if placed == "separate" else []
        data = apart(demo, folder, vllm=vllm, adapters=further).model_dump(mode="json", exclude={"train"})
        data["dataset"] |= {part: {"path": str(ROOT / "recipes" / data["dataset"][part]["path"])} for part in ("source", "holdout")}
        (tmp_path / "x.yml").write_text(json.dumps(data))
        finish(tmp_path / "x.yml", tmp_path / "store", ("vllm",))
        found[placed] = served(tmp_path / "x.yml", Wish("vllm", adapter=placed == "merged"), tmp_path / "store")
    assert found["separate"].args == found["merged"].args and found["separate"].adapter == found["merged"].adapter
    assert [file.source for file in found["separate"].files].count("adapter_model.safetensors") == 1, "the files that are not served stay here"
    assert found["separate"].args.count("--lora-modules") == 1 and "second of serve.adapters are not" in capsys.readouterr().err
