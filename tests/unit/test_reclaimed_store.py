# ruff: noqa: F401, F811 - pytest finds the imported fixtures by their names
"""Whoever meets a store of which files were freed: servers, exports, reports, the command line, and the disk that is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import DEMO
from finished_store import finish
from test_reclaim import MODEL, Maker, frugal, no_contract, planned, store

from toolkit import pipeline, recipe_file, reclaim, runs, service
from toolkit.artifact import read_record
from toolkit.errors import NotReadyError
from toolkit.export.served import Wish, served
from toolkit.fit import review, storage
from toolkit.report import document
from toolkit.stages import ROOT
from toolkit.store import Store

pytestmark = pytest.mark.loopback


@pytest.fixture
def lacking(tmp_path: Path) -> Path:
    """A finished store of the demo whose merged weights were freed."""
    root = finish(DEMO, tmp_path / "store")
    (directory,) = root.glob("merge-*")
    made = read_record(directory)
    assert made
    reclaim.free(directory, made, [MODEL])
    return root


def refused(caught: Any) -> None:
    assert caught.value.exit_code == 4 and "was reclaimed: model/model.safetensors (0.0 MB)" in caught.value.message
    assert "rm -r " in caught.value.remedy and "thinkship run" in caught.value.remedy


def test_whoever_would_serve_a_reclaimed_directory_says_so(lacking, monkeypatch):
    monkeypatch.setattr(runs, "runner", lambda *_: None)
    monkeypatch.setattr(service, "_check_fit", lambda *_: None)
    how = {"variant": None, "runner": "local"}
    with pytest.raises(NotReadyError) as caught:
        service.serve(DEMO, "vllm", lacking, port=None, api_key_file=None, **how)
    refused(caught)
    with pytest.raises(NotReadyError) as caught:
        service.bake(DEMO, "vllm", store=lacking, **how)
    refused(caught)
    with pytest.raises(NotReadyError) as caught, service.served(DEMO, "vllm", lacking, **how):
        raise AssertionError("nothing is served")
    refused(caught)


def test_an_export_of_what_is_gone_is_refused_and_of_the_rest_it_is_not(lacking):
    with pytest.raises(NotReadyError) as caught:
        served(DEMO, Wish("vllm"), lacking)
    refused(caught)
    assert served(DEMO, Wish("llamacpp"), lacking).files
    assert served(DEMO, Wish("vllm", adapter=True), lacking).files, "base and adapter were never freed"


def test_the_remedy_works(lacking, demo):
    (directory,) = lacking.glob("merge-*")
    shutil.rmtree(directory)
    _, needed = service.steps(DEMO, "vllm", None)
    maker = Maker()
    pipeline.run(needed, Store(lacking), maker)
    assert maker.ran == ["merge"]


def test_a_report_is_read_whatever_was_reclaimed(store, demo):
    steps = planned(demo, "llamacpp")
    frugal(store, steps)
    assert document.find(store.root).parent.name.startswith("verify-")


RECIPES = ROOT / "recipes"


@pytest.mark.parametrize(
    ("engines", "gone"),
    [(("llamacpp",), {"merged model"}), (("llamacpp", "vllm"), set()), (("ollama",), {"merged model", "gguf bf16", "gguf q8_0"})],
)
def test_the_disk_that_is_asked_for_is_the_smaller_peak(engines, gone, tmp_path):
    recipe = recipe_file.load(RECIPES / "qwq-32b-medical-full.yml")
    case = review.case_of(recipe, RECIPES, "H100", engines)
    assert case
    terms = {term.name: term.bytes for term in storage.disk(case.base, recipe, engines)}
    assert {name for name in terms if storage._freed(name, recipe, engines)} == gone
    most, whole = storage.peak(case.base, recipe, engines), sum(terms.values())
    late = sum(size for name, size in terms.items() if name.endswith("of the base") or name == "Ollama's copy")
    assert most == max(whole - late, whole - sum(terms[name] for name in gone))
    assert (most < whole) == bool(gone), "where the merged model is served, nothing is saved"
    plain, frugal = (review.disk(case, tmp_path, reclaim).message for reclaim in (False, True))
    assert f"{whole / 1e9:.1f} GB" in plain and f"{most / 1e9:.1f} GB" in frugal and "freed on the way" in frugal


def test_the_command_frees_by_the_whole_recipe_wherever_it_ends(tmp_path, monkeypatch, capsys):
    maker = Maker()
    monkeypatch.setattr(runs, "runner", lambda *_: maker)
    monkeypatch.setattr(runs, "require", lambda *_: None)
    runs.start(DEMO, ("llamacpp",), "merge", tmp_path, runs.How(reclaim=True))
    assert maker.ran[-1] == "merge" and "reclaimed" not in capsys.readouterr().out, "its files are still to be converted"
    runs.start(DEMO, ("llamacpp",), "gguf", tmp_path, runs.How(reclaim=True))
    assert "reclaimed 0.0 MB of merge" in capsys.readouterr().out and not list(tmp_path.glob("merge-*/model/*.safetensors"))
    runs.start(DEMO, ("llamacpp",), None, tmp_path, runs.How(dry=True, reclaim=True))
    assert "reclaimed" in capsys.readouterr().out and maker.ran[-1] == "gguf-base", "a dry run makes nothing"
    before = len(maker.ran)
    runs.start(DEMO, ("vllm",), "serve", tmp_path, runs.How())
    assert maker.ran[before:] == ["merge", "serve-vllm-bnb-nf4", "serve-vllm-bf16", "serve-vllm-bf16-base"]
