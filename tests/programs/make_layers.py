"""Make a random model whose tensors meet every rule of quantising, convert it and quantise it: `make_layers.py FOLDER SHAPE [plain|guided KIND...]`.

SHAPE is shared (four query heads a key-value head, one table for tokens and output), apart (one head each, two tables) or odd (rows that are no
multiple of 256). Leaves f16.gguf, imatrix.gguf of random rows, and KIND.gguf for each KIND: guided by the matrix, or plain unless that type cannot
do without one.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "images" / "convert"))

import imatrix
import quantize
import tiny
import to_gguf
import torch
from program import ProgramError
from transformers import LlamaConfig, LlamaForCausalLM

LAYERS = 17
"""An eighth of it is 2 layers and a sixteenth 1: no two of the rules' limits fall together."""


def write_checkpoint(folder: Path, shape: str) -> None:
    """Write a checkpoint with the tokenizer of tiny.py."""
    words = tiny.tokenizer()
    words.save_pretrained(folder)
    tiny._complete_tokenizer(folder)
    torch.manual_seed(3407)
    width, heads = (288, 3) if shape == "odd" else (256, 4)
    sizes = {"vocab_size": len(words), "hidden_size": width, "intermediate_size": 256, "num_hidden_layers": LAYERS, "max_position_embeddings": 512}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": 1 if shape == "shared" else heads, "tie_word_embeddings": shape == "shared"}
    LlamaForCausalLM(LlamaConfig(**sizes, bos_token_id=1, eos_token_id=2)).to(torch.bfloat16).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(tiny.TEMPLATE, encoding="utf-8")


def main(folder: Path, shape: str, way: str = "plain", *kinds: str) -> None:
    """Make all of it."""
    write_checkpoint(folder / "model", shape)
    to_gguf.convert(folder / "model", folder / "f16.gguf", "f16")
    chance = torch.Generator().manual_seed(3407)
    rows = [torch.randint(3, 260, (length,), generator=chance).tolist() for length in (40, 17, 5)]
    imatrix.collect(folder / "f16.gguf", rows, "rows.txt", lambda done, total: None).write(folder / "imatrix.gguf")
    matrix = imatrix.read(folder / "imatrix.gguf") if way == "guided" else None
    source = quantize.Source(folder / "f16.gguf")
    for kind in kinds:
        with contextlib.nullcontext() if matrix else contextlib.suppress(ProgramError):
            source.quantize(folder / f"{kind}.gguf", kind, matrix)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
