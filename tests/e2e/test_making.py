"""The tuned model as a teacher and as a partner: real answers become rows that the dataset stage takes, and each engine can be talked to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import RECIPE
from skips import skip_or_fail

from toolkit.stages import ROOT

PORT = 18090
HELD_OUT = (ROOT / "recipes" / "data" / "sums-holdout.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)


@pytest.fixture
def teacher(thinkship, store):
    done = thinkship("serve", RECIPE, "--engine", "llamacpp", "--port", PORT, "--store", store)
    assert done.returncode == 0, done.stdout + done.stderr
    yield f"http://127.0.0.1:{PORT}/v1"
    assert thinkship("stop", "--store", store).returncode == 0


def test_a_real_teachers_answers_are_checked_and_taken_by_the_dataset_stage(teacher, thinkship, store, tmp_path):
    (tmp_path / "questions.jsonl").write_text("".join(HELD_OUT[:20]), encoding="utf-8")
    made = tmp_path / "made.jsonl"
    words = ("data", "make", tmp_path / "questions.jsonl", "--url", teacher, "--output", made, "--check", "numeric", "--temperature", 0)
    done = thinkship(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in made.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 18, done.stdout
    assert all(row["Complex_CoT"].startswith("Tens: ") and row["Model"] == "smollm2-demo" and row["Tokens"] > 10 for row in rows)
    assert "20 answered already" in thinkship(*words).stdout

    (tmp_path / "rest.jsonl").write_text("".join(HELD_OUT[20:]), encoding="utf-8")
    text = (
        RECIPE.read_text(encoding="utf-8")
        .replace("data/sums-train.jsonl", str(made))
        .replace("data/sums-holdout.jsonl", str(tmp_path / "rest.jsonl"))
    )
    recipe = tmp_path / RECIPE.name
    recipe.write_text(text, encoding="utf-8")
    taken = thinkship("run", recipe, "--until", "dataset", "--store", store)
    assert taken.returncode == 0, taken.stdout + taken.stderr
    (step,) = (step for step in json.loads(thinkship("plan", recipe, "--json").stdout) if step["step"] == "dataset")
    stats = json.loads((store / f"dataset-{step['id'][:12]}" / "stats.json").read_text(encoding="utf-8"))
    assert stats["train"]["read"] == stats["train"]["kept"] == len(rows) and stats["train"]["dropped"] == {}


@pytest.mark.parametrize("engine", ["llamacpp", "ollama", "transformers", pytest.param("vllm", marks=pytest.mark.long)])
def test_each_engine_is_started_talked_to_and_ended(engine, engines, thinkship, store):
    if engine not in (*engines, "transformers"):
        skip_or_fail(f"{engine} cannot be had on this machine")
    done = thinkship("chat", RECIPE, "--engine", engine, "--store", store, "--ask", "What is 47 + 25?", "--temperature", 0, "--max-tokens", 200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "72\n" and "Tens: 40 + 20 = 60." in done.stderr
    assert "no server" in thinkship("stop", "--store", store).stdout and not left_over(store)


def left_over(store: Path) -> list[str]:
    """Command lines of processes that serve something of the store."""
    lines = [path.read_bytes().replace(b"\0", b" ").decode(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return [line for line in lines if str(store) in line]
