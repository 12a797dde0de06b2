"""Whether another trainer read the texts as this base does: the tokens of the adapter's folder, and its chat template, against the base's."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

from adapter_folder import shown
from conversation import single
from form import Form
from program import ProgramError

SHOWN = 4
"""Tokens that a message names."""
ASKED, REASONED, ANSWERED = "What is 2 + 3?", "Two and three are five.", "5"
"""The conversation that both templates render."""
REMEDY = "train over the checkpoint that the base step leaves (thinkship run RECIPE --until base), or state its own base as base.source"


def check_tokens(folder: Path, base: Path) -> list[str]:
    """Hold the adapter's tokenizer.json against the base's and return remarks; ProgramError (3) where one text would be other tokens."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return ["the adapter's folder holds no tokenizer.json: that it was trained with the base's tokens is not checked"]
    try:
        told, known = vocabulary(path), vocabulary(base / "tokenizer.json")
    except (ValueError, KeyError, TypeError) as error:
        raise ProgramError(f"the adapter's tokenizer.json cannot be read: {type(error).__name__}: {error}", "copy the folder again") from error
    padding = _padding(folder)
    moved = sorted(token for token, number in told.items() if token in known and known[token] != number)
    added = sorted((token for token in told.keys() - known.keys() if token != padding), key=told.__getitem__)
    lacking = sorted(known.keys() - told.keys(), key=known.__getitem__)
    problems = [
        f"{len(tokens)} tokens {words}: {', '.join(map(shown, tokens[:SHOWN]))}"
        for tokens, words in ((added, "that the base lacks"), (lacking, "of the base are missing"), (moved, "have another number"))
        if tokens
    ]
    if problems:
        raise ProgramError(f"the adapter was trained with another tokenizer than this base's: {'; '.join(problems)}", REMEDY)
    only_padding = padding in told and padding not in known
    return [f"its trainer added the padding token {shown(str(padding))}, which no served text holds"] if only_padding else []


def vocabulary(path: Path) -> dict[str, int]:
    """Return every token of a tokenizer.json with its number."""
    told = json.loads(path.read_text(encoding="utf-8"))
    words = told["model"]["vocab"]
    numbers = dict(words) if isinstance(words, dict) else {word: number for number, (word, _) in enumerate(words)}
    return numbers | {token["content"]: token["id"] for token in told.get("added_tokens") or ()}


def _padding(folder: Path) -> str | None:
    try:
        token = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("pad_token")
    except (OSError, ValueError, AttributeError):
        return None
    return token.get("content") if isinstance(token, dict) else token


def foreign_template(folder: Path) -> str | None:
    """Return the chat template that lies in an adapter's folder, None where there is none."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    try:
        told = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return None
    if isinstance(told, list):  # several by name
        told = next((entry.get("template") for entry in told if isinstance(entry, dict) and entry.get("name") == "default"), None)
    return told if isinstance(told, str) else None


def check_template(folder: Path, form: Form) -> list[str]:
    """Return a remark with a diff where the folder's template writes one conversation otherwise than the text that the base is asked with.

    What is compared is prompt and answer together: a template that opens the thinking in the prompt and one that leaves that to the answer
    make the same training text. Which template the trainer really used is not known.
    """
    template = foreign_template(folder)
    if template is None:
        return ["the adapter's folder holds no chat template: that it was trained on the prompt that is served is not checked"]
    pair = form.write(single(ASKED, REASONED, ANSWERED), None)
    said = f"{form.open}\n{REASONED}\n{form.close}\n\n{ANSWERED}"
    talk = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": said}]
    try:
        trained = form.tokenizer.apply_chat_template(talk, chat_template=template, tokenize=False)
    except Exception as error:  # a foreign template can fail in any way that Jinja can
        return [f"the chat template in the adapter's folder cannot be rendered, and is not compared: {type(error).__name__}: {shown(str(error))}"]
    served = pair.prompt + pair.completion
    if trained.rstrip() == served.rstrip():
        return []
    lines = difflib.unified_diff(served.splitlines(), trained.splitlines(), "as it is served", "by the adapter's template", lineterm="", n=1)
    return [
        "the adapter's folder holds another chat template: it may have been trained on another text than it is served with\n"
        + "\n".join(map(shown, lines))
    ]
