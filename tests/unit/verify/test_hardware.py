# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""Where a model lies and how fast it answers: nvidia-smi is a real program on PATH that says what a test wants."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from loopback import send, serve

from toolkit import footprint
from toolkit.engines import Endpoint, Target, Tools
from toolkit.places import Machine
from toolkit.runners.tools import ollama_prefix
from toolkit.targets import on_gpu
from toolkit.verify import Expectations, Finding, Reply, hardware

MIB = 1 << 20
GPU = Expectations(gpu=True, weights=1000 * MIB, timeout=5)
FAST = [Reply(question="q", text="a", completion_tokens=50, seconds=1.0)]


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """nvidia_smi(processes, used) puts a driver on this machine that tells of processes (pid -> MiB) and of the memory in use."""
    monkeypatch.setattr(footprint, "has_nvidia", lambda: True)

    def install(processes: dict[int, int] | None, used: int) -> None:
        lines = "\\n".join(f"{pid}, {size}" for pid, size in (processes or {}).items())
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncase \"$1\" in *compute-apps*) printf '{lines}\\n';; *) echo {used};; esac\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return install


def nothing(request) -> None:
    send(request, "{}")


def check(url: str, expectations: Expectations, replies: list[Reply] = FAST, engine: str = "vllm") -> Finding:
    return hardware.check(Endpoint(engine, url, "m"), expectations, replies)


def test_weights_on_the_gpu_pass(serve, nvidia_smi):
    nvidia_smi({os.getpid(): 1200}, 1500)
    finding = check(serve(nothing), GPU)
    assert finding.status == "pass" and "its processes hold 1200 MiB" in finding.message


@pytest.mark.parametrize(("held", "words"), [(20, "it answers from the CPU"), (500, "part of it is on the CPU")])
def test_weights_that_are_not_there_are_found(serve, nvidia_smi, held, words):
    nvidia_smi({os.getpid(): held, 1: 4000}, 9000)
    finding = check(serve(nothing), GPU)
    assert finding.status == "fail" and words in finding.message and "verify.gpu: false" in finding.remedy


def test_where_the_driver_sees_no_processes_the_growth_counts(serve, nvidia_smi):
    nvidia_smi({}, 1700)
    url = serve(nothing)
    assert check(url, replace(GPU, gpu_before=600 * MIB)).status == "pass"
    finding = check(url, replace(GPU, gpu_before=1650 * MIB))
    assert finding.status == "fail" and "since its start there are 50 MiB" in finding.message
    nvidia_smi({4999999: 1200}, 1700)  # a process id of another name space
    assert check(url, replace(GPU, gpu_before=600 * MIB)).status == "pass"


def test_a_gpu_that_is_asked_for_and_cannot_be_seen_is_no_pass(serve, nvidia_smi):
    nvidia_smi({}, 1700)
    finding = check(serve(nothing), replace(GPU, tokens_per_second_at_least=1.0))
    assert (finding.status, finding.required) == ("skip", True)


def test_a_machine_without_a_driver_is_the_cpu(serve, monkeypatch):
    monkeypatch.setattr(footprint, "has_nvidia", lambda: False)
    finding = check(serve(nothing), GPU)
    assert finding.status == "fail" and "it answers from the CPU" in finding.message


def test_ollamas_own_word_is_believed(serve):
    def loaded(size: int):
        models = {"models": [{"name": "m:latest", "size": 1000, "size_vram": size, "context_length": 512}]}
        return lambda request: send(request, json.dumps(models if request.path == "/api/ps" else {}))

    assert check(serve(loaded(1000)), GPU, engine="ollama").status == "pass"
    finding = check(serve(loaded(0)), GPU, engine="ollama")
    assert finding.status == "fail" and "ollama says that 0% of the model is on the GPU" in finding.message


@pytest.mark.parametrize(("gpu", "words"), [(False, "the CPU is meant"), (None, "not known whether a GPU is meant")])
def test_without_a_gpu_it_is_skipped_with_the_reason(serve, gpu, words):
    finding = check(serve(nothing), Expectations(gpu=gpu))
    assert (finding.status, finding.required) == ("skip", False) and words in finding.message


def test_the_speed_has_a_floor_of_its_own(serve):
    url, cpu = serve(nothing), Expectations(gpu=False, tokens_per_second_at_least=40)
    assert check(url, cpu).status == "pass"
    finding = check(url, replace(cpu, tokens_per_second_at_least=60))
    assert finding.status == "fail" and "50.0 tokens/s, at least 60 wanted" in finding.message and finding.remedy
    assert check(url, cpu, [Reply(question="q", error="hangs")]).status == "skip"


class Elsewhere:
    """A container, as far as its tools tell."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools


@pytest.mark.parametrize(("engine", "local"), [("llamacpp", False), ("vllm", True), ("transformers", True), ("ollama", True)])
def test_a_gpu_is_meant_where_the_build_can_use_it(tmp_path, engine, local):
    tools = Tools({}, tmp_path, tmp_path, ollama=tmp_path / "ollama", gpu=True)
    assert (on_gpu(engine, Machine(tools)), on_gpu(engine, Elsewhere(tools))) == (local, True)
    without = replace(tools, gpu=False)
    assert not on_gpu(engine, Machine(without)) and not on_gpu(engine, Elsewhere(without))
    assert not on_gpu("ollama", Machine(replace(tools, ollama=ollama_prefix() / "bin" / "ollama")))


def test_weights_are_counted_by_what_is_served(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(bytes(800))
    (tmp_path / "b.gguf").write_bytes(bytes(300))
    target = Target("m", 1024, 1, "qwq", "bf16", tmp_path)
    assert hardware.weights(target) == 800 and hardware.weights(replace(target, variant="bnb-nf4")) == 200
    assert hardware.weights(replace(target, gguf=Path(tmp_path / "b.gguf"))) == 300
    expected = hardware.on_hardware(Expectations(), target, gpu=False)
    assert (expected.gpu, expected.weights, expected.gpu_before) == (False, 800, None)
    assert hardware.on_hardware(Expectations(gpu=True), target, gpu=False).gpu is True
