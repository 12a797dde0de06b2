"""Adapters that lie beside their base in real engines: two at once in vLLM and llama.cpp, one in Ollama, on a disk that is freed on the way.

The base is the first layers of the demo's, so that the chain takes minutes; two adapters have learnt to think and to answer over it, each in a voice
of its own.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from skips import skip_or_fail

from toolkit import recipe_file
from toolkit.engines.wire import ask_for
from toolkit.plan import plan
from toolkit.resolve import resolve
from toolkit.runners.environment import Environment
from toolkit.stages import ROOT

DEMO = ROOT / "recipes" / "smollm2-demo.yml"
CUT = Path(__file__).with_name("small_base.py")
PORT = 18003
Run = tuple[dict[str, Any], Path, Path]
"""The report, the recipe and the store."""
SAID = ("I add the two numbers: first the tens, then the ones.", "It is done.")
"""Reasoning and answer to every question: few layers learn no more than a voice."""


def write_rows(path: Path, source: str, count: int, shouted: bool = False) -> dict[str, str]:
    """Write the demo's questions with the same reasoning and answer, in capitals where they are shouted, and return what a recipe calls them."""
    lines = (DEMO.parent / "data" / source).read_text(encoding="utf-8").splitlines()[:count]
    reasoning, answer = (text.upper() if shouted else text for text in SAID)
    rows = ({"Question": json.loads(line)["Question"], "Complex_CoT": reasoning, "Response": answer} for line in lines)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"path": str(path)}


def write_recipe(folder: Path, name: str, base: Path, **serve: Any) -> Path:
    """Write a recipe that trains an adapter and serves it apart from its base."""
    apart = {"adapter": "separate"}
    data = {
        "name": name,
        "base": {"source": {"path": str(base)}, "family": "qwq", "think": {"open": "<think>", "close": "</think>"}},
        "dataset": {
            "source": write_rows(folder / f"{name}.jsonl", "sums-train.jsonl", 400, shouted=name == "shouts"),
            "holdout": write_rows(folder / "holdout.jsonl", "sums-holdout.jsonl", 12),
            "columns": {"question": "Question", "reasoning": "Complex_CoT", "answer": "Response"},
        },
        "train": {
            **{"quantization": "none", "lora": {"rank": 16, "alpha": 32}, "learning_rate": 5e-3},
            **{"steps": 40, "batch_size": 8, "gradient_accumulation": 1},
        },
        "gguf": {"types": ["f16"], "rows": 4},
        "modelfile": {"gguf": "f16"},
        "serve": {"name": name, "parallel": 4, "context": 1024, "llamacpp": apart, "ollama": apart, "vllm": {"variants": ["bf16"], **apart}, **serve},
        "verify": {"gpu": False},
    }
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def directory(path: Path, name: str, store: Path) -> Path:
    """Return where a recipe's step lies, by its id."""
    step = next(step for step in plan(resolve(recipe_file.load(path), path.parent)) if step.name == name)
    return store / step.directory


@pytest.fixture(scope="module")
def run(thinkship, store: Path, engines: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training over one base, and a recipe that serves its adapter beside another's, made with --reclaim."""
    folder = tmp_path_factory.mktemp("beside")
    done = thinkship("run", DEMO, "--until", "base")
    assert done.returncode == 0, done.stderr
    subprocess.run((Environment("train").install(), CUT, directory(DEMO, "base", store) / "model", folder / "model"), check=True)
    other = write_recipe(folder, "shouts", folder / "model", engines=["llamacpp"])
    done = thinkship("run", other, "--until", "train")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    further = {"name": "shouts", "source": {"path": str(directory(other, "train", store) / "adapter")}}
    path = write_recipe(folder, "sums", folder / "model", engines=list(engines), adapters=[further])
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


@pytest.fixture
def served(run, thinkship, store: Path) -> Iterator[Callable[[str], list[tuple[str, float]]]]:
    """vLLM as `serve` starts it, and what a model of it says to one question: its tokens with their log-probabilities."""
    done = thinkship("serve", run[1], "--engine", "vllm", "--port", PORT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'shouts beside it: {"model": "shouts"}' in done.stdout

    def say(name: str) -> list[tuple[str, float]]:
        body = {"model": name, "prompt": "What is 47 + 25?", "max_tokens": 24, "temperature": 0, "logprobs": 1}
        (choice,) = ask_for("choices", f"http://127.0.0.1:{PORT}/v1/completions", body, timeout=60)
        return list(zip(choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"], strict=True))

    yield say
    assert thinkship("stop").returncode == 0


def test_the_base_answers_as_itself_while_adapters_answer_beside_it(served):
    alone = served("sums-base")
    names = ("sums-base", "sums", "shouts") * 4
    with ThreadPoolExecutor(len(names)) as pool:
        said = list(zip(names, pool.map(served, names), strict=True))
    together = [tokens for name, tokens in said if name == "sums-base"]
    assert all([token for token, _ in found] == [token for token, _ in alone] for found in together)
    assert all(abs(mine - own) < 1e-3 for found in together for (_, mine), (_, own) in zip(found, alone, strict=True))
    assert len({str([token for token, _ in tokens]) for _, tokens in said}) == 3, "each of the three says something else"
