"""vLLM: the merged checkpoint in 16 bit, quantised to FP8 or NF4 while it loads, or stored in fewer bits; sized for the card and the load; the
reasoning in `reasoning`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.compression import STORED
from toolkit.engines import Endpoint, Habits, Message, Rendered, Settings, Target, Tools
from toolkit.engines.catalogue import listed
from toolkit.engines.openai import OpenAI, with_whole_top_k
from toolkit.engines.wire import answers, ask_for
from toolkit.errors import InvalidError, NotReadyError, UsageError
from toolkit.fit.card import smaller
from toolkit.fit.choice import ANYWHERE, wanting
from toolkit.fit.serving import Load, plan
from toolkit.process import Command
from toolkit.variants import TYPES, computed_in

QUANTIZATION: dict[str, tuple[str, ...]] = {
    "fp8": ("--quantization", "fp8_per_tensor"),
    "fp8-weights": ("--quantization", "fp8_per_tensor"),
    "bnb-nf4": ("--quantization", "bitsandbytes", "--load-format", "bitsandbytes"),
    # stored: the checkpoint's own config.json says how its weights lie there
    **dict.fromkeys((*STORED, *TYPES), ()),
}
QUANTIZED_IN = "bfloat16"
"""Type to compute in with quantised weights: the only one that the bitsandbytes plugin knows."""
UNSERVABLE = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters", "lora_bias")
"""Settings of an adapter that vLLM refuses or leaves out (vllm/lora/peft_helper.py)."""
MERGED = "serve it merged: serve.vllm.adapter: merged; one of serve.adapters must be merged by a recipe of its own"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank (vllm/config/lora.py)."""
DRAIN_SECONDS = 60
"""Time in which answers that have begun are finished when the server is told to end."""
UNKNOWN_SHARE = 0.9
"""Share of the card that vLLM is given where neither the recipe nor the machine tells which card it is."""
SAMPLER = {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
"""FlashInfer's sampler is compiled by nvcc, which is seldom there; vLLM's own Triton kernel samples instead."""
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
        if not tools.gpu and (reason := wanting(target.variant)):
            raise UsageError(f"vLLM serves {target.variant} on {reason}", ANYWHERE)
        argv = (
            *(str(tools.python["vllm"]), str(tools.programs / "serve.py"), "--model", str(target.model.resolve())),
            *_named(target, tools.gpu),
            *("--host", tools.bind, "--port", str(port)),
            *("--max-model-len", str(target.context), "--shutdown-timeout", str(DRAIN_SECONDS)),
            *QUANTIZATION[target.variant],
            *("--dtype", computed_in(target.variant, tools.gpu) if target.variant in TYPES else QUANTIZED_IN),
            # Without a tag the parser takes an answer for reasoning: a plain model before its fine-tune writes none.
            *(() if target.family == "chatml" and target.base else ("--reasoning-parser", PARSER)),
            *(_on_gpu(target, tools) if tools.gpu else ("--max-num-seqs", str(target.parallel), "--enforce-eager")),
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
        """Return the context length of the list of models, an adapter's from its base: quantisation and sampling are told in its log alone."""
        entries = {entry.get("id"): entry for entry in listed(endpoint)}
        mine = entries.get(endpoint.model, {})
        return Settings(context=mine.get("max_model_len") or entries.get(mine.get("parent"), {}).get("max_model_len"))

    def sampled(self, parameters: Mapping[str, float]) -> dict[str, Any]:
        """Return them under their own names: vLLM's chat requests have a field for each."""
        return with_whole_top_k(parameters)

    def _ids(self, endpoint: Endpoint, body: dict[str, object]) -> tuple[int, ...]:
        return tuple(ask_for("tokens", f"{endpoint.root}/tokenize", {"model": endpoint.model, **body}, timeout=30, key=endpoint.api_key))


def _named(target: Target, gpu: bool) -> tuple[str, ...]:
    """Return the flags that say by which names a target's models are asked for."""
    if target.adapter is None:
        return ("--served-model-name", target.served_name)
    return beside(target.served_name, target.adapter, gpu, others=target.adapters)


def beside(name: str, adapter: Path, gpu: bool, found_at: Path | None = None, others: Mapping[str, Path] = {}) -> tuple[str, ...]:
    """Return the flags that lay an adapter over the model: it bears the served name, the base another. The server finds it at another path where
    one is given. `others` are further adapters by their names: any of them may be in one batch.

    InvalidError for what vLLM has no place for beside a base.
    """
    rank = max(_rank(one, folder) for one, folder in {name: adapter, **others}.items())
    places = {name: found_at or adapter.resolve(), **{one: folder.resolve() for one, folder in others.items()}}
    named = ("--served-model-name", f"{name}-base", "--lora-modules", *(f"{one}={place}" for one, place in places.items()))
    # On a CPU a request for the base takes the last place of a batch that holds adapters (vllm-project/vllm#48421): one that stays empty.
    rooms = len(places) if gpu else len(places) + 1
    return (*named, "--enable-lora", "--max-loras", str(rooms), "--max-lora-rank", str(rank))


def _rank(name: str, adapter: Path) -> int:
    """Return the rank that vLLM must make room for; InvalidError for what it has no place for beside a base."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    strange = [key for key in UNSERVABLE if config.get(key)] + (["bias"] if config.get("bias", "none") != "none" else [])
    if strange:
        message = f"vLLM cannot serve the adapter {name} beside its base: {', '.join(strange)} of adapter_config.json is set"
        raise InvalidError(message, MERGED)
    largest = max(config["r"], *(config.get("rank_pattern") or {}).values(), 0)
    rank = next((rank for rank in RANKS if rank >= largest), None)
    if rank is None:
        raise InvalidError(f"vLLM serves adapters up to rank {RANKS[-1]}, {name} has {largest}", MERGED)
    return rank


def _on_gpu(target: Target, tools: Tools) -> tuple[str, ...]:
    """Return the flags that size vLLM for the load and the card; none of them where the tutorial's own are wanted."""
    wanted = target.vllm
    spread = ("--tensor-parallel-size", str(wanted.tensor_parallel)) if wanted.tensor_parallel > 1 else ()
    share = ("--gpu-memory-utilization", str(wanted.gpu_memory_utilization)) if wanted.gpu_memory_utilization else ()
    if wanted.profile == "tutorial":
        return (*spread, *share)
    narrow = ("--kv-cache-dtype", "fp8") if wanted.kv_cache == "fp8" else ()
    sized = share or _sized(target, tools) or ("--gpu-memory-utilization", str(UNKNOWN_SHARE))
    return ("--max-num-seqs", str(target.parallel), *spread, *narrow, *sized)


def _sized(target: Target, tools: Tools) -> tuple[str, ...]:
    """Return the flags of the plan for the card that is stated, or the machine's smaller one; none where card or shape is not known."""
    card = smaller(target.vllm.card, tools.card)
    if card is None or target.shape is None:
        return ()
    load = Load(target.parallel, target.context, 1 if target.vllm.kv_cache == "fp8" else 2, target.vllm.tensor_parallel)
    fitted = plan(target.shape, target.variant, load, card)
    if fitted.tokens < target.context:
        message = f"{card} is too small for {target.variant}: {fitted.tokens:,} tokens of key-value cache find room, {target.context:,} are wanted"
        raise NotReadyError(message, "lower serve.context, serve another variant (auto chooses one), or take a larger card")
    return fitted.flags(tools.card or card)


def _settings(tools: Tools) -> dict[str, str]:
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    cache = tools.scratch / "cache"  # what is compiled is found again at the next start: 11 s instead of 59 for QwQ-32B
    kept = {"VLLM_CACHE_ROOT": str(cache), "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"), "TRITON_CACHE_DIR": str(cache / "triton")}
    return {**quiet, **kept, **(SAMPLER if tools.gpu else cpu)}


ENGINE = Vllm()
