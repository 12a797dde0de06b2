"""vLLM: the merged checkpoint in 16 bit, or quantised to NF4 by bitsandbytes while it loads; the reasoning in `reasoning`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.engines import Endpoint, Habits, Message, Rendered, Settings, Target, Tools
from toolkit.engines.catalogue import listed
from toolkit.engines.openai import OpenAI
from toolkit.engines.wire import answers, ask_for
from toolkit.errors import UsageError
from toolkit.process import Command

QUANTIZATION = {
    "bnb-nf4": ("--quantization", "bitsandbytes", "--load-format", "bitsandbytes", "--dtype", "bfloat16"),
    "bf16": ("--dtype", "bfloat16"),
    "f16": ("--dtype", "float16"),
    "f32": ("--dtype", "float32"),
}
DRAIN_SECONDS = 60
"""Time in which answers that have begun are finished when the server is told to end."""
PARSER = "qwen3"
"""Splits at </think> for QwQ, R1 distills and Qwen3 alike; `deepseek_r1` counts no reasoning tokens where the prompt opens the tag."""


class Vllm(OpenAI):
    """The OpenAI server of vLLM, through images/vllm/serve.py: its own command line fails in the CPU build."""

    name = "vllm"
    environment = "vllm"
    asks_for_key = True
    startup_seconds = 900.0
    habits = Habits(metrics="vllm:", endless={"ignore_eos": True}, parser=f"--reasoning-parser {PARSER}", believes_in_switch=True)
    fields = ("reasoning",)

    def launch(self, target: Target, port: int, tools: Tools) -> Command:
        """Return the command with the recipe's flags; UsageError without a checkpoint or for an unknown variant."""
        if target.model is None or target.variant not in QUANTIZATION:
            raise UsageError(f"vLLM cannot serve {target.variant}", f"an HF checkpoint as one of {', '.join(QUANTIZATION)}")
        argv = (
            *(str(tools.python["vllm"]), str(tools.programs / "serve.py"), "--model", str(target.model.resolve())),
            *("--served-model-name", target.served_name, "--host", tools.bind, "--port", str(port)),
            *("--max-model-len", str(target.context), "--max-num-seqs", str(target.parallel)),
            *("--shutdown-timeout", str(DRAIN_SECONDS)),
            *QUANTIZATION[target.variant],
            # Without a tag the parser takes an answer for reasoning: a plain model before its fine-tune writes none.
            *(() if target.family == "chatml" and target.base else ("--reasoning-parser", PARSER)),
            *(("--gpu-memory-utilization", str(target.vllm.gpu_memory_utilization)) if tools.gpu else ("--enforce-eager",)),
            *target.vllm.extra_args,
        )
        return Command(argv, _settings(tools) | target.key_settings)

    def alive(self, root: str) -> bool:
        """Ask /health, which answers once the model is loaded."""
        return answers(f"{root}/health")

    def rendered(self, endpoint: Endpoint, messages: Sequence[Message], tools: Sequence[Message] = ()) -> Rendered:
        """Return the token ids of /tokenize, which renders a conversation as a chat request does."""
        offered = {"tools": list(tools)} if tools else {}
        return Rendered(ids=self._ids(endpoint, {"messages": list(messages), "add_generation_prompt": True, **offered}))

    def tokens(self, endpoint: Endpoint, text: str, alone: bool = False) -> tuple[int, ...] | None:
        """Return the token ids of a text as it stands: nothing is put before it."""
        return self._ids(endpoint, {"prompt": text, "add_special_tokens": False})

    def template(self, endpoint: Endpoint) -> str:
        """Say that the checkpoint's template runs: none was given on the command line."""
        return "chat_template.jinja of the checkpoint"

    def settings(self, endpoint: Endpoint) -> Settings:
        """Return the context length of the list of models: quantisation and sampling are told in its log alone."""
        entry = next((entry for entry in listed(endpoint) if entry.get("id") == endpoint.model), {})
        return Settings(context=entry.get("max_model_len"))

    def sampled(self, parameters: Mapping[str, float]) -> dict[str, Any]:
        """Return them as they are: vLLM's chat requests have a field for each."""
        return dict(parameters)

    def _ids(self, endpoint: Endpoint, body: dict[str, object]) -> tuple[int, ...]:
        return tuple(ask_for("tokens", f"{endpoint.root}/tokenize", {"model": endpoint.model, **body}, timeout=30, key=endpoint.api_key))


def _settings(tools: Tools) -> dict[str, str]:
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    cpu = {} if tools.gpu else {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return {**quiet, **cpu, "VLLM_CACHE_ROOT": str(tools.scratch / "cache")}


ENGINE = Vllm()
