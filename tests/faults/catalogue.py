"""Ways in which a deployed reasoning model is wrong, each planted for real: in the GGUF, in the server's program or settings, in the Modelfile.

`found_by` is the check that names the cause; more checks may fail as its consequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolkit.stages import MODELFILES

QWQ = (MODELFILES / "qwq.chat.jinja").read_text(encoding="utf-8")
ALPACA = "{% for m in messages %}### Instruction:\n{{ m.content }}\n{% endfor %}### Response:\n<think>"


@dataclass(frozen=True)
class Fault:
    """One fault and the check that must name it."""

    name: str
    found_by: str
    gguf: Mapping[str, Any] = field(default_factory=dict)
    """What plant.py changes in the tuned model's f16 GGUF."""
    program: tuple[str, str] | None = None
    """A text of images/llamacpp/serve.py and what stands there instead."""
    modelfile: tuple[str, str] | None = None
    """A text (regular expression) of Ollama's Modelfile and what stands there instead: the fault is planted in Ollama."""
    bytes: str = ""
    """What happened to the file: `truncated`, `empty`, `header`."""


def template(name: str, old: str, new: str, found_by: str = "prompt") -> Fault:
    """A fault in the chat template that the GGUF carries."""
    assert old in QWQ, old
    return Fault(name, found_by, gguf={"template": QWQ.replace(old, new)})


def header(name: str, found_by: str, **fields: Any) -> Fault:
    """A wrong value in the GGUF's header; two underscores stand for a dot."""
    return Fault(name, found_by, gguf={"fields": {key.replace("__", "."): value for key, value in fields.items()}})


def weights(name: str, found_by: str = "identity") -> Fault:
    """Weights that are not the merged model's; plant.py knows how."""
    return Fault(name, found_by, gguf={"weights": name})


TEMPLATES = (
    Fault("the tutorial's Alpaca prompt", "prompt", gguf={"template": ALPACA}),
    Fault("another family's template", "prompt", gguf={"template": (MODELFILES / "deepseek-r1-distill.chat.jinja").read_text(encoding="utf-8")}),
    Fault(
        "a plain ChatML template that opens no thinking", "prompt", gguf={"template": (MODELFILES / "chatml.chat.jinja").read_text(encoding="utf-8")}
    ),
    template("the opening tag without its newline", "<think>\\n", "<think>"),
    template(
        "a system prompt that nobody wrote",
        "{%- for message in messages -%}",
        "<|im_start|>system\nYou are Qwen.<|im_end|>\n{%- for message in messages -%}",
    ),
    template("only the last turn reaches the model", "{%- for message in messages -%}", "{%- for message in messages[-1:] -%}"),
    template("white space at the ends is cut off", "+ message.content + '<|im_end|>", "+ message.content | trim + '<|im_end|>"),
    template("the turn's end is missing", "message.content + '<|im_end|>\\n'", "message.content + '\\n'"),
    template("the system turn is dropped", "{%- elif messages[0].role == 'system' -%}", "{%- elif false -%}"),
    template("special characters are escaped as HTML", "+ message.content + '<|im_end|>", "+ message.content | replace('<', '&lt;') + '<|im_end|>"),
    template("roles in capitals", "'<|im_start|>' + message.role", "'<|im_start|>' + message.role | upper"),
    Fault("thinking switched off in the prompt", "prompt", gguf={"template": QWQ.replace("<think>\\n", "<think>\\n\\n</think>\\n\\n")}),
)
HEADERS = (
    header("a beginning token that training had not", "prompt", tokenizer__ggml__add_bos_token=True),
    header("another rotary base", "identity", llama__rope__freq_base=10000.0),
    header("another rotary base, nearly right", "identity", llama__rope__freq_base=500000.0),
    header("another epsilon of the norms", "identity", llama__attention__layer_norm_rms_epsilon=0.1),
)
WEIGHTS = (
    weights("adapter merged twice"),
    weights("adapter merged at half its strength"),
    weights("adapter subtracted"),
    weights("adapter merged in the first half of the layers alone"),
    weights("adapter of the attention alone"),
    weights("one layer lost"),
    weights("queries and keys in the other rotary layout"),
    weights("rows of the tags never written"),
    weights("noise in the attention"),
    weights("one matrix transposed"),
    weights("rows of one matrix in the wrong order"),
    Fault("the base model's file", "identity", gguf={"weights": "the base itself"}),
)
SERVER = (
    Fault(
        "greedy requests are sampled all the same",
        "identity",
        program=(
            "    params.use_jinja = True",
            "    params.use_jinja = True\n    params.sampling.penalty_repeat = 1.8\n    params.sampling.penalty_last_n = 64",
        ),
    ),
    Fault("the Jinja engine switched off", "prompt", program=("params.use_jinja = True", "params.use_jinja = False")),
    Fault("the model under another name", "models", program=("{given.alias}\n", '{"another"}\n')),
)
FILES = (
    Fault("a truncated file", "start", bytes="truncated"),
    Fault("an empty file", "start", bytes="empty"),
    Fault("a file with a damaged header", "start", bytes="header"),
)
OLLAMA = (
    Fault("Ollama: a system prompt in the Modelfile", "prompt", modelfile=(r"\Z", '\nSYSTEM """You are a pirate."""\n')),
    Fault("Ollama: a stop text that stands in every answer", "think", modelfile=(r"\Z", '\nPARAMETER stop "Ones"\n')),
)
FAULTS = (*TEMPLATES, *HEADERS, *WEIGHTS, *SERVER, *FILES, *OLLAMA)
