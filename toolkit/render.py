"""Renders Ollama's Modelfile: values in, text out; what Ollama cannot hold is refused with its place named."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jinja2

from toolkit.errors import InvalidError
from toolkit.stages import MODELFILES

Value = float | int | str | bool

NUMBERS = ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty")
INTEGERS = (
    *("num_keep", "seed", "num_predict", "top_k", "repeat_last_n"),
    *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"),
)
PARAMETERS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(NUMBERS, (int, float)),
    **dict.fromkeys(INTEGERS, (int,)),
    "use_mmap": (bool,),
    "stop": (str,),
}
"""PARAMETER names that Ollama 0.33 takes (api/types.go, the JSON names of Options and Runner), and their types."""

FROM_GENERATION = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repeat_penalty"}
"""generation_config.json's names -> Ollama's."""

STOPS: dict[str, tuple[str, ...]] = {
    "qwq": ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    "qwen3": ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    "chatml": ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    "deepseek-r1-distill": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
}
"""What ends an answer in each family: the control tokens of its turns."""


@dataclass(frozen=True)
class ModelfileValues:
    """Everything a Modelfile says."""

    gguf: str
    """Path of the GGUF, absolute or relative to the Modelfile."""
    family: str
    num_ctx: int
    """Context length in tokens."""
    requires: str
    """Lowest Ollama version."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """The checkpoint's generation_config.json."""
    parameters: Mapping[str, Value] = field(default_factory=dict)
    """PARAMETERs of the recipe, which win over generation_config."""
    system: str | None = None
    license: str = ""
    adapter: str = ""
    """Path of the adapter's GGUF that is laid over the other, likewise; empty where there is none."""


def context_size(longest_row: int, answer_tokens: int) -> int:
    """Return num_ctx in tokens: the longest training row and the answer's budget, rounded up to a multiple of 256."""
    return -(-(longest_row + answer_tokens) // 256) * 256


def render_modelfile(values: ModelfileValues) -> str:
    """Return the Modelfile; InvalidError where a PARAMETER is unknown or a text cannot be held by Ollama."""
    template = (MODELFILES / f"{values.family}.gotmpl").read_text(encoding="utf-8").removesuffix("\n")
    beside = (("ADAPTER", values.adapter),) if values.adapter else ()
    for name, text in (("FROM", values.gguf), *beside, ("TEMPLATE", template), ("SYSTEM", values.system or ""), ("LICENSE", values.license)):
        _refuse_what_ollama_drops(name, text)
    environment = jinja2.Environment(
        variable_start_string="[[",
        variable_end_string="]]",
        block_start_string="[%",
        block_end_string="%]",
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    source = (MODELFILES / "Modelfile.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        gguf=values.gguf,
        adapter=values.adapter,
        template=template,
        parameters=list(_parameter_lines(values)),
        system=values.system,
        license=values.license,
        requires=values.requires,
    )


def _parameter_lines(values: ModelfileValues) -> Iterator[tuple[str, str]]:
    chosen: dict[str, Value] = {"repeat_penalty": 1.0}
    chosen |= {ours: values.generation[theirs] for theirs, ours in FROM_GENERATION.items() if values.generation.get(theirs) is not None}
    chosen |= {"num_ctx": values.num_ctx, **values.parameters}
    for name, value in chosen.items():
        _check_parameter(name, value)
        if name != "stop":
            yield name, str(value).lower() if isinstance(value, bool) else str(value)
    extra = (str(chosen["stop"]),) if "stop" in chosen else ()
    yield from (("stop", f'"{stop}"') for stop in dict.fromkeys((*STOPS[values.family], *extra)))


def _check_parameter(name: str, value: Value) -> None:
    if name not in PARAMETERS:
        near = difflib.get_close_matches(name, PARAMETERS, 1)
        hint = f"did you mean {near[0]}?" if near else f"Ollama knows {', '.join(sorted(PARAMETERS))}"
        raise InvalidError(f"modelfile/parameters/{name}: Ollama has no such PARAMETER", hint)
    kinds = PARAMETERS[name]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise InvalidError(f"modelfile/parameters/{name}: {value!r} is not {' or '.join(kind.__name__ for kind in kinds)}", "correct the value")
    if name == "stop" and ('"' in str(value) or "\n" in str(value)):
        raise InvalidError(f"modelfile/parameters/stop: {value!r}: Ollama has no escapes for quotes and newlines", "use another stop string")


def _refuse_what_ollama_drops(name: str, text: str) -> None:
    """Refuse a line ending in three quotes, which would end the value, and runes that Ollama's parser drops in silence (parser.go, IsPrint)."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.endswith('"""'):
            raise InvalidError(f'{name}, line {number}: ends in """, which ends the value in a Modelfile', "end the line otherwise")
        for column, rune in enumerate(line, 1):
            if rune not in "\t\r" and not _printable(rune):
                shown = f"U+{ord(rune):04X} {unicodedata.name(rune, 'without a name')}"
                raise InvalidError(f"{name}, line {number}, column {column}: Ollama drops {shown}", "replace the character")
    if name in ("FROM", "ADAPTER") and ("\n" in text or not text.strip() or text != text.strip()):
        raise InvalidError(f"{name}: {text!r} is no path that a Modelfile can hold", "rename the folder or the file")


def _printable(rune: str) -> bool:
    """Say whether Go's strconv.IsPrint keeps a rune: letters, marks, numbers, punctuation, symbols and the ASCII space."""
    return rune == " " or unicodedata.category(rune)[0] in "LMNPS"
