"""What the merged model says, token by token, and what the base says to the same prompts: the yardstick for served copies of the model.

toolkit/verify/identity.py holds an endpoint's greedy tokens and their log-probabilities against probes.jsonl, toolkit/verify/tokens.py its
tokenizer against tokens.jsonl.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

TOKENS, BASE_TOKENS = 32, 8
"""Longest answers that are kept, of the merged model and of the base: a few tokens show whether somebody follows it."""
TEXTS = (
    *("Hello, world! don't DON'T", "1,234,567.89 = 47 + 85", "\n\n x\n \n\ty  z ", "def f(x):\n    return {'a': x[0]}  # {{ why }}"),
    *("患者咳嗽三天，你好。", "日本語のテスト", "Ünïcödé ß Привет", "👩‍🔬🙂 ☕", "a\u00a0b\u200bc", "<think>\nR\n</think>\n\n4<|im_end|>"),
)
"""Texts that tell tokenizers apart: their pre-tokenizer, their merges, their bytes, their special tokens."""


def greedy(model: Any, tokenizer: Any, prompts: list[str], tokens: int = TOKENS) -> list[list[tuple[str, float]]]:
    """Return the greedy answers, each as pairs of a token's text and its natural log-probability; the token that ends an answer is left out."""
    encoded = [torch.tensor(tokenizer.encode(prompt, add_special_tokens=False)) for prompt in prompts]
    width = max(len(ids) for ids in encoded)
    padding = model.generation_config.pad_token_id
    ids = torch.stack([torch.nn.functional.pad(one, (width - len(one), 0), value=padding) for one in encoded])
    mask = torch.stack([torch.nn.functional.pad(torch.ones_like(one), (width - len(one), 0)) for one in encoded])
    settings = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "max_new_tokens": tokens}
    device = next(model.parameters()).device
    with torch.inference_mode():
        found = model.generate(ids.to(device), attention_mask=mask.to(device), output_logits=True, return_dict_in_generate=True, **settings)
    logprobs = torch.stack(found.logits, dim=1).float().log_softmax(-1)  # [prompts, tokens, vocabulary]
    chosen = found.sequences[:, width:]
    values = logprobs.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    return [_until_end(tokenizer, row, said, ends) for row, said in zip(chosen.tolist(), values.tolist(), strict=True)]


def _until_end(tokenizer: Any, ids: list[int], values: list[float], ends: set[int]) -> list[tuple[str, float]]:
    pairs: list[tuple[str, float]] = []
    for one, value in zip(ids, values, strict=True):
        if one in ends:
            break
        pairs.append((tokenizer.decode([one]), round(value, 5)))
    return pairs


def write_tokens(path: Path, tokenizer: Any, prompts: dict[str, str]) -> None:
    """Write one line a text with its token ids: TEXTS, and each prompt with the question that it asks."""
    rows = [{"text": text} for text in TEXTS] + [{"text": prompt, "question": question} for prompt, question in prompts.items()]
    with path.open("w", encoding="utf-8") as sink:
        for row in rows:
            ids = tokenizer.encode(row["text"], add_special_tokens=False)
            sink.write(json.dumps({**row, "ids": list(ids)}, ensure_ascii=False) + "\n")


def write(path: Path, questions: list[str], merged: list[list[tuple[str, float]]], base: list[list[tuple[str, float]]]) -> None:
    """Write one line a question."""
    with path.open("w", encoding="utf-8") as sink:
        for question, said, before in zip(questions, merged, base, strict=True):
            tokens, logprobs = [token for token, _ in said], [value for _, value in said]
            line = {"question": question, "tokens": tokens, "logprobs": logprobs, "base_tokens": [token for token, _ in before]}
            sink.write(json.dumps(line, ensure_ascii=False) + "\n")
