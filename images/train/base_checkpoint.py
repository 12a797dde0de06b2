"""A base's checkpoint folder: written from a GGUF or another folder, given its think tags and end tokens, and held against its contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from checkpoint import REPORTED, load_tokenizer, parameters, save_model
from gguf_checkpoint import GgufFile, model_of, tokenizer_of
from program import BROKEN, INVALID, ProgramError, note
from sources import Fetched, copy_checkpoint
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

ANSWERS_UP_TO = 4 << 30
"""Bytes of weights up to which the model is loaded and asked; beyond, the check is left to the stages that load it anyway."""
END_NAMES = ("<|endoftext|>", "<|end_of_text|>")
"""End of a document, which chat models of these families may emit instead of the turn's end."""


def write_checkpoint(source: Fetched, target: Path, think: dict[str, Any]) -> None:
    """Write a GGUF file or a checkpoint folder as a checkpoint that has the think tags as single tokens."""
    if source.path.is_dir():
        tokenizer = AutoTokenizer.from_pretrained(source.path)
        if not missing_tags(tokenizer, think):
            copy_checkpoint(source, target)
            return
        model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32)
    else:
        file = GgufFile(source.path)
        tokenizer, model = tokenizer_of(file), model_of(file)
        note(f"dequantised {source.path.name}: {sum(p.numel() for p in model.parameters()) / 1e6:.0f} M parameters")
    if missing_tags(tokenizer, think):
        add_tags(tokenizer, model, think)
    save_model(model, target, torch.bfloat16)
    tokenizer.chat_template = None  # the family's template is written as it stands
    tokenizer.save_pretrained(target)
    _name_portably(target)


def _name_portably(target: Path) -> None:
    """Name the tokenizer's class as transformers 4 and 5 both know it; version 5 alone knows the name it writes."""
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def missing_tags(tokenizer: Any, think: dict[str, Any]) -> list[str]:
    """Return the tags that are no single token."""
    return [tag for tag in (think["open"], think["close"]) if len(tokenizer.encode(tag, add_special_tokens=False)) != 1]


def add_tags(tokenizer: Any, model: Any, think: dict[str, Any]) -> None:
    """Add the missing tags to vocabulary and embeddings; each row starts as the mean of the rows of the pieces it was written with.

    Rows near the mean of all rows are too short to be chosen: at a low learning rate, such a closing tag was never learnt.
    """
    missing = missing_tags(tokenizer, think)
    if not think["add_tokens"]:
        message = f"{' and '.join(missing)}: no single token of this model's vocabulary"
        raise ProgramError(message, "set base.think.add_tokens: true, or name the tags that the model knows", INVALID)
    pieces = [tokenizer.encode(tag, add_special_tokens=False) for tag in missing]
    # not special: decoders drop special tokens, and a served answer must show where the reasoning ended
    tokenizer.add_tokens([_tag(tag) for tag in missing])
    model.resize_token_embeddings(max(model.get_input_embeddings().weight.shape[0], len(tokenizer)), mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        for number, parts in zip(tokenizer.convert_tokens_to_ids(missing), pieces, strict=True):
            layer.weight.data[number] = layer.weight.data[parts].mean(0)


def _tag(text: str) -> Any:
    return AddedToken(text, single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)


def write_generation_config(model_dir: Path, sampling: dict[str, float]) -> None:
    """Write every end token and the recipe's sampling defaults, which servers take from this file."""
    tokenizer = load_tokenizer(model_dir)
    path = model_dir / "generation_config.json"
    given = GenerationConfig.from_pretrained(model_dir).to_diff_dict() if path.is_file() else {}
    ends = [tokenizer.eos_token_id, *_listed(given.get("eos_token_id")), *_known_ends(tokenizer)]
    kept = {key: given[key] for key in ("bos_token_id",) if key in given}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    values = {**kept, "eos_token_id": list(dict.fromkeys(ends)), "pad_token_id": pad, **sampling, "do_sample": sampling.get("temperature", 1) > 0}
    GenerationConfig(**values).save_pretrained(model_dir)


def _known_ends(tokenizer: Any) -> list[int]:
    known = tokenizer.get_vocab()
    return [known[name] for name in END_NAMES if name in known]


def _listed(value: int | list[int] | None) -> list[int]:
    return [] if value is None else value if isinstance(value, list) else [value]


def check_checkpoint(model_dir: Path, think: dict[str, Any], template: str) -> dict[str, Any]:
    """Hold a checkpoint against the stage's contract and return its facts; ProgramError (6) lists every breach."""
    tokenizer = load_tokenizer(model_dir)
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    ends = _listed(json.loads((model_dir / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"])
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "What is 1 + 1?"}], tokenize=False, add_generation_prompt=True)
    problems = [f"{tag} is no single token" for tag in missing_tags(tokenizer, think)]
    if tokenizer.eos_token_id not in ends:
        problems.append(f"the tokenizer ends with token {tokenizer.eos_token_id}, generation_config.json with {ends}")
    if not set(_listed(config.get("eos_token_id"))) <= set(ends):
        problems.append(f"config.json ends with token {config.get('eos_token_id')}, generation_config.json with {ends}")
    if tokenizer.chat_template != template:
        problems.append("the tokenizer does not load the family's chat template")
    if "What is 1 + 1?" not in prompt:
        problems.append("the chat template does not render the question")
    size = sum(path.stat().st_size for path in model_dir.glob("*.safetensors"))
    problems += _unanswered(model_dir, tokenizer, prompt) if size <= ANSWERS_UP_TO else []
    if size > ANSWERS_UP_TO:
        note(f"{size / 2**30:.0f} GiB of weights: not loaded here; train and merge load them")
    if problems:
        raise ProgramError("the checkpoint breaks its contract: " + "; ".join(problems), "check base.family and base.think against the model", BROKEN)
    tags = {"open": tokenizer.convert_tokens_to_ids(think["open"]), "close": tokenizer.convert_tokens_to_ids(think["close"])}
    return {"think": tags, "eos": ends, "parameters": parameters(model_dir), "prefilled": prompt.rstrip().endswith(think["open"])}


def _unanswered(model_dir: Path, tokenizer: Any, prompt: str) -> list[str]:
    model, loading = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, output_loading_info=True)
    problems = [f"{name}: {sorted(loading[name])[:3]}" for name in REPORTED if loading[name]]
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        problems.append(f"{len(tokenizer)} tokens, but only {model.get_input_embeddings().weight.shape[0]} rows of embeddings")
        return problems
    with torch.inference_mode():
        logits = model(**tokenizer(prompt, return_tensors="pt", add_special_tokens=False)).logits
    return problems if bool(torch.isfinite(logits).all()) else [*problems, "the model's logits are not finite"]
