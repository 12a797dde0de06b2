from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from observations import observation
from worlds import wanted

from toolkit.assessment import Task, Verify
from toolkit.deployment import gate
from toolkit.deployment.gate import Gate, pass_through, require_files
from toolkit.engines import Endpoint
from toolkit.errors import BrokenError, NotReadyError
from toolkit.verify import Expectations


@pytest.fixture
def store(verified: Path, tmp_path: Path) -> Path:
    """A copy of the verified store, to be spoilt."""
    shutil.copytree(verified, tmp_path / "store")
    return tmp_path / "store"


def test_a_candidate_is_held_against_what_its_serve_step_was(released, verified):
    found = gate.gate(released, released.engine(None), verified)
    expected = found.expected
    assert len(expected.questions) == 50 and expected.questions[3].expected == "4" and expected.variant == "q8_0"
    assert (expected.think_at_least, expected.context, expected.sampling["top_k"], expected.parallel) == (1.0, 1024, 20, 8)
    assert expected.template and expected.ends and expected.ends.ids == (2,) and [probe.question for probe in expected.probes] == ["2 + 2?"]
    assert found.verify.task and found.verify.task.at_least == 0.9 and found.facts == {"gguf": {"types": {}}}


def test_what_is_seen_on_the_machine_alone_and_what_takes_hours_is_not_asked_of_a_candidate(released, verified):
    found = gate.gate(released, released.engine(None), verified)
    assert found.expected.gpu is None and found.expected.soak is None and found.verify.benchmarks == ()


@pytest.mark.parametrize("pattern", ["serve-llamacpp-q8_0-????????????", "dataset-*", "merge-*", "gguf-????????????"])
def test_a_store_that_lacks_a_directory_is_said_with_what_is_missing(released, store, pattern):
    (directory,) = store.glob(pattern)
    shutil.rmtree(directory)
    with pytest.raises(NotReadyError, match=f"lacks {directory.name}") as error:
        gate.gate(released, released.engine(None), store)
    assert "rsync" in error.value.remedy


def test_held_out_rows_that_were_touched_prove_nothing(released, store):
    (rows,) = store.glob("dataset-*/eval.jsonl")
    rows.write_text(rows.read_text().replace('"4"', '"5"'))
    with pytest.raises(BrokenError, match=r"eval\.jsonl: its content was changed"):
        gate.gate(released, released.engine(None), store)


def test_the_files_that_are_served_are_those_that_were_released(released, store):
    one = released.engine(None)
    require_files(one, store)
    (gguf,) = store.glob("gguf-????????????/model-q8_0.gguf")
    record = json.loads((gguf.parent / "record.json").read_text())
    gguf.write_text("9 bits")
    with pytest.raises(BrokenError, match=r"model-q8_0\.gguf: its content was changed"):
        require_files(one, store)
    for file in record["files"]:
        if file["path"] == gguf.name:
            file["sha256"] = hashlib.sha256(b"9 bits").hexdigest()
    (gguf.parent / "record.json").write_text(json.dumps(record))
    with pytest.raises(BrokenError, match="is not the file that was released"):
        require_files(one, store)
    shutil.rmtree(gguf.parent)
    with pytest.raises(NotReadyError, match="lacks gguf-"):
        require_files(one, store)


HELD = Gate("demo", Expectations(), Verify(task=Task(at_least=0.9)), {})
ENDPOINT = Endpoint("llamacpp", "http://127.0.0.1:9/v1", "demo")


@pytest.mark.parametrize(("without", "passes"), [("", True), ("identity", False)])
def test_a_candidate_passes_by_its_verdict_and_leaves_its_report(released, tmp_path, monkeypatch, without, passes):
    seen = observation("llamacpp", "q8_0", without=without)
    monkeypatch.setattr(gate, "examine", lambda *_: (list(seen.replies), seen.findings))
    monkeypatch.setattr(gate, "summary", lambda *_: seen.endpoint)
    if passes:
        pass_through(ENDPOINT, HELD, wanted(released), tmp_path, lambda *_: None)
    else:
        with pytest.raises(BrokenError, match="did not pass: identity") as error:
            pass_through(ENDPOINT, HELD, wanted(released), tmp_path, lambda *_: None)
        assert f"report-{released.short}.json" in error.value.remedy
    report = json.loads((tmp_path / f"report-{released.short}.json").read_text())
    assert (report["verdict"] == "pass") is passes and (tmp_path / f"report-{released.short}.html").is_file()
    assert released.short in report["description"]
