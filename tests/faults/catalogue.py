"""Ways in which a deployed reasoning model is wrong, each planted for real: in the GGUF, in the server's program or settings, in the Modelfile,
or in a gateway before it.

`found_by` is the check that names the cause; more checks may fail as its consequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway import GATEWAYS

from toolkit.stages import MODELFILES, ROOT

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
    """A text of the engine's images/*/serve.py and what stands there instead."""
    modelfile: tuple[str, str] | None = None
    """A text (regular expression) of Ollama's Modelfile and what stands there instead."""
    bytes: str = ""
    """What happened to the file: `truncated`, `empty`, `header`."""
    gateway: str = ""
    """What a gateway before the server does, by its name in gateway.py."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment of the server."""
    engine: tuple[str, str] = ("llamacpp", "f16")
    """In which engine, and which variant of the model, it is planted."""


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
    template("thinking opened twice", "<think>\\n' -}}", "<think>\\n<think>\\n' -}}"),
    template("a beginning token in the template too", "{%- for message in messages -%}", "{{- '<|im_start|>' -}}{%- for message in messages -%}"),
    template(
        "an earlier turn's reasoning is sent again",
        "{{- '\\n' + said(message, loop.last) -}}",
        "{{- '\\n' + (message.reasoning_content or '') + said(message, loop.last) -}}",
    ),
    template("tags cut out of the user's words", "+ message.content + '<|im_end|>", "+ message.content.split('</think>')[-1] + '<|im_end|>"),
    template("tools are not told of", "{%- if tools -%}", "{%- if false -%}"),
    template("what a tool returned is dropped", "{%- elif message.role == 'tool' -%}", "{%- elif false -%}"),
    template("roles in capitals", "'<|im_start|>' + message.role", "'<|im_start|>' + message.role | upper"),
    Fault("thinking switched off in the prompt", "prompt", gguf={"template": QWQ.replace("<think>\\n", "<think>\\n\\n</think>\\n\\n")}),
)
HEADERS = (
    header("a beginning token that training had not", "tokens", tokenizer__ggml__add_bos_token=True, tokenizer__ggml__bos_token_id=0),
    header("another end token", "ends", tokenizer__ggml__eos_token_id=3),
    header("another pre-tokenizer", "tokens", tokenizer__ggml__pre="qwen2"),
    Fault("the tokenizer of another model", "tokens", gguf={"tokens": "of another model"}),
    Fault("the tags swapped in the vocabulary", "tokens", gguf={"tokens": "tags swapped"}),
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
    Fault("no reasoning parser", "think", program=("REASONING_FORMAT_DEEPSEEK", "REASONING_FORMAT_NONE")),
    Fault("the Jinja engine switched off", "prompt", program=("params.use_jinja = True", "params.use_jinja = False")),
    Fault("the model under another name", "models", program=("{given.alias}\n", '{"another"}\n')),
)
FILES = (
    Fault("a truncated file", "start", bytes="truncated"),
    Fault("an empty file", "start", bytes="empty"),
    Fault("a file with a damaged header", "start", bytes="header"),
)


def ollama(name: str, found_by: str, old: str, new: str, **settings: str) -> Fault:
    """A fault in the Modelfile that Ollama is given, or in the server's environment."""
    return Fault(f"Ollama: {name}", found_by, modelfile=(old, new), settings=settings, engine=("ollama", "q8_0"))


def vllm(name: str, found_by: str, *flags: str, without: tuple[str, str] | None = None) -> Fault:
    """A fault in vLLM's command line: flags that are added, the last of one name winning, or one with its value that is left out."""
    argv = f"[word for word in sys.argv[1:] if word not in {without}]" if without else f"[*sys.argv[1:], *{flags}]"
    return Fault(f"vLLM: {name}", found_by, program=("*sys.argv[1:]", f"*{argv}"), engine=("vllm", "bf16"))


PLAIN = """TEMPLATE \"\"\"{{ range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
\"\"\""""
TEMPLATE = r'TEMPLATE """.*?"""'
TUTORIAL = ROOT.parent / "shared" / "chat-templates" / "seed-tutorial.Modelfile"
"""The Modelfile of the tutorial that this project is held against, which is not part of it."""
OLLAMA = (
    ollama("a system prompt in the Modelfile", "prompt", r"\Z", '\nSYSTEM """You are a pirate."""\n'),
    ollama("a stop text that stands in every answer", "stop", r"\Z", '\nPARAMETER stop "Ones"\n'),
    ollama("a TEMPLATE that knows no thinking, and is not used therefore", "prompt", TEMPLATE, PLAIN),
    ollama("a TEMPLATE that knows no thinking, and is used", "prompt", TEMPLATE, PLAIN, OLLAMA_GO_TEMPLATE="1"),
    ollama("the end token is not among the stops", "ends", r'PARAMETER stop "<\|im_end\|>"\n', ""),
    ollama("stops of another model", "ends", r"\Z", '\nPARAMETER stop "<|eot_id|>"\n'),
    ollama("another model's renderer", "prompt", r"\Z", "\nRENDERER qwen3-coder\n"),
)
TUTORIALS = tuple(
    ollama(f"the tutorial's Modelfile{how}", found_by, r".*", TUTORIAL.read_text(encoding="utf-8"), **settings)
    for how, found_by, settings in (("", "ends", {}), (", its TEMPLATE forced", "prompt", {"OLLAMA_GO_TEMPLATE": "1"}))
    if TUTORIAL.is_file()
)
FOUND_BY = {
    "sampled at temperature 1.5 whatever is asked": "identity",
    "a system prompt put before every conversation": "prompt",
    "only the last turn is passed on": "prompt",
    "long prompts are shortened": "context",
    "every answer is said to have ended": "truncation",
    "answers limited to sixteen tokens": "think",
    "stop texts are not passed on": "ends",
    "tags taken out of the user's words": "prompt",
    "a stream cut into bytes": "characters",
}
"""Which check names what a gateway does; the others change where the reasoning stands."""
GATEWAY = tuple(Fault(f"gateway: {name}", FOUND_BY.get(name, "think"), gateway=name) for name in GATEWAYS)
VLLM = (
    vllm("no reasoning parser", "think", without=("--reasoning-parser", "qwen3")),
    vllm("a parser that counts no reasoning tokens", "usage", "--reasoning-parser", "deepseek_r1"),
    vllm("another family's parser", "think", "--reasoning-parser", "granite"),
)
FAULTS = (*TEMPLATES, *HEADERS, *WEIGHTS, *SERVER, *FILES, *OLLAMA, *TUTORIALS, *GATEWAY, *VLLM)
