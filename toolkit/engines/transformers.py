"""`transformers serve`: the reference implementation behind an OpenAI address; the reasoning in `reasoning_content`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.engines import Endpoint, Habits, Target, Tools
from toolkit.engines.openai import OpenAI, with_whole_top_k
from toolkit.engines.wire import answers
from toolkit.errors import UsageError
from toolkit.process import Command
from toolkit.recipe import Think
from toolkit.variants import TYPES, computed_in

LENIENT = {
    "unknown model": "no error object",  # FastAPI's `detail`, as for JSON that is broken
    "broken JSON": "no error object",
    "negative max_tokens": "500",  # found in generate(): cli/serving/utils.py, generate_non_streaming
    "messages of a wrong type": "500",  # found while the template is applied
}
"""As of transformers 5.17."""


class Transformers(OpenAI):
    """The server inside the training environment's transformers."""

    name = "transformers"
    environment = "train"
    port = 8001
    startup_seconds = 300.0
    habits = Habits(
        batches=False,
        lists_models=False,
        limits_context=False,
        keeps_stops=True,  # generate() ends behind its stop_strings: generation/stopping_criteria.py, StopStringCriteria
        lenient=LENIENT,
        parser="response_template in tokenizer_config.json",
    )
    fields = ("reasoning_content",)

    def lay_out(self, target: Target, tools: Tools) -> None:
        """Link the checkpoint into a folder that is called as the model is served, with the rule that splits off the reasoning.

        The server asks for a model by its folder's name and reads `response_template` from tokenizer_config.json; the stage's own
        directory is never written to.
        """
        if target.model is None:
            raise UsageError("transformers serves an HF checkpoint and none was given", "run the merge stage first")
        view = tools.scratch / target.served_name
        shutil.rmtree(view, ignore_errors=True)
        view.mkdir(parents=True)
        for path in sorted(target.model.resolve().iterdir()):
            (view / path.name).symlink_to(path)
        config = json.loads((target.model / "tokenizer_config.json").read_text(encoding="utf-8"))
        (view / "tokenizer_config.json").unlink()
        text = json.dumps({**config, "response_template": response_template(target.think, _eos(target.model))}, indent=2, ensure_ascii=False)
        (view / "tokenizer_config.json").write_text(text, encoding="utf-8")

    def launch(self, target: Target, port: int, tools: Tools) -> Command:
        """Return `transformers serve` pinned to the one model, without a hub."""
        if target.variant not in TYPES:
            raise UsageError(f"transformers cannot serve {target.variant}", f"one of {', '.join(TYPES)}")
        python = tools.python["train"]
        address = ("--host", tools.bind, "--port", str(port))
        program = (str(python), str(python.with_name("transformers")), "serve", target.served_name)
        argv = (*program, *address, "--dtype", computed_in(target.variant, tools.gpu))
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONNOUSERSITE": "1"}
        return Command(argv, offline, cwd=tools.scratch)

    def alive(self, root: str) -> bool:
        """Ask /health."""
        return answers(f"{root}/health")

    def sampled(self, parameters: Mapping[str, float]) -> dict[str, Any]:
        """Return them as the generation_config that a request may bring along."""
        return {"generation_config": json.dumps({**with_whole_top_k(parameters), "do_sample": True})}

    def template(self, endpoint: Endpoint) -> str:
        """Say that the checkpoint's template runs: this server knows no other."""
        return "chat_template.jinja of the checkpoint"


def response_template(think: Think, ends: tuple[str, ...]) -> dict[str, Any]:
    """Return the rule by which transformers splits an assistant turn into thinking and content."""
    return {
        "version": 1,
        "defaults": {"role": "assistant"},
        "start_anchor": ["<|im_start|>assistant\n", "<｜Assistant｜>"],
        "fields": {
            "thinking": {"open": think.open, "close": [think.close, *ends], "content": "text"},
            "content": {"close": list(ends), "content": "text"},
        },
    }


def _eos(model: Path) -> tuple[str, ...]:
    """Return the end tokens' text, from generation_config's ids and the tokenizer's added tokens."""
    ids = json.loads((model / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    added = {token["id"]: token["content"] for token in json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]}
    return tuple(added[number] for number in ([ids] if isinstance(ids, int) else ids))


ENGINE = Transformers()
