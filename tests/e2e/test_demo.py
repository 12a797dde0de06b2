"""The main job, as a user sees it: one command, real engines, a verdict, and nothing to do the second time."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from conftest import RECIPE, flags
from skips import skip_or_fail

from toolkit.stages import ROOT


def named(done):
    """Return the page that a run has named: a kept store may hold verdicts of other runs."""
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("report: "))
    return Path(line.removeprefix("report: "))


def read(page):
    return json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def page(demo):
    return named(demo)


@pytest.fixture(scope="session")
def report(page):
    return read(page)


def observed(report, engine):
    return [seen for seen in report["observed"]["endpoints"] if seen["engine"] == engine]


def test_the_verdict_is_pass_and_no_check_was_skipped_in_silence(report):
    assert report["verdict"] == "pass"
    assert [check for check in report["checks"] if check["status"] == "fail"] == []
    assert all(check["message"] for check in report["checks"] if check["status"] == "skip")


@pytest.mark.parametrize(("engine", "variants"), [("llamacpp", {"f16", "q8_0", "q4_k_m"}), ("ollama", {"q8_0"})])
def test_each_engine_serves_the_tuned_model_well_and_the_base_badly(report, engines, engine, variants):
    if engine not in engines:
        skip_or_fail(f"{engine} cannot be had on this machine")
    assert_better(report, engine, variants)


def assert_better(report, engine, variants):
    tuned = [seen for seen in observed(report, engine) if not seen["base"]]
    base = [seen for seen in observed(report, engine) if seen["base"]]
    assert {seen["variant"] for seen in tuned} == variants and len(base) == 1
    for seen in tuned:
        assert seen["right"] / seen["marked"] >= 0.9 and seen["thinking"] == seen["asked"] == 50, seen
    assert base[0]["right"] / base[0]["marked"] <= 0.2 and base[0]["thinking"] == 0 and base[0]["asked"] == 20


@pytest.mark.long
def test_vllm_joins_the_verdict_in_4_bits_and_in_16(demo, thinkship, store, engines):
    found = read(named(thinkship("run", RECIPE, "--store", store, *flags(engines))))
    assert found["verdict"] == "pass" and {check["status"] for check in found["checks"]} == {"pass", "skip"}
    assert_better(found, "vllm", {"bnb-nf4", "bf16"})
    assert len(found["observed"]["agreement"]) >= 10


def test_the_answers_were_compared_across_engines(report):
    pairs = report["observed"]["agreement"]
    assert len(pairs) >= 6 and all(pair["questions"] == 50 and pair["different"] == pair["different_answers"] / 50 for pair in pairs)


def test_a_second_run_does_nothing_within_three_seconds(demo, thinkship, store, judged):
    began = time.monotonic()
    again = thinkship("run", RECIPE, "--store", store, *flags(judged))
    assert again.returncode == 0 and time.monotonic() - began < 3
    steps = [line.split()[0] for line in again.stdout.splitlines() if line.strip().startswith(("skip ", "run ", "resume "))]
    assert set(steps) == {"skip"} and len(steps) >= 10


def test_the_second_run_shows_the_same_verdict(demo, thinkship, store, judged, report):
    assert "pass" in thinkship("run", RECIPE, "--store", store, *flags(judged)).stdout


def test_a_touched_file_is_named_and_stops_the_run(demo, thinkship, store, tmp_path):
    copy = tmp_path / "store"
    shutil.copytree(store, copy, ignore=lambda folder, names: [name for name in names if name.startswith(("serve-", "verify-", "gguf"))])
    (weights,) = copy.glob("merge-*/model/model.safetensors")
    with weights.open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"\0\0\0\0")
    touched = thinkship("run", RECIPE, "--store", copy, "--until", "merge")
    assert touched.returncode == 6 and "model/model.safetensors: its content was changed" in touched.stderr and "fix:" in touched.stderr


def test_the_report_opens_without_the_network(page):
    text = page.read_text(encoding="utf-8")
    assert "http://" not in text.replace("http://127.0.0.1", "").replace("http://www.w3.org", "") and "https://" not in text


def test_the_dataset_can_be_looked_at_beside_a_finished_store(demo, thinkship, store, tmp_path):
    done = thinkship("data", "inspect", RECIPE, "--store", store, "--json", "--html", tmp_path / "data.html")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (stats,) = (json.loads(path.read_text(encoding="utf-8")) for path in store.glob("dataset-*/stats.json"))
    assert {name: found["parts"][part]["kept"] for name, part in (("train", "source"), ("eval", "holdout"))} == {
        name: stats[name]["kept"] for name in ("train", "eval")
    }
    assert found["parts"]["source"]["tokens"] == stats["train"]["tokens"]
    assert "Nothing stands out" in (tmp_path / "data.html").read_text(encoding="utf-8")


def test_plan_is_quick(thinkship, store):
    took = []
    for _ in range(3):
        began = time.monotonic()
        assert thinkship("plan", RECIPE, "--store", store).returncode == 0
        took.append(time.monotonic() - began)
    assert min(took) < 2.0  # a guard against a planner that starts to load torch; benchmarks/ holds the measured figure


def test_the_readme_names_only_targets_that_exist():
    targets = {line.partition(":")[0] for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines() if line and not line[0].isspace()}
    words = (ROOT / "README.md").read_text(encoding="utf-8").replace("`", " ").split()
    makes = (place for place, word in enumerate(words[:-1]) if word.lstrip("(") == "make" and words[place - 1] != "data")  # `thinkship data make`
    named = {words[place + 1].rstrip(".,;:)") for place in makes}
    assert "demo" in named and "test" in named
    assert {name for name in named if name.islower() and "=" not in name} <= {word for target in targets for word in target.split()}
