from __future__ import annotations

import ast
import dataclasses
import shutil

import pytest

from toolkit import plan as plan_module
from toolkit import stages
from toolkit.errors import InvalidError
from toolkit.gguf_files import Imatrix
from toolkit.plan import plan, until
from toolkit.recipe import Recipe
from toolkit.resolve import resolve
from toolkit.sources import PathSource
from toolkit.stages import ROOT


def steps(recipe: Recipe, folder, engines=None):
    return {step.name: step for step in plan(resolve(recipe, folder), engines)}


def changed(recipe: Recipe, **sections):
    return recipe.model_copy(update={name: getattr(recipe, name).model_copy(update=values) for name, values in sections.items()})


def test_the_demo_plans_every_stage_in_an_order_that_finds_its_inputs(demo, demo_folder):
    planned = plan(resolve(demo, demo_folder), ("llamacpp", "ollama", "vllm", "transformers"))
    seen: set[str] = set()
    for step in planned:
        assert set(step.inputs.values()) <= seen, step.name
        seen.add(step.name)
    assert [step.name for step in planned] == [
        "base",
        "dataset",
        "train",
        "merge",
        "gguf",
        "gguf-base",
        "modelfile",
        "modelfile-base",
        "serve-llamacpp-q8_0",
        "serve-llamacpp-f16",
        "serve-llamacpp-q4_k_m",
        "serve-llamacpp-f16-base",
        "serve-ollama-q8_0",
        "serve-ollama-f16-base",
        "serve-vllm-bnb-nf4",
        "serve-vllm-bf16",
        "serve-vllm-bf16-base",
        "serve-transformers-bf16",
        "serve-transformers-bf16-base",
        "verify",
    ]


def test_a_stored_format_is_a_step_of_its_own_that_vllm_is_served_from(demo, demo_folder):
    vllm = demo.serve.vllm.model_copy(update={"variants": ("w4a16", "bf16", "bnb-nf4-stored")})
    planned = steps(changed(demo, serve={"vllm": vllm}), demo_folder, ("vllm",))
    assert [name for name in planned if name.startswith("compress")] == ["compress-w4a16", "compress-bnb-nf4-stored"]
    assert planned["serve-vllm-w4a16"].inputs == {"model": "merge", "dataset": "dataset", "checkpoint": "compress-w4a16"}
    assert "checkpoint" not in planned["serve-vllm-bf16"].inputs | planned["serve-vllm-bf16-base"].inputs
    assert {"compress-w4a16", "compress-bnb-nf4-stored"} <= set(planned["verify"].inputs)
    locks = {name: step.stage.lock(step.recipe) for name, step in planned.items() if name.startswith("compress")}
    assert locks == {"compress-w4a16": "compress.lock", "compress-bnb-nf4-stored": "requirements.lock"}
    assert "compress-w4a16" not in steps(changed(demo, serve={"vllm": vllm}), demo_folder, ("llamacpp",))


def test_other_calibration_rows_make_the_format_again_and_nothing_before_it(demo, demo_folder):
    vllm = demo.serve.vllm.model_copy(update={"variants": ("w4a16", "bf16")})
    recipe = changed(demo, serve={"vllm": vllm})
    before, after = (steps(one, demo_folder, ("vllm",)) for one in (recipe, changed(recipe, compress={"rows": 7})))
    assert {name for name in before if before[name].id != after[name].id} == {"compress-w4a16", "serve-vllm-w4a16", "verify"}


def test_ids_are_the_same_each_time_and_all_different(demo, demo_folder):
    first, second = steps(demo, demo_folder), steps(demo, demo_folder)
    assert first == second
    assert len({step.id for step in first.values()}) == len(first)


def moved(before, after):
    return {name for name in before if before[name].id != after[name].id}


@pytest.mark.parametrize(
    ("section", "values", "stays"),
    [
        ("train", {"steps": 81}, {"base", "dataset", "gguf-base", "serve-llamacpp-f16-base"}),
        ("gguf", {"max_kl": {}}, {"base", "dataset", "train", "merge"}),
        ("verify", {"think_at_least": 0.5}, {"base", "dataset", "train", "merge", "gguf", "gguf-base"}),
    ],
)
def test_a_change_moves_only_what_depends_on_it(demo, demo_folder, section, values, stays):
    before, after = steps(demo, demo_folder), steps(changed(demo, **{section: values}), demo_folder)
    assert set(before) - moved(before, after) == stays


def test_a_release_in_one_pass_has_no_merged_checkpoint(demo, demo_folder):
    gguf = {"source": "one_pass"}
    planned = steps(changed(demo, gguf=gguf), demo_folder, ("llamacpp", "ollama"))
    assert "merge" not in planned and planned["gguf"].inputs == {"model": "reference", "base": "base", "train": "train", "dataset": "dataset"}
    assert planned["gguf"].recipe["dtype"] == "bfloat16" and planned["gguf-base"].recipe["gguf"]["source"] == "merge"
    assert all(step.inputs["model"] == "reference" for name, step in planned.items() if name.startswith("serve") and not name.endswith("-base"))
    before = steps(demo, demo_folder, ("llamacpp", "ollama"))
    assert planned["gguf-base"].id == before["gguf-base"].id and planned["gguf"].id != before["gguf"].id
    with pytest.raises(InvalidError, match="vllm serve the merged checkpoint"):
        steps(changed(demo, gguf=gguf), demo_folder, ("llamacpp", "vllm"))


