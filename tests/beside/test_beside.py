"""Adapters that lie beside their base in real engines: two at once in vLLM and llama.cpp, one in Ollama, on a disk that is freed on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import speaking_base
import yaml
from skips import skip_or_fail

from toolkit import recipe_file
from toolkit.plan import plan
from toolkit.resolve import resolve
from toolkit.stages import ROOT

RECIPE = ROOT / "recipes" / "smollm2-demo.yml"
Run = tuple[dict[str, Any], Path, Path]
"""The report, the recipe and the store."""


def recipe(folder: Path, name: str, base: Path, **changes: Any) -> Path:
    """Write the demo's recipe over another base, with other sections."""
    data: dict[str, Any] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    data |= {"name": name}
    data["base"] |= {"source": {"path": str(base)}, "think": {"open": "<think>", "close": "</think>"}}
    for part in ("source", "holdout"):
        data["dataset"][part]["path"] = str(RECIPE.parent / data["dataset"][part]["path"])
    data["gguf"] = {"types": ["f16"], "max_kl": {}, "min_top1": {}, "max_perplexity_growth": {}, "rows": 4}
    data["modelfile"]["gguf"] = "f16"
    data["verify"] |= {"think_at_least": 0.9, "identity": {}}
    data["verify"]["task"] |= {"questions": 20, "base_questions": 8, "at_least": 0.5, "base_at_most": 0.5}
    for section, values in changes.items():
        data[section] = {**data.get(section, {}), **values}
    if "adapter" in changes:
        del data["train"]
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def directory(path: Path, name: str, store: Path) -> Path:
    """Return where a recipe's step lies, by its id."""
    step = next(step for step in plan(resolve(recipe_file.load(path), path.parent)) if step.name == name)
    return store / step.directory


def shouted(folder: Path) -> Path:
    """Write the demo's rows with their reasoning in capitals: who learns from them is told by his first word."""
    lines = (RECIPE.parent / "data" / "sums-train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    path = folder / "shouted.jsonl"
    path.write_text("".join(json.dumps({**row, "Complex_CoT": row["Complex_CoT"].upper()}) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(thinkship, store: Path, engines: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two trainings over one base, and a recipe that serves their adapters beside it, made with --reclaim."""
    folder = tmp_path_factory.mktemp("beside")
    done = thinkship("run", RECIPE, "--until", "base")
    assert done.returncode == 0, done.stderr
    base = speaking_base.make(directory(RECIPE, "base", store) / "model", folder / "model")
    trained = {}
    for name, changes in {"sums": {}, "shouts": {"dataset": {"source": {"path": str(shouted(folder))}}}}.items():
        whole = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["dataset"]
        whole["holdout"]["path"] = str(RECIPE.parent / whole["holdout"]["path"])
        wanted = recipe(folder, name, base, **{section: {**whole, **values} for section, values in changes.items()})
        done = thinkship("run", wanted, "--until", "train")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        trained[name] = directory(wanted, "train", store) / "adapter"
    apart = {"adapter": "separate"}
    placed = {"llamacpp": apart, "ollama": apart, "vllm": {"variants": ["bf16"], **apart}, "parallel": 4, "context": 1024}
    placed |= {"name": "sums", "engines": list(engines)}
    placed |= {"adapters": [{"name": "shouts", "source": {"path": str(trained["shouts"])}}]}
    path = recipe(folder, "beside", base, adapter={"source": {"path": str(trained["sums"])}}, serve=placed)
    done = thinkship("run", path, "--reclaim")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-4000:]
    report = json.loads((directory(path, "verify", store) / "report.json").read_text(encoding="utf-8"))
    return report, path, store


def check(report: dict[str, Any], name: str, engine: str, variant: str) -> dict[str, Any]:
    (found,) = (one for one in report["checks"] if (one["name"], one["engine"], one["variant"]) == (name, engine, variant))
    return found


@pytest.mark.parametrize(("engine", "variant"), [("llamacpp", "f16-adapter"), ("vllm", "bf16-adapter")])
def test_each_of_two_adapters_answers_as_itself_in_turn_and_at_once(run, engine, variant):
    found = check(run[0], "adapters", engine, variant)
    assert found["status"] == "pass" and "alike" not in found["message"], found
    assert set(found["evidence"]["adapters"]) == {f"{name} {when}" for name in ("sums", "shouts") for when in ("in turn", "at once")}


@pytest.mark.parametrize(("engine", "variant"), [("llamacpp", "f16-adapter"), ("vllm", "bf16-adapter"), ("ollama", "f16-adapter")])
def test_the_recipes_own_adapter_is_served_like_the_merged_model(run, engines, engine, variant):
    if engine not in engines:
        skip_or_fail(f"{engine} cannot be had on this machine")
    assert run[0]["verdict"] == "pass" and check(run[0], "identity", engine, variant)["status"] == "pass"
    if engine == "ollama":
        text = (directory(run[1], "modelfile-adapter", run[2]) / "Modelfile").read_text(encoding="utf-8")
        assert "\nADAPTER ../lora-" in text


def test_what_nobody_is_served_was_freed_and_the_same_command_makes_nothing(run, thinkship):
    _, path, store = run
    assert not list(directory(path, "merge", store).glob("model/*.safetensors")) and not list(directory(path, "gguf", store).glob("*.gguf"))
    assert list(directory(path, "gguf-base", store).glob("model-f16.gguf")), "it is what the adapters lie beside"
    again = thinkship("run", path, "--reclaim")
    states = {line.split()[0] for line in again.stdout.splitlines() if line.startswith(("  skip  ", " freed  ", "   run  "))}
    assert again.returncode == 0 and states == {"skip", "freed"}, again.stdout[-3000:]
    shown = thinkship("plan", path).stdout
    assert "reclaimed" in shown and "to do" not in shown
