from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from skips import skip_or_fail

from toolkit.errors import InvalidError
from toolkit.render import PARAMETERS, STOPS, ModelfileValues, context_size, render_modelfile
from toolkit.stages import ROOT

GOLDEN = ROOT / "tests" / "golden" / "modelfile"
TUTORIAL = ROOT.parent / "shared" / "chat-templates" / "seed-tutorial.Modelfile"
FAMILIES = ("chatml", "deepseek-r1-distill", "qwen3", "qwq")
GENERATION = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": None, "eos_token_id": [2, 0], "do_sample": True}


def values(family: str = "qwq", **changes: object) -> ModelfileValues:
    plain = ModelfileValues("../gguf-1/model-q8_0.gguf", family, 768, "0.33.0", GENERATION, {"seed": 7}, "Be brief.", "Apache-2.0")
    return replace(plain, **changes)


@pytest.mark.parametrize("family", FAMILIES)
def test_golden(family):
    """`THINKSHIP_GOLDEN=write pytest` writes the files anew; read the difference before you commit it."""
    path = GOLDEN / f"{family}.Modelfile"
    if os.environ.get("THINKSHIP_GOLDEN") == "write":
        path.write_text(render_modelfile(values(family)), encoding="utf-8")
    assert render_modelfile(values(family)) == path.read_text(encoding="utf-8")


def test_every_family_has_a_golden():
    assert sorted(path.stem for path in GOLDEN.iterdir()) == sorted(FAMILIES) == sorted(STOPS)


# The tutorial's Modelfile has nine faults; each is a predicate that must find it there and in none of ours.


@dataclass(frozen=True)
class Read:
    """A Modelfile taken apart: its template and its PARAMETER lines."""

    text: str

    @property
    def template(self) -> str:
        (found,) = re.findall(r'^TEMPLATE """(.*?)"""$', self.text, re.DOTALL | re.MULTILINE)
        return found

    def parameters(self, name: str) -> list[str]:
        return [value.strip('"') for value in re.findall(rf"^PARAMETER {name} (.*)$", self.text, re.MULTILINE)]

    def has(self, command: str) -> bool:
        return re.search(rf"^{command} ", self.text, re.MULTILINE) is not None


