"""The command line as a person meets it: words on the terminal and exit codes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time

import pytest
from conftest import DEMO
from terminal import thinkship

from toolkit.stages import ROOT


def test_a_valid_recipe():
    done = thinkship("validate", DEMO)
    assert (done.returncode, done.stdout) == (0, f"{DEMO}: a valid recipe for smollm2-demo\n")


def test_a_faulty_recipe_is_two_lines_and_code_3(tmp_path, demo_text):
    (tmp_path / "x.yml").write_text(demo_text.replace("steps: 48", "step: 80"), encoding="utf-8")
    done = thinkship("validate", tmp_path / "x.yml")
    assert done.returncode == 3 and done.stdout == ""
    assert "train/steps: is required" in done.stderr and "train/step: unknown key; did you mean steps?" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("fix: ") and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("validate", "nowhere.yml"), "there is no such recipe"),
        (("serv",), "No such command 'serv'"),
        (("serve", DEMO, "--engine", "lama"), "is not one of"),
        (("serve", DEMO, "--engine", "llamacpp", "--variant", "q2"), "does not serve 'q2'"),
        (("verify", DEMO, "--url", "http://127.0.0.1:1/v1"), "a recipe and --url were both given"),
    ],
)
def test_a_wrong_command_is_code_2(arguments, words):
    done = thinkship(*arguments)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def test_the_plan_can_be_read_by_a_program():
    steps = json.loads(thinkship("plan", DEMO, "--json").stdout)
    assert [step["step"] for step in steps][:4] == ["base", "dataset", "train", "merge"] and len(steps[0]["id"]) == 64


def test_a_dry_run_makes_nothing(tmp_path):
    done = thinkship("run", DEMO, "--store", tmp_path / "store", "--dry-run")
    assert done.returncode == 0 and "serve-llamacpp-q8_0" in done.stdout and not (tmp_path / "store").exists()


def test_a_taken_port_is_named_before_anything_is_made(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = thinkship("serve", DEMO, "--engine", "llamacpp", "--port", taken.getsockname()[1], "--store", tmp_path / "store")
    assert done.returncode == 4 and "cannot be used" in done.stderr and "--port" in done.stderr and not (tmp_path / "store").exists()


def test_health_without_a_server_says_how_to_start_one(tmp_path):
    done = thinkship("health", "--store", tmp_path)
    assert done.returncode == 4 and "make serve-llamacpp" in done.stderr


def test_stop_without_a_server_is_no_error(tmp_path):
    done = thinkship("stop", "--store", tmp_path)
    assert done.returncode == 0 and "no server" in done.stdout


def test_doctor_names_what_it_looked_at():
    findings = {finding["check"] for finding in json.loads(thinkship("doctor", DEMO, "--json").stdout)}
    assert {"machine", "memory", "disk", "gpu", "ollama", "port 8080", "environment train", "openmp", "docker"} <= findings


@pytest.mark.parametrize(
    ("engine", "content", "words"),
    [("ollama", "f00d", "cannot ask for an API key"), ("llamacpp", "", "does not hold one key"), ("vllm", None, "cannot be read")],
)
def test_a_key_that_would_protect_nothing_is_refused(tmp_path, engine, content, words):
    if content is not None:
        (tmp_path / "key").write_text(content)
    done = thinkship("serve", DEMO, "--engine", engine, "--api-key-file", tmp_path / "key", "--store", tmp_path / "store")
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("words", [("sbom", "verify"), ("push", "127.0.0.1:9", "verify", "--sign", "cosign.key")])
def test_a_missing_tool_of_the_supply_chain_is_named_with_its_remedy(tmp_path, monkeypatch, words):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = thinkship("images", *words)
    assert done.returncode == 4 and "syft is not on PATH" in done.stderr and "go install" in done.stderr, done.stderr


def test_help_is_there_at_once():
    took = []
    for _ in range(3):
        began = time.monotonic()
        done = subprocess.run((sys.executable, "-m", "toolkit.cli", "--help"), cwd=ROOT, capture_output=True, text=True)
        assert "Usage" in done.stdout
        took.append(time.monotonic() - began)
    assert min(took) < 1.0  # a guard against heavy imports; the figure itself is measured in benchmarks/
