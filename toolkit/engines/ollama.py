"""Ollama: a server of our own port and model folder, filled by `ollama create` from the rendered Modelfile; the reasoning in `reasoning`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from toolkit.engines import Endpoint, Ends, Habits, Message, Rendered, Settings, Target, Tools
from toolkit.engines.openai import OpenAI
from toolkit.engines.wire import answers, ask
from toolkit.errors import BrokenError, NotReadyError, UsageError
from toolkit.process import Command

FIRST, SECOND = "first of two", "second of two"
SAMPLING = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repetition_penalty"}
"""Ollama's names -> generation_config.json's."""
DEFAULTS = {"temperature": 0.8, "top_p": 0.9, "top_k": 40.0, "min_p": 0.0, "repeat_penalty": 1.0}
"""What Ollama samples with where the Modelfile says nothing (api/types.go, DefaultOptions)."""


class Ollama(OpenAI):
    """Ollama's own program with its home, models and port apart from the user's."""

    name = "ollama"
    environment: str | None = None
    port = 11434
    startup_seconds = 180.0
    habits = Habits(
        lenient={"negative max_tokens": "answered"},  # taken for without end: llm/llama_server.go, boundedNumPredict
        parser="a TEMPLATE that writes .Thinking of its .Messages between the tags",
        unthinking={"reasoning_effort": "none"},
        believes_in_switch=True,  # TEMPLATEs close the thinking, whether the model has learnt to answer without or not
        cuts_prompts=True,
    )
    fields = ("reasoning", "thinking")

    def lay_out(self, target: Target, tools: Tools) -> None:
        """Copy the Modelfile with the files' own paths: Ollama takes a FROM that is not there for a model's name to pull."""
        if target.modelfile is None or target.gguf is None:
            raise UsageError("Ollama is given a Modelfile and a GGUF, and one of them is missing", "run the modelfile stage first")
        lines = target.modelfile.read_text(encoding="utf-8").split("\n")
        for word, path in (("FROM", target.gguf), *((("ADAPTER", target.adapter),) if target.adapter else ())):
            places = [number for number, line in enumerate(lines) if line.upper().startswith(f"{word} ")]
            if not places:
                raise BrokenError(f"{target.modelfile} has no {word} line", "run the modelfile stage again")
            lines[places[0]] = f"{word} {path.resolve()}"
        tools.scratch.mkdir(parents=True, exist_ok=True)
        _modelfile(tools).write_text("\n".join(lines), encoding="utf-8")

    def launch(self, target: Target, port: int, tools: Tools) -> Command:
        """Return `ollama serve` with the settings of this server alone."""
        settings = {
            "OLLAMA_MODELS": str(tools.scratch / "models"),
            "OLLAMA_KEEP_ALIVE": "-1",
            "OLLAMA_NUM_PARALLEL": str(target.parallel),
            "OLLAMA_CONTEXT_LENGTH": str(target.context),
            "OLLAMA_MAX_LOADED_MODELS": "1",
            "OLLAMA_NO_CLOUD": "1",
            "OLLAMA_NOHISTORY": "1",
        }
        return Command((str(_program(tools)), "serve"), {**_client(port, tools), **settings, "OLLAMA_HOST": f"{tools.bind}:{port}"})

    def alive(self, root: str) -> bool:
        """Ask for its version."""
        return answers(f"{root}/api/version")

    def prepare(self, target: Target, port: int, tools: Tools) -> Command | None:
        """Return `ollama create` for the Modelfile."""
        argv = (str(_program(tools)), "create", target.served_name, "-f", str(_modelfile(tools)))
        return Command(argv, _client(port, tools))

    def rendered(self, endpoint: Endpoint, messages: Sequence[Message], tools: Sequence[Message] = ()) -> Rendered:
        """Return the prompt of a render-only request."""
        body = {"model": endpoint.model, "messages": list(map(_own, messages)), "stream": False, "_debug_render_only": True}
        body |= {"tools": list(tools)} if tools else {}
        reply = ask(f"{endpoint.root}/api/chat", body, timeout=60, key=endpoint.api_key)
        text = (reply.get("_debug_info") or {}).get("rendered_template") if isinstance(reply, dict) else None
        return Rendered(text=text, reason="" if text else "this Ollama does not know _debug_render_only")

    def template(self, endpoint: Endpoint) -> str:
        """Say which of its two templates ran: only Ollama's own Go path joins two user turns into one."""
        return "the Modelfile's TEMPLATE" if self._runs_go(endpoint) else "the Jinja template in the GGUF"

    def _runs_go(self, endpoint: Endpoint) -> bool:
        text = self.rendered(endpoint, [{"role": "user", "content": FIRST}, {"role": "user", "content": SECOND}]).text or ""
        return f"{FIRST}\n\n{SECOND}" in text

    def ends(self, endpoint: Endpoint) -> Ends:
        """Return the GGUF's end token and the stops of the Modelfile, as /api/show tells them."""
        shown = self._shown(endpoint)
        number = (shown.get("model_info") or {}).get("tokenizer.ggml.eos_token_id")
        lines = [line.split(maxsplit=1) for line in str(shown.get("parameters") or "").splitlines()]
        stops = tuple(line[1].strip('"') for line in lines if len(line) == 2 and line[0] == "stop")
        return Ends(ids=(number,) if isinstance(number, int) else (), stops=stops)

    def overruled(self, endpoint: Endpoint) -> bool:
        """Say whether the model was given a TEMPLATE and the GGUF's Jinja runs in its place."""
        given = str(self._shown(endpoint).get("template") or "").strip()
        return given not in ("", "{{ .Prompt }}") and not self._runs_go(endpoint)

    def settings(self, endpoint: Endpoint) -> Settings:
        """Read /api/show, which holds the Modelfile's parameters, and /api/ps, which tells of the model as it is loaded."""
        shown = self._shown(endpoint)
        parameters = dict(_numbers(shown.get("parameters") or ""))
        sampling = {theirs: parameters.get(ours, DEFAULTS[ours]) for ours, theirs in SAMPLING.items()}
        return Settings(
            quantization=str((shown.get("details") or {}).get("quantization_level", "")).lower() or None,
            sampling=sampling,
            **_loaded(endpoint),
        )

    def _shown(self, endpoint: Endpoint) -> dict[str, Any]:
        reply = ask(f"{endpoint.root}/api/show", {"model": endpoint.model}, timeout=30, key=endpoint.api_key)
        return reply if isinstance(reply, dict) else {}


