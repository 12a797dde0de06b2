"""A store that looks verified for a recipe: every step sealed with its own recipe and inputs, so that a release can be made of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from finished_store import CHECKPOINT, FILES

from toolkit import runs
from toolkit.artifact import seal
from toolkit.plan import Step
from toolkit.release.document import Commits
from toolkit.stages import MODELFILES, ROOT
from toolkit.store import Store

DEMO = ROOT / "recipes" / "smollm2-demo.yml"
COMMITS = Commits(thinkship="1" * 40, recipe="1" * 40)
TOKENIZER = {"added_tokens": [{"id": 2, "content": "<|im_end|>"}]}
MODEL = {
    **CHECKPOINT,
    "model/tokenizer.json": json.dumps(TOKENIZER),
    "model/generation_config.json": '{"eos_token_id": 2}',
    "model/chat_template.jinja": (MODELFILES / "qwq.chat.jinja").read_text(encoding="utf-8"),
    "probes.jsonl": json.dumps({"question": "2 + 2?", "tokens": ["4"], "logprobs": [-0.1], "base_tokens": ["5"]}) + "\n",
}
ROWS = "".join(json.dumps({"question": f"{n} + 1?", "expected": str(n + 1), "completion": "R</think>4"}) + "\n" for n in range(60))
HELD: dict[str, dict[str, str]] = {
    **FILES,
    "dataset": {"train.jsonl": "{}\n", "eval.jsonl": ROWS, "stats.json": '{"longest_row": 69}'},
    "merge": MODEL,
    "gguf": {**FILES["gguf"], "gguf.json": '{"types": {}}'},
    "serve": {"endpoint.json": "{}", "findings.json": "[]", "answers.jsonl": ""},
}


def verify(recipe: Path, root: Path, verdict: str = "pass", leave: tuple[str, ...] = ()) -> Path:
    """Make and seal every step of a recipe but those to be left; return the store."""
    store = Store(root)
    for step in runs.steps(recipe):
        if step.name not in leave:
            seal_step(store, step, files_of(step, verdict))
    return root


def files_of(step: Step, verdict: str) -> dict[str, str]:
    """Return what a step's directory holds, by path."""
    if step.stage.name != "verify":
        return HELD[step.stage.name]
    checks = [{"name": name, "status": status} for name, status in (("think", "pass"), ("stop", verdict), ("gain", "skip"))]
    engines = {"ollama": {"version": "0.33.0"}, "llamacpp": {"version": ""}}
    return {"report.json": json.dumps({"verdict": verdict, "checks": checks, "engines": engines})}


def seal_step(store: Store, step: Step, files: dict[str, str]) -> None:
    """Write a step's files and seal them, as the pipeline does."""
    directory = store.directory(step)
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")
    facts = {"step": step.name, "stage": step.stage.name, "id": step.id, "inputs": dict(step.inputs), "recipe": dict(step.recipe), "programs": ""}
    where = {"runner": "docker", "image": "thinkship/train:1@sha256:2"} if step.stage.environment else {"runner": "docker"}
    seal(directory, **facts, **where, thinkship="0", seconds=0)


def recipe_with(engines: str, folder: Path) -> Path:
    """Copy the demo's recipe with other engines, and its data, into a folder."""
    (folder / "data").mkdir(parents=True)
    for path in (ROOT / "recipes" / "data").glob("*.jsonl"):
        shutil.copy(path, folder / "data")
    text = DEMO.read_text(encoding="utf-8")
    assert "engines: [llamacpp]" in text
    (folder / DEMO.name).write_text(text.replace("engines: [llamacpp]", f"engines: [{engines}]"), encoding="utf-8")
    return folder / DEMO.name