CONTROL = {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"}
"""The control tokens of the Qwen and DeepSeek vocabularies."""

FAULTS: dict[str, Callable[[Read], bool]] = {
    "1 the model's control tokens do not appear": lambda it: not any(token in it.template for token in ("<|im_start|>", "<｜User｜>")),
    "2 no messages, and the system prompt is dropped": lambda it: ".Prompt" in it.template or ".Messages" not in it.template,
    "3 backslash-n is no newline in a Modelfile": lambda it: "\\n" in it.template,
    "4 the tag is opened without its newline": lambda it: re.search(r"<think>(?!\n)", it.template) is not None,
    "5 Ollama cannot infer the thinking tags": lambda it: re.search(r"<think>\n\{\{ \.Thinking \}\}\n</think>", it.template) is None,
    "6 stops of another vocabulary, and its own are missing": lambda it: (
        not any(set(own) <= set(it.parameters("stop")) <= CONTROL for own in STOPS.values())
    ),
    "7 sampling settings of another model": lambda it: it.parameters("temperature") != ["0.6"] or it.parameters("min_p") not in ([], ["0"]),
    "8 no context size, no repeat_penalty, no licence, no version": lambda it: (
        not (it.parameters("num_ctx") and it.parameters("repeat_penalty") and it.has("LICENSE") and it.has("REQUIRES"))
    ),
}
"""The ninth, a prompt other than the one vLLM renders, is looked for on the real server: tests/e2e/test_ollama_modelfile.py."""


@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_is_in_the_tutorial_and_not_in_ours(fault):
    for family in FAMILIES:
        assert not FAULTS[fault](Read(render_modelfile(values(family)))), family
    if not TUTORIAL.is_file():
        skip_or_fail(f"the tutorial's Modelfile is not at {TUTORIAL}")
    assert FAULTS[fault](Read(TUTORIAL.read_text(encoding="utf-8")))


def test_a_struct_is_never_printed_where_json_is_due():
    # {{ .Function }} prints a Go struct since Ollama 0.14 (ollama#14601)
    for family in FAMILIES:
        assert not re.search(r"\{\{-? *\.(Function|Function\.Arguments) *-?\}\}", Read(render_modelfile(values(family))).template)


def test_the_recipe_wins_over_generation_config():
    lines = render_modelfile(values(parameters={"temperature": 0.2, "use_mmap": False, "stop": "###"})).splitlines()
    assert {"PARAMETER temperature 0.2", "PARAMETER use_mmap false", 'PARAMETER stop "###"', "PARAMETER repeat_penalty 1.0"} <= set(lines)
    assert "PARAMETER temperature 0.6" not in lines


def test_repetition_penalty_is_taken_over_under_ollamas_name():
    assert "PARAMETER repeat_penalty 1.05" in render_modelfile(values(generation={"repetition_penalty": 1.05}))


def test_without_system_and_license_there_are_no_such_lines():
    text = render_modelfile(values(system=None, license=""))
    assert not re.search("^(SYSTEM|LICENSE)", text, re.MULTILINE) and text.endswith("\nREQUIRES 0.33.0\n")


@pytest.mark.parametrize(("rows", "answer", "size"), [(100, 100, 256), (128, 128, 256), (128, 129, 512), (1, 512, 768)])
def test_context_is_rounded_up_to_256(rows, answer, size):
    assert context_size(rows, answer) == size


def test_an_unknown_parameter_is_refused_with_a_guess():
    with pytest.raises(InvalidError, match="modelfile/parameters/temprature") as caught:
        render_modelfile(values(parameters={"temprature": 1}))
    assert caught.value.remedy == "did you mean temperature?"


@pytest.mark.parametrize(
    ("name", "value"), [("top_k", 1.5), ("top_k", True), ("temperature", "hot"), ("use_mmap", 1), ("stop", 'a"b'), ("stop", "a\nb")]
)
def test_a_value_of_the_wrong_type_is_refused(name, value):
    with pytest.raises(InvalidError, match=f"modelfile/parameters/{name}"):
        render_modelfile(values(parameters={name: value}))


def test_ollamas_parameters_are_all_known():
    assert len(PARAMETERS) == 20


@pytest.mark.parametrize(
    ("rune", "name"),
    [
        ("\u3000", "IDEOGRAPHIC SPACE"),
        ("\u00a0", "NO-BREAK SPACE"),
        ("\u200d", "ZERO WIDTH JOINER"),
        ("\u200b", "ZERO WIDTH SPACE"),
        ("\ue000", "U\\+E000"),
    ],
)
@pytest.mark.parametrize("place", ["system", "license", "gguf"])
def test_runes_that_ollama_drops_are_refused_with_their_place(place, rune, name):
    text = f"one{rune}" if place == "gguf" else f"first\nsecond{rune}"
    where = {"system": "SYSTEM, line 2, column 7", "license": "LICENSE, line 2, column 7", "gguf": "FROM, line 1, column 4"}[place]
    with pytest.raises(InvalidError, match=f"{where}: .*{name}"):
        render_modelfile(values(**{place: text}))


def test_a_line_ending_in_three_quotes_is_refused():
    with pytest.raises(InvalidError, match="SYSTEM, line 1"):
        render_modelfile(values(system='say """\nmore'))
    assert 'say """ more' in render_modelfile(values(system='say """ more'))


@pytest.mark.parametrize("path", ["", " a", "a ", "a\nb"])
def test_a_path_that_a_modelfile_cannot_hold_is_refused(path):
    with pytest.raises(InvalidError, match="FROM"):
        render_modelfile(values(gguf=path))


def test_tabs_and_chinese_text_are_kept():
    assert 'SYSTEM """你是医生。\t好"""' in render_modelfile(values(system="你是医生。\t好"))


def test_the_templates_stand_in_the_modelfile_byte_for_byte():
    for family in FAMILIES:
        source = (Path(ROOT) / "modelfiles" / f"{family}.gotmpl").read_text(encoding="utf-8")
        assert f'TEMPLATE """{source[:-1]}"""\n' in render_modelfile(values(family))
