"""llama.cpp's C library inside the prebuilt `xllamacpp` wheel, the one that also serves: tokenise, evaluate and quantise without compiling.

A C++ exception inside the library ends the whole process, so programs call it from a child process.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cffi
import numpy as np

DECLARATIONS = """
struct llama_model_params {
    void * devices; const void * tensor_buft_overrides; int32_t n_gpu_layers; int split_mode; int load_mode; int lazy_mode; int32_t main_gpu;
    const float * tensor_split; void * progress_callback; void * progress_callback_user_data; const void * kv_overrides;
    bool vocab_only; bool check_tensors; bool use_extra_bufts; bool no_host; bool no_alloc; bool load_mtp;
};
struct llama_context_params {
    uint32_t n_ctx; uint32_t n_batch; uint32_t n_ubatch; uint32_t n_seq_max; uint32_t n_rs_seq; uint32_t n_outputs_max;
    uint32_t n_outputs_max_per_seq; int32_t n_threads; int32_t n_threads_batch;
    int ctx_type; int rope_scaling_type; int pooling_type; int attention_type; int flash_attn_type;
    float rope_freq_base; float rope_freq_scale; float yarn_ext_factor; float yarn_attn_factor; float yarn_beta_fast; float yarn_beta_slow;
    uint32_t yarn_orig_ctx; float defrag_thold; void * cb_eval; void * cb_eval_user_data; int type_k; int type_v; size_t moe_cache_size;
    void * abort_callback; void * abort_callback_data;
    bool embeddings; bool offload_kqv; bool no_perf; bool op_offload; bool swa_full; bool kv_unified;
    void * samplers; size_t n_samplers; void * ctx_other;
};
struct llama_batch {
    int32_t n_tokens; int32_t * token; float * embd; int32_t * pos; int32_t * n_seq_id; int32_t ** seq_id; int8_t * logits;
};
void llama_backend_init(void);
void llama_log_set(void (*)(int, const char *, void *), void *);
struct llama_model_params llama_model_default_params(void);
struct llama_context_params llama_context_default_params(void);
void * llama_model_load_from_file(const char *, struct llama_model_params);
void llama_model_free(void *);
uint64_t llama_model_n_params(const void *);
uint64_t llama_model_size(const void *);
const void * llama_model_get_vocab(const void *);
int32_t llama_model_meta_val_str(const void *, const char *, char *, size_t);
int32_t llama_vocab_n_tokens(const void *);
bool llama_vocab_is_eog(const void *, int32_t);
bool llama_vocab_get_add_bos(const void *);
int32_t llama_tokenize(const void *, const char *, int32_t, int32_t *, int32_t, bool, bool);
void * llama_init_from_model(void *, struct llama_context_params);
void llama_free(void *);
struct llama_batch llama_batch_init(int32_t, int32_t, int32_t);
void llama_batch_free(struct llama_batch);
void * llama_get_memory(const void *);
void llama_memory_clear(void *, bool);
int32_t llama_decode(void *, struct llama_batch);
float * llama_get_logits(void *);
size_t ggml_quantize_chunk(int, const float *, void *, int64_t, int64_t, int64_t, const float *);
"""
"""The part of llama.h and ggml.h that is used, as of llama.cpp b11549; the lock pins the wheel and `library` checks the layout."""

ffi = cffi.FFI()
ffi.cdef(DECLARATIONS)


@ffi.callback("void(int, const char *, void *)")
def _log(level: int, text: Any, data: Any) -> None:
    if level in (3, 4):  # GGML_LOG_LEVEL_WARN and _ERROR; the others tell the shape of every tensor
        sys.stderr.write(ffi.string(text).decode(errors="replace"))


@functools.cache
def library() -> Any:
    """Open the library once; OSError where its structures are not laid out as declared above."""
    found = importlib.util.find_spec("xllamacpp")
    if found is None or found.origin is None:
        raise OSError("xllamacpp is not installed")
    lib = ffi.dlopen(str(Path(found.origin).with_name("xllamacpp.abi3.so")))
    model, context = lib.llama_model_default_params(), lib.llama_context_default_params()
    seen = (model.use_extra_bufts, context.n_ctx, context.n_batch, context.n_ubatch, context.yarn_beta_fast, context.type_k, context.no_perf)
    if seen != (True, 512, 2048, 512, -1.0, 1, True):  # llama.cpp's defaults; another layout would show other values
        raise OSError(f"xllamacpp's llama.cpp has another layout than the pinned one: {seen}")
    lib.llama_log_set(_log, ffi.NULL)
    lib.llama_backend_init()
    return lib


def threads() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def opened(path: Path, vocabulary_only: bool = False) -> Iterator[Model]:
    """Load a GGUF for the length of a `with`; OSError where llama.cpp refuses it."""
    params = library().llama_model_default_params()
    params.vocab_only, params.n_gpu_layers = vocabulary_only, 0
    handle = library().llama_model_load_from_file(os.fsencode(path), params)
    if handle == ffi.NULL:
        raise OSError(f"llama.cpp cannot load {path.name}")
    try:
        yield Model(handle)
    finally:
        library().llama_model_free(handle)


class Model:
    """A loaded GGUF: its vocabulary, its size and its logits."""

    def __init__(self, handle: Any) -> None:
        self._handle, self._vocabulary = handle, library().llama_model_get_vocab(handle)

    def tokenize(self, text: str, add_special: bool = False) -> list[int]:
        """Return the ids of `text`, special tokens in it recognised; `add_special` lets the model put BOS or EOS around it."""
        data = text.encode()
        room = len(data) + 8  # no token is shorter than a byte; 8 leaves room for BOS, EOS and a space put in front
        ids = ffi.new("int32_t[]", room)
        count = library().llama_tokenize(self._vocabulary, data, len(data), ids, room, add_special, True)
        if count < 0:
            raise OSError(f"llama.cpp wants {-count} tokens for {len(data)} bytes")
        return list(ids[0:count])

    def ends(self, token: int) -> bool:
        """Say whether llama.cpp stops a generation at this token."""
        return bool(library().llama_vocab_is_eog(self._vocabulary, token))

    def metadata(self, key: str) -> str | None:
        """Return a metadata value as llama.cpp writes it, None where there is none."""
        size = library().llama_model_meta_val_str(self._handle, key.encode(), ffi.NULL, 0)
        if size < 0:
            return None
        text = ffi.new("char[]", size + 1)
        library().llama_model_meta_val_str(self._handle, key.encode(), text, size + 1)
        return bytes(ffi.string(text)).decode()

    @property
    def adds_bos(self) -> bool:
        """Say whether llama.cpp puts BOS in front of every prompt."""
        return bool(library().llama_vocab_get_add_bos(self._vocabulary))

    @property
    def weights(self) -> int:
        """Number of parameters."""
        return int(library().llama_model_n_params(self._handle))

    @property
    def tensor_bytes(self) -> int:
        """Size of all tensors in bytes."""
        return int(library().llama_model_size(self._handle))

    def log_probabilities(self, rows: Sequence[tuple[Sequence[int], int]]) -> Iterator[np.ndarray]:
        """Yield, for each (ids, start), the natural log-probabilities that predict ids[start:], float32 of shape (len(ids) - start, vocabulary)."""
        longest = max(len(ids) for ids, _ in rows)
        params = library().llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = longest
        params.n_outputs_max = params.n_outputs_max_per_seq = longest
        params.n_threads = params.n_threads_batch = threads()
        context = library().llama_init_from_model(self._handle, params)
        if context == ffi.NULL:
            raise OSError(f"llama.cpp cannot make a context of {longest} tokens")
        batch = library().llama_batch_init(longest, 0, 1)
        try:
            for ids, start in rows:
                yield _log_softmax(self._logits(context, batch, ids, start))
        finally:
            library().llama_batch_free(batch)
            library().llama_free(context)

    def _logits(self, context: Any, batch: Any, ids: Sequence[int], start: int) -> np.ndarray:
        library().llama_memory_clear(library().llama_get_memory(context), True)
        batch.n_tokens = len(ids)
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place] = token, place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = start - 1 <= place < len(ids) - 1  # the token before predicts the next one
        if library().llama_decode(context, batch) != 0:
            raise OSError("llama.cpp cannot evaluate a row")
        width, count = library().llama_vocab_n_tokens(self._vocabulary), len(ids) - start
        data = ffi.buffer(library().llama_get_logits(context), 4 * width * count)
        return np.frombuffer(data, np.float32).reshape(count, width).copy()


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits
