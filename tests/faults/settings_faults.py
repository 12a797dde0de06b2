"""Faults in how a server is set up rather than in what it serves: its context, sampling, quantisation, hardware and speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from catalogue import Fault, header


@dataclass(frozen=True)
class Setup:
    """A server that is set up otherwise than the recipe says, or on other hardware."""

    fault: Fault
    engine: str = "llamacpp"
    file: str = ""
    """Quantisation whose file is served in place of the recipe's."""
    meant: Mapping[str, Any] = field(default_factory=dict)
    """What the gate expects beyond the demo's recipe."""


def program(name: str, found_by: str, old: str, new: str, **meant: Any) -> Setup:
    """A fault in images/llamacpp/serve.py."""
    return Setup(Fault(name, found_by, program=(old, new)), meant=meant)


def modelfile(name: str, found_by: str, old: str, new: str) -> Setup:
    """A fault in Ollama's Modelfile."""
    return Setup(Fault(f"Ollama: {name}", found_by, modelfile=(old, new)), "ollama")


HOT = "    params.use_jinja = True\n    params.sampling.temp, params.sampling.user_sampling_config = 1.5, 0xFFFF"
"""As if the command line said so: else the sampling in the file's header wins over the server's."""
SETTINGS = (
    program("a context of half the recipe's", "context_length", "given.context * given.parallel,", "given.context // 2 * given.parallel,"),
    program("a context of twice the recipe's", "context_length", "given.context * given.parallel,", "given.context * 2 * given.parallel,"),
    program("temperature 1.5 in the server's defaults", "sampling", "    params.use_jinja = True", HOT),
    Setup(header("temperature 1.5 in the file's header", "sampling", general__sampling__temp=1.5)),
    Setup(header("every token may be drawn", "sampling", general__sampling__top_k=0)),
    modelfile("temperature 1.5 in the Modelfile", "sampling", r"PARAMETER temperature [0-9.]+", "PARAMETER temperature 1.5"),
    modelfile("a Modelfile without sampling", "sampling", r"(PARAMETER (temperature|top_p|top_k) [0-9.]+\n)+", ""),
    modelfile("a context of 512 tokens", "context_length", r"PARAMETER num_ctx \d+", "PARAMETER num_ctx 512"),
    Setup(Fault("a coarser quantisation than the recipe's", "quantization"), file="q4_k_m"),
    Setup(Fault("Ollama: a coarser quantisation than the recipe's", "quantization"), "ollama", file="q4_k_m"),
    Setup(Fault("the CPU where a GPU is meant", "hardware"), meant={"gpu": True}),
    Setup(Fault("Ollama: the CPU where a GPU is meant", "hardware"), "ollama", meant={"gpu": True}),
    program("slower than the recipe allows", "hardware", "given.threads\n", "1\n", tokens_per_second_at_least=1000.0),
)
