"""A GGUF file becomes an HF checkpoint: its tensors are dequantised once, its tokenizer is rebuilt as the byte-level BPE it was.

Not covered: other architectures than Llama and other tokenizers than SmolLM's. transformers reads more of them, but refuses to save what
it read, reads the header three times (25 s here), and rebuilds this tokenizer as another kind (see `tokenizer_of`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, GGUFReader, TokenType, dequantize, get_tensor_name_map
from program import INVALID, ProgramError
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.initialization import no_init_weights

REMEDY = "name the original checkpoint's folder or hub repository in base.source"


class GgufFile:
    """A GGUF file's header, read once."""

    def __init__(self, path: Path) -> None:
        try:
            self.reader = GGUFReader(path)
        except ValueError as error:
            raise ProgramError(f"{path.name} is no readable GGUF file: {error}", "correct base.source", INVALID) from error

    def field(self, name: str, default: Any = None) -> Any:
        """Return a header field's value, or the default where it is not set."""
        found = self.reader.get_field(name)
        return default if found is None else found.contents()

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the tensors, dequantised to 32 bits."""
        yield from ((tensor.name, dequantize(tensor.data, tensor.tensor_type)) for tensor in self.reader.tensors)


def model_of(file: GgufFile) -> LlamaForCausalLM:
    """Return a GGUF's model with weights of 32 bits; ProgramError where it is no Llama or its tensors do not fit."""
    config = config_of(file)
    layers = config.num_hidden_layers
    with no_init_weights():
        model = LlamaForCausalLM(config).float()
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, layers)
    wanted = {names.get_name(key, try_suffixes=(".weight",)): key for key in model.state_dict()}
    state = {wanted[name]: torch.from_numpy(_layout(name, array, config)) for name, array in file.tensors() if name in wanted}
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ProgramError(f"the GGUF's tensors do not make up its model: {error}", REMEDY, INVALID) from error
    model.tie_weights()
    return model


def config_of(file: GgufFile) -> LlamaConfig:
    """Return the configuration that a Llama GGUF's header states."""
    if (kind := file.field("general.architecture")) != "llama":
        raise ProgramError(f"the GGUF's architecture is {kind}; only llama can be rebuilt here", REMEDY, INVALID)
    heads = file.field("llama.attention.head_count")
    return LlamaConfig(
        vocab_size=len(file.field("tokenizer.ggml.tokens")),
        hidden_size=file.field("llama.embedding_length"),
        intermediate_size=file.field("llama.feed_forward_length"),
        num_hidden_layers=file.field("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=file.field("llama.attention.head_count_kv", heads),
        max_position_embeddings=file.field("llama.context_length"),
        rms_norm_eps=_short(file.field("llama.attention.layer_norm_rms_epsilon")),
        rope_parameters={"rope_type": "default", "rope_theta": file.field("llama.rope.freq_base", 10000.0)},
        bos_token_id=file.field("tokenizer.ggml.bos_token_id"),
        eos_token_id=file.field("tokenizer.ggml.eos_token_id"),
        pad_token_id=file.field("tokenizer.ggml.padding_token_id"),
        tie_word_embeddings=all(tensor.name != "output.weight" for tensor in file.reader.tensors),
        architectures=["LlamaForCausalLM"],
    )


def _short(value: float) -> float:
    """Return the decimal number that a 32-bit float was written from: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _layout(name: str, array: np.ndarray, config: LlamaConfig) -> np.ndarray:
    """Undo llama.cpp's reordering of the rotary halves in a query or key projection (its LlamaModel.permute)."""
    if not name.endswith(("attn_q.weight", "attn_k.weight")):
        return array
    heads = config.num_attention_heads if name.endswith("attn_q.weight") else config.num_key_value_heads
    rows, columns = array.shape
    return array.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def tokenizer_of(file: GgufFile) -> PreTrainedTokenizerFast:
    """Return a GGUF's tokenizer as byte-level BPE; ProgramError where its kind is not one that was proven here.

    transformers rebuilds it with `byte_fallback` and a SentencePiece decoder, which llama.cpp's converter takes for another
    kind of vocabulary: the file it makes loads, and fails at the first space.
    """
    kind = f"{file.field('tokenizer.ggml.model')}/{file.field('tokenizer.ggml.pre')}"
    if kind != "gpt2/smollm":
        raise ProgramError(f"the GGUF's tokenizer is of the kind {kind}; only gpt2/smollm can be rebuilt here", REMEDY, INVALID)
    tokens = file.field("tokenizer.ggml.tokens")
    core = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, _merges(file), byte_fallback=False))
    # llama.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM: every digit stands alone, then GPT-2's own pattern
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    core.decoder = decoders.ByteLevel()
    types = file.field("tokenizer.ggml.token_type")
    core.add_special_tokens([AddedToken(token, normalized=False) for token, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL])
    special = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    numbers = {name: file.field(f"tokenizer.ggml.{key}_token_id") for name, key in special.items()}
    named = {name: tokens[number] for name, number in numbers.items() if number is not None}
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **named)


def _merges(file: GgufFile) -> list[tuple[str, str]]:
    return [(left, right) for left, _, right in (merge.partition(" ") for merge in file.field("tokenizer.ggml.merges"))]