def test_an_importance_matrix_moves_the_tuned_files_alone_and_a_given_one_by_its_content(demo, demo_folder, tmp_path):
    with_rows = steps(changed(demo, gguf={"imatrix": Imatrix(rows=8)}), demo_folder)
    assert moved(steps(demo, demo_folder), with_rows) & {"gguf", "gguf-base", "merge"} == {"gguf"}
    shutil.copytree(demo_folder / "data", tmp_path / "data")
    given, ids = changed(demo, gguf={"imatrix": Imatrix(path="mine.gguf")}), []
    with pytest.raises(InvalidError, match=r"gguf/imatrix/path: .*mine\.gguf does not exist"):
        steps(given, tmp_path)
    for content in (b"one", b"two"):
        (tmp_path / "mine.gguf").write_bytes(content)
        ids.append(steps(given, tmp_path)["gguf"].id)
    assert ids[0] != ids[1] and steps(given, tmp_path)["gguf"].paths == {"recipe_dir": tmp_path}


def test_changed_data_moves_the_dataset_but_not_the_base(demo, demo_folder, tmp_path):
    for name in ("sums-train.jsonl", "sums-holdout.jsonl"):
        tmp_path.joinpath("data").mkdir(exist_ok=True)
        tmp_path.joinpath("data", name).write_bytes(demo_folder.joinpath("data", name).read_bytes())
    before = steps(demo, tmp_path)
    with tmp_path.joinpath("data", "sums-train.jsonl").open("a", encoding="utf-8") as stream:
        stream.write("\n")
    assert "dataset" in moved(before, steps(demo, tmp_path)) and "base" not in moved(before, steps(demo, tmp_path))


def test_the_id_covers_the_program(demo, demo_folder, monkeypatch):
    before = steps(demo, demo_folder)
    stage = before["train"].stage
    monkeypatch.setitem(plan.__globals__["STAGES"], "train", dataclasses.replace(stage, program="images/train/merge.py"))
    assert {"train", "merge", "gguf"} <= moved(before, steps(demo, demo_folder))


def test_the_verdicts_id_covers_all_that_its_page_and_its_xml_are_made_by(monkeypatch):
    covered: list[str] = []
    monkeypatch.setattr(plan_module, "digest_files", lambda paths: covered.extend(path.name for path in paths) or "")
    plan_module._report_digest()
    folder = ROOT / "toolkit" / "report"
    assert {path.name for path in folder.iterdir() if path.is_file()} | {"paired.py"} <= set(covered)


def test_missing_data_is_named_with_its_key(demo, demo_folder):
    recipe = changed(demo, dataset={"source": PathSource.model_validate({"path": "nowhere.jsonl"})})
    with pytest.raises(InvalidError, match=r"dataset/source/path: .*nowhere.jsonl does not exist"):
        resolve(recipe, demo_folder)


def test_until_keeps_the_stages_before(demo, demo_folder):
    names = [step.name for step in until(plan(resolve(demo, demo_folder)), "merge")]
    assert names == ["base", "dataset", "train", "merge"]


@pytest.mark.parametrize(
    ("train", "lock"),
    [({}, "requirements.lock"), ({"track": ("wandb",)}, "tracking.lock"), ({"engine": "unsloth", "track": ("wandb",)}, "unsloth.lock")],
)
def test_the_training_runs_with_the_lock_that_its_recipe_needs(demo, demo_folder, train, lock):
    step = steps(changed(demo, train=train), demo_folder)["train"]
    assert step.stage.lock(step.recipe) == lock
    assert not step.stage.online(step.recipe)


def test_a_training_may_reach_the_network_where_its_recipe_says_so(demo, demo_folder):
    step = steps(changed(demo, train={"network": True}), demo_folder)["train"]
    assert step.stage.online(step.recipe)


def test_another_version_in_the_lock_of_a_training_moves_its_id(demo, demo_folder, tmp_path, monkeypatch):
    recipe = changed(demo, train={"engine": "unsloth"})
    before = steps(recipe, demo_folder)
    shutil.copytree(ROOT / "images" / "train", tmp_path / "train")
    with (tmp_path / "train" / "unsloth.lock").open("a") as file:
        file.write("# another\n")
    monkeypatch.setattr(plan_module, "IMAGES", tmp_path)
    after = steps(recipe, demo_folder)
    assert next(name for name in before if before[name].id != after[name].id) == "train" and before["dataset"].id == after["dataset"].id


def parsed_imports(path):
    """Every name that a module imports, by Python's own parser."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def test_a_step_covers_every_module_that_its_program_imports():
    """Imports are found as text, which is ten times quicker: no file may be missed by that, wherever in it the statement stands."""
    files = [path for folder in ("toolkit", "images") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 150
    for path in files:
        root = ROOT if path.is_relative_to(ROOT / "toolkit") else path.parent
        wanted = {module for name in parsed_imports(path) for module in stages._module_files(root, name)}
        assert set(stages._local_imports(path, root)) == wanted, path


@pytest.mark.parametrize(
    "text",
    [
        "import one\n",
        "def late():\n    from one import (\n        a,\n        b,\n    )\n",
        "if True:\n\tfrom one import a  # noqa\n",
        '"""from the start, import nothing"""\nimport other, one as two\n',
        "from one import a, b as c\n",
    ],
)
def test_an_import_is_found_wherever_it_stands(tmp_path, text):
    (tmp_path / "one.py").touch()
    (tmp_path / "entry.py").write_text(text)
    assert stages.program_files(tmp_path / "entry.py") == (tmp_path / "entry.py", tmp_path / "one.py")
