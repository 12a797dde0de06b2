"""What is exported, against golden files: ids and tags by content, which every change of a program moves, are written as ID."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from toolkit.cli import cli
from toolkit.errors import InvalidError, ThinkshipError, UsageError
from toolkit.export import served as room
from toolkit.export.kuberay import kwargs
from toolkit.stages import ROOT

RECIPE = ROOT / "recipes" / "smollm2-demo.yml"
GOLDEN = ROOT / "tests" / "golden" / "export"
CASES = {
    "k8s": ("k8s", "--engine", "llamacpp", "--engine", "ollama"),
    "k8s-gpu": ("k8s", "--engine", "vllm", "--gpu", "--model", "s3://models/releases", "--registry", "r.example/team"),
    "k8s-image": ("k8s", "--engine", "llamacpp", "--model", "image", "--secret", ""),
    "kserve": ("kserve", "--gpu", "--secret", "key", "--replicas", "2"),
    "kserve-adapter": ("kserve", "--gpu", "--adapter", "--gpus", "3"),
    "production-stack": ("production-stack", "--gpu", "--secret", "key", "--gpus", "3"),
    "kuberay": ("kuberay", "--gpu"),
    "kuberay-adapter": ("kuberay", "--gpu", "--adapter", "--model", "s3://models"),
    "lws": ("lws", "--gpu", "--nodes", "2", "--gpus", "3", "--secret", "key"),
    "trainer": ("trainer", "--claim", "store"),
}


@pytest.fixture
def export(finished: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "present", tuple)

    def run(kind: str, *words: str) -> str:
        done = CliRunner().invoke(cli, ["export", kind, str(RECIPE), "--store", str(finished), *words], standalone_mode=False)
        if done.exception:
            raise done.exception
        return done.stdout

    return run


@pytest.mark.parametrize("name", CASES)
def test_an_export_is_its_golden_file(export, name):
    text = re.sub(r"(?:(?<=[-:])|(?<=tag: ))[0-9a-f]{12}\b", "ID", export(*CASES[name]))
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("THINKSHIP_WRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "THINKSHIP_WRITE_GOLDEN=1 writes it anew"
    assert all(document for document in yaml.safe_load_all(text))


def test_every_golden_file_has_its_case():
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(CASES)


def test_nothing_runs_as_root_or_writes_where_it_was_not_told(export):
    for name in ("kserve", "lws"):
        for document in yaml.safe_load_all(export(*CASES[name])):
            for pod in _pods(document):
                assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
                assert all(one["securityContext"]["readOnlyRootFilesystem"] for one in pod["containers"])


def _pods(value):
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for inner in value.values():
            yield from _pods(inner)


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (("k8s", "--model", "/srv"), UsageError, "is no place"),
        (("k8s", "--engine", "vllm", "--engine", "ollama", "--variant", "bf16"), UsageError, "--variant is for one engine"),
        (("k8s", "--engine", "vllm", "--engine", "ollama", "--model", "hf://a/b@c"), UsageError, "the model of one engine"),
        (("k8s", "--engine", "vllm", "--variant", "fp8"), UsageError, "does not serve 'fp8'"),
        (("kserve", "--gpu", "--nodes", "2"), UsageError, "several nodes"),
        (("kserve", "--model", "hostpath:///srv"), UsageError, "KServe brings no model"),
        (("production-stack", "--model", "hf://a/b@c"), UsageError, "cannot be mounted"),
        (("production-stack", "--gpu", "--nodes", "2"), UsageError, "by Ray"),
        (("kuberay",), UsageError, "for GPUs"),
        (("kuberay", "--gpu", "--secret", "key"), UsageError, "asks for no API key"),
        (("kuberay", "--gpu", "--adapter"), UsageError, "cloud storage"),
        (("lws", "--gpu"), UsageError, "several nodes"),
        (("lws", "--nodes", "2"), UsageError, "for GPUs"),
        (("lws", "--gpu", "--nodes", "2", "--gpus", "2"), InvalidError, "attention heads"),
        (("trainer", "--nodes", "2"), InvalidError, "cannot be shared among 2 nodes"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(export, words, kind, message):
    with pytest.raises(kind, match=message) as error:
        export(*words)
    assert isinstance(error.value, ThinkshipError) and error.value.remedy


def test_standard_output_is_yaml_alone_and_a_file_is_written_where_it_is_named(export, tmp_path):
    assert yaml.safe_load(export(*CASES["k8s"]))["name"] == "smollm2-demo"
    assert export(*CASES["k8s"], "--output", str(tmp_path / "values.yaml")) == ""
    assert yaml.safe_load((tmp_path / "values.yaml").read_text(encoding="utf-8"))["engines"]["llamacpp"]["args"]
    with pytest.raises(ThinkshipError, match="cannot be written"):
        export(*CASES["k8s"], "--output", str(tmp_path / "no" / "values.yaml"))


def test_flags_become_what_python_takes():
    words = ["--max-model-len", "1024", "--enforce-eager", "--compilation-config", '{"sizes":[1,2]}', "--kv-cache-dtype", "fp8", "--x=0.5"]
    assert kwargs(words) == {"max_model_len": 1024, "enforce_eager": True, "compilation_config": {"sizes": [1, 2]}, "kv_cache_dtype": "fp8", "x": 0.5}
