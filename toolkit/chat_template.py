"""A chat template rendered on the host exactly as transformers renders it: the yardstick for the prompts that servers make."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from toolkit.errors import InvalidError


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template with the special tokens it may name (`bos_token`, `eos_token`, ...)."""

    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_model(cls, model: Path) -> ChatTemplate:
        """Read the template of an HF checkpoint; InvalidError where it has none."""
        path, config = model / "chat_template.jinja", model / "tokenizer_config.json"
        settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        source = path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")
        if not isinstance(source, str):
            raise InvalidError(f"{model} has no chat_template.jinja", "name a checkpoint of an instruction-tuned model")
        return cls(source, {name: _text(value) for name, value in settings.items() if name.endswith("_token") and value})

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any) -> str:
        """Return the prompt of a conversation; InvalidError where the template refuses it."""
        try:
            return _compiled(self.source).render(messages=messages, add_generation_prompt=add_generation_prompt, **self.tokens, **variables)
        except (jinja2.TemplateError, TypeError, ValueError, AttributeError) as error:  # an expression of the template may fail as Python's do
            raise InvalidError(f"the chat template refuses the conversation: {error}", "look at modelfiles/<family>.chat.jinja") from error


@cache
def _compiled(source: str) -> jinja2.Template:
    return _environment().from_string(source)


def _environment() -> ImmutableSandboxedEnvironment:
    """Return Jinja as transformers 5.17 sets it up (utils/chat_template_utils.py, _compile_jinja_template)."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _text(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)
