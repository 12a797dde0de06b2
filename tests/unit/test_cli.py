"""The command line as a person meets it: words on the terminal and exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time

import pytest
from conftest import DEMO
from loopback import completion, listening, send
from terminal import thinkship

from toolkit import process
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


def answering(message: dict[str, str | None]) -> contextlib.AbstractContextManager[str]:
    return listening(lambda request: send(request, completion(message) if request.command == "POST" else '{"data": [{"id": "m"}]}'))


THINKS, ANSWERS = {"content": None, "reasoning": "R"}, {"content": "4"}


@pytest.mark.parametrize(("message", "code", "words"), [(THINKS, 0, "m at http"), (ANSWERS, 6, "answers without thinking")])
def test_health_ends_with_the_code_of_what_it_saw(message, code, words):
    with answering(message) as url:
        done = thinkship("health", "--url", url)
        shown = json.loads(thinkship("health", "--url", url, "--json").stdout)
    assert done.returncode == code and words in done.stdout, done.stderr
    assert {"url", "model", "answers", "thinks", "seconds", "message"} <= set(shown) and shown["model"] == "m"


def test_health_speaks_to_nagios(tmp_path):
    with answering(ANSWERS) as url:
        done = thinkship("health", "--url", url, "--nagios")
        assert done.returncode == 2 and done.stdout.startswith("THINKSHIP CRITICAL - m at ") and "|time=" in done.stdout
        assert thinkship("health", "--url", url, "--nagios", "--api-key-file", tmp_path / "none").returncode == 3
    done = thinkship("health", "--store", tmp_path, "--nagios")
    assert (done.returncode, done.stdout) == (3, "THINKSHIP UNKNOWN - no server of this store is running\n")


@pytest.mark.parametrize("command", ["health", "watch"])
def test_an_address_that_cannot_be_asked_is_code_2(command):
    done = thinkship(command, "--url", "http://me:secret@host/v1")
    assert done.returncode == 2 and "must look like" in done.stderr and "secret" not in done.stderr


@pytest.mark.parametrize(("message", "code", "thinks"), [(THINKS, 0, "1.0"), (ANSWERS, 6, "0.0")])
def test_watch_once_prints_the_metrics_alone_and_ends_as_health_does(message, code, thinks):
    with answering(message) as url:
        done = thinkship("watch", "--once", "--url", url, "--model", "m:smile:")
    assert done.returncode == code and done.stdout.startswith("# HELP thinkship_up ")
    assert f'\nthinkship_thinks{{endpoint="{url}",model="m:smile:"}} {thinks}\n' in done.stdout


def test_a_look_at_a_server_imports_nothing_that_takes_longer_than_the_look():
    words = "import sys, toolkit.monitor; print(sorted({'openai', 'docker', 'jinja2'} & set(sys.modules)))"
    done = subprocess.run((sys.executable, "-c", words), cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


@pytest.mark.parametrize(("field", "code"), [("reasoning_content", 0), ("reasoning", 6)])
def test_health_of_our_own_server_takes_its_name_its_key_and_the_field_of_its_engine(tmp_path, field, code):
    def answer(request):
        known = request.headers["Authorization"] == "Bearer f00d" and request.path == "/v1/chat/completions"
        send(request, completion({"content": None, field: "R"}, "length") if known else "{}", 200 if known else 401)

    (tmp_path / "key").write_text("f00d\n")
    (tmp_path / ".servers").mkdir()
    with listening(answer) as url:
        own = {"pid": os.getpid(), "started": process.started(os.getpid()), "api_key_file": str(tmp_path / "key"), "log": "log"}
        (tmp_path / ".servers" / "llamacpp.json").write_text(json.dumps({"engine": "llamacpp", "url": url, "model": "demo", **own}))
        done = thinkship("health", "--store", tmp_path)
    assert done.returncode == code and done.stdout.startswith(f"demo at {url}: "), done.stderr
