"""The stages that run in the host process, because they need no heavy library: modelfile, serve and verify."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolkit import benchmarks, console, render, report
from toolkit.assessment import Verify
from toolkit.pipeline import Task
from toolkit.places import Place
from toolkit.runners.tools import ollama_version
from toolkit.serving import serving
from toolkit.targets import on_gpu, target
from toolkit.verify import identity
from toolkit.verify.hardware import on_hardware
from toolkit.verify.judge import Observation, judge
from toolkit.verify.observe import expectations_of, observe

PlaceOf = Callable[[str, Path], Place]
"""From an engine's name and a scratch folder to where its server runs."""
HostStage = Callable[[Mapping[str, Any], Task, PlaceOf], None]


def modelfile(recipe: Mapping[str, Any], task: Task, place: PlaceOf) -> None:
    """Render the Modelfile of one GGUF, and of an adapter beside it: parameters from checkpoint and recipe, the context from the dataset."""
    wanted, generation = recipe["modelfile"], _json(task.inputs["model"] / "model" / "generation_config.json")
    longest = _json(task.inputs["dataset"] / "stats.json")["longest_row"]
    gguf = task.inputs["gguf"] / f"model-{wanted['gguf']}.gguf"
    values = render.ModelfileValues(
        gguf=f"../{gguf.parent.name}/{gguf.name}",
        family=recipe["family"],
        generation=generation,
        parameters=wanted["parameters"],
        num_ctx=render.context_size(longest, wanted["answer_tokens"]),
        system=wanted["system"],
        license=wanted["license"],
        adapter=f"../{task.inputs['lora'].name}/adapter.gguf" if "lora" in task.inputs else "",
        requires=ollama_version(),
    )
    (task.output / "Modelfile").write_text(render.render_modelfile(values), encoding="utf-8")


def serve(recipe: Mapping[str, Any], task: Task, place: PlaceOf) -> None:
    """Start one engine for real, hold it against every contract while it lives, and leave what was seen."""
    served = target(recipe, task.inputs)
    where = place(recipe["engine"], task.scratch)
    wanted = expectations_of(dict(recipe), task.inputs["dataset"], task.inputs["model"] / "model")  # the merged model's word, whatever is served
    beside = {name: identity.read(task.inputs[f"reference-{name}"]) for name in recipe.get("adapters", ())}
    expected = replace(on_hardware(wanted, served, on_gpu(recipe["engine"], where)), adapters=beside)
    with console.bar() as bar:
        bar.report(0, len(expected.questions), f"starting {recipe['engine']}")
        with serving(recipe["engine"], served, where, task.log) as endpoint:
            # first: data that cannot be had ends the step, and is seldom noticed late
            found = [] if recipe["base"] else benchmarks.ask_all(endpoint, recipe, task)
            observe(endpoint, expected, task.output, lambda done, total, unit: bar.report(done, total, unit))
    benchmarks.add(found, task.output / "findings.json")
    seen = _json(task.output / "endpoint.json")
    right = f", {seen['right']} right" if seen["right"] is not None else ""
    console.note(f"{seen['asked']} questions: {seen['thinking']} thought before they answered{right}")


def verify(recipe: Mapping[str, Any], task: Task, place: PlaceOf) -> None:
    """Join what every endpoint showed into the verdict."""
    observations = [Observation.read(path) for name, path in task.inputs.items() if name.startswith("serve-")]
    facts = {"dataset": _json(task.inputs["dataset"] / "stats.json")}
    if "gguf" in task.inputs:
        facts["gguf"] = _json(task.inputs["gguf"] / "gguf.json")
    if "train" in task.inputs:
        facts["adapter"] = _json(task.inputs["train"] / "train.json")["trained_elsewhere"]
    if beside := {name: path for name, path in task.inputs.items() if name.startswith("adapter-")}:
        told = {name.removeprefix("adapter-"): _json(path / "train.json")["trained_elsewhere"] for name, path in beside.items()}
        facts["adapters"] = told
    if stored := [_json(path / "compress.json") for name, path in task.inputs.items() if name.startswith("compress-")]:
        facts["compress"] = stored[0] | {"types": {kind: seen for found in stored for kind, seen in found["types"].items()}}
    verdict = judge(recipe["name"], Verify.model_validate(recipe["verify"]), observations, facts, recipe["description"])
    verdict.write(task.output / "report.json")
    report.Files(html=task.output / "report.html", junit=task.output / "report.xml").write(_json(task.output / "report.json"))


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


HOST_STAGES: dict[str, HostStage] = {"modelfile": modelfile, "serve": serve, "verify": verify}
