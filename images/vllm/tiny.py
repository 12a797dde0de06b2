"""A checkpoint of two random layers whose tokens are single bytes, made without any download: what a selftest works on.

This file stands unchanged in each folder whose selftest needs a checkpoint, so that the folder can be read and run alone; a test holds the
copies equal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BYTES = tuple(f"<0x{number:02X}>" for number in range(256))
SPACE = "▁"
"""What SentencePiece writes for a blank."""
TAGS = ("<think>", "</think>")
PROMPT = "<|im_start|>user\nWhat is {0} + {0}?<|im_end|>\n<|im_start|>assistant\n<think>\n"
COMPLETION = "Twice {0}.\n</think>\n\n{1}<|im_end|>"
TEMPLATE = """{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n<think>\\n' -}}
{%- endif -%}
"""


def write_checkpoint(folder: Path) -> None:
    """Write an HF checkpoint of about 2 MB; its sizes are multiples of 256, which every quantisation can cut into blocks."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    words.save_pretrained(folder)
    _complete_tokenizer(folder)
    torch.manual_seed(3407)
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
        **ends,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    GenerationConfig(**{**ends, "eos_token_id": [words.eos_token_id]}).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")


def tokenizer() -> Any:
    """Return a tokenizer without merges: a token a byte, one for the blank, and ChatML's and the think tags.

    llama.cpp's converter knows vocabularies with byte tokens without a fingerprint of their merges, which no new vocabulary would have.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate(("<unk>", "<s>", "</s>", *BYTES, SPACE))}
    core = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Replace(" ", SPACE)
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Replace(SPACE, " ")])
    core.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")])
    core.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="<|im_end|>", pad_token="</s>")


def _complete_tokenizer(folder: Path) -> None:
    """State what llama.cpp's converter otherwise assumes of such a vocabulary: a token before the text, and a blank."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "add_prefix_space": False}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_rows(path: Path, count: int) -> None:
    """Write questions, prompts and completions as the dataset stage leaves them."""
    rows = ({"question": f"{n}?", "prompt": PROMPT.format(n), "completion": COMPLETION.format(n, 2 * n)} for n in range(10, 10 + count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
