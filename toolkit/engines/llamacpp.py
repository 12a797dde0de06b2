"""llama.cpp's server: one GGUF with its embedded Jinja template, the reasoning in `reasoning_content`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from toolkit.engines import Endpoint, Ends, Habits, Message, Rendered, Settings, Target, Tools
from toolkit.engines.openai import OpenAI
from toolkit.engines.wire import answers, ask, ask_for
from toolkit.errors import UsageError
from toolkit.process import Command

LENIENT = {
    "unknown model": "answered",  # a server of one model looks at no name
    "negative max_tokens": "answered",  # -1 means without end there, and so do its like
    "messages of a wrong type": "500",  # its own tests allow it: tools/server/tests/unit/test_chat_completion.py
    "broken JSON": "500",  # the parser's exception is no std::invalid_argument: tools/server/server.cpp, ex_wrapper
}

SAMPLING = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repetition_penalty"}
"""llama.cpp's names -> generation_config.json's."""

SIZES = {"small": "_s", "medium": "_m", "large": "_l"}
OTHERWISE = {"q2_k - medium": "q2_k", "iq3_s mix - 3.66 bpw": "iq3_m"}
"""Types that are not called by their stem and size."""


class LlamaCpp(OpenAI):
    """Started through the prebuilt wheel of images/llamacpp."""

    name = "llamacpp"
    environment = "llamacpp"
    port = 8080
    asks_for_key = True
    startup_seconds = 180.0
    habits = Habits(metrics="llamacpp:", endless={"ignore_eos": True}, context_step=256, lenient=LENIENT, parser="--reasoning-format deepseek")
    fields = ("reasoning_content",)

    def launch(self, target: Target, port: int, tools: Tools) -> Command:
        """Return the command of images/llamacpp/serve.py; UsageError without a GGUF."""
        if target.gguf is None:
            raise UsageError("llama.cpp serves a GGUF file and none was given", "run the gguf stage first")
        size = ("--context", str(target.context), "--parallel", str(target.parallel))
        address = ("--host", tools.bind, "--port", str(port))
        program = (str(tools.python["llamacpp"]), str(tools.programs / "serve.py"))
        adapters = (target.adapter, *target.adapters.values()) if target.adapter else ()
        beside = (word for path in adapters for word in ("--lora", str(path.resolve())))
        return Command(
            (*program, "--model", str(target.gguf.resolve()), "--alias", target.served_name, *address, *size, *beside), target.key_settings
        )

    def addressed(self, endpoint: Endpoint, names: Sequence[str], name: str) -> Endpoint:
        """Ask for it by its number, in the order of the command line, and for none of the others: a request's `lora` is the whole list."""
        return replace(endpoint, extra={"lora": [{"id": number, "scale": float(one == name)} for number, one in enumerate(names)]})

    def alive(self, root: str) -> bool:
        """Ask /health, which answers 503 while the model loads."""
        return answers(f"{root}/health")

    def rendered(self, endpoint: Endpoint, messages: Sequence[Message], tools: Sequence[Message] = ()) -> Rendered:
        """Return the text of /apply-template."""
        body = {"messages": list(messages)} | ({"tools": list(tools)} if tools else {})
        return Rendered(text=ask_for("prompt", f"{endpoint.root}/apply-template", body, key=endpoint.api_key))

    def tokens(self, endpoint: Endpoint, text: str, alone: bool = False) -> tuple[int, ...] | None:
        """Return the ids of /tokenize, special tokens parsed, as a chat request does."""
        body = {"content": text, "add_special": not alone, "parse_special": True}
        return tuple(ask_for("tokens", f"{endpoint.root}/tokenize", body, key=endpoint.api_key))

    def ends(self, endpoint: Endpoint) -> Ends:
        """Return the end token that /props names."""
        props = ask(f"{endpoint.root}/props", key=endpoint.api_key)
        token = props.get("eos_token") if isinstance(props, dict) else None
        return Ends(tokens=(token,) if token else ())

    def template(self, endpoint: Endpoint) -> str:
        """Say that the GGUF's own Jinja runs: this server knows no other."""
        return "the Jinja template in the GGUF"

    def settings(self, endpoint: Endpoint) -> Settings:
        """Read /props, whose settings are those of one slot; the quantisation is the file's own word."""
        told = ask(f"{endpoint.root}/props", key=endpoint.api_key)
        slot = told["default_generation_settings"]
        sampling = {theirs: float(slot["params"][ours]) for ours, theirs in SAMPLING.items()}
        return Settings(int(slot["n_ctx"]), quantization(str(told.get("model_ftype", ""))) or None, sampling)


def quantization(told: str) -> str:
    """Return what llama.cpp tells of a file's type (llama_model_ftype_name: `Q4_K - Medium`, `IQ4_NL - 4.5 bpw`) as recipes name it."""
    name = told.removeprefix("(guessed) ").partition(" (")[0].lower()
    stem, _, size = name.partition(" - ")
    return OTHERWISE.get(name) or stem + SIZES.get(size, "")


ENGINE = LlamaCpp()