def _own(message: Message) -> dict[str, Any]:
    """Return a turn as Ollama's own API has it: the arguments of a call as an object, not as JSON in a string."""
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    objects = [{"function": {**call, "arguments": json.loads(call["arguments"])}} for call in calls]
    return {**message, "tool_calls": objects} if calls else dict(message)


def _numbers(parameters: str) -> Iterator[tuple[str, float]]:
    """Yield the parameters that are numbers, one a line as `top_p    0.95`."""
    for line in parameters.splitlines():
        name, _, value = line.partition(" ")
        with contextlib.suppress(ValueError):
            yield name, float(value)


def _loaded(endpoint: Endpoint) -> dict[str, Any]:
    """Return context and share on the GPU of the model in memory, nothing where it has been unloaded."""
    models = ask(f"{endpoint.root}/api/ps", timeout=30, key=endpoint.api_key).get("models") or ()
    found = next((model for model in models if endpoint.model in (model.get("name"), str(model.get("name")).removesuffix(":latest"))), None)
    if not found:
        return {}
    return {"context": found.get("context_length"), "on_gpu": found["size_vram"] / found["size"] if found.get("size") else None}


def _program(tools: Tools) -> Path:
    if tools.ollama is None:
        raise NotReadyError("Ollama is not on this machine", "install Ollama, or let `make serve-ollama` build it (needs Go and a C++ compiler)")
    return tools.ollama


def _modelfile(tools: Tools) -> Path:
    return tools.scratch / "Modelfile"


def _client(port: int, tools: Tools) -> dict[str, str]:
    return {"OLLAMA_HOST": f"127.0.0.1:{port}", "HOME": str(tools.scratch), "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}


ENGINE = Ollama()
