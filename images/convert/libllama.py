"""llama.cpp's C library inside the prebuilt `xllamacpp` wheel, the one that also serves: tokenise, evaluate and quantise without compiling.

A C++ exception inside the library ends the whole process, so programs call it from a child process.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
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
struct ggml_tensor {
    int type; void * buffer; int64_t ne[4]; size_t nb[4]; int op; int32_t op_params[16]; int32_t flags; struct ggml_tensor * src[10];
    struct ggml_tensor * view_src; size_t view_offs; void * data; char name[64]; void * extra; char padding[8];
};
struct llama_context_params {
    uint32_t n_ctx; uint32_t n_batch; uint32_t n_ubatch; uint32_t n_seq_max; uint32_t n_rs_seq; uint32_t n_outputs_max;
    uint32_t n_outputs_max_per_seq; int32_t n_threads; int32_t n_threads_batch;
    int ctx_type; int rope_scaling_type; int pooling_type; int attention_type; int flash_attn_type;
    float rope_freq_base; float rope_freq_scale; float yarn_ext_factor; float yarn_attn_factor; float yarn_beta_fast; float yarn_beta_slow;
    uint32_t yarn_orig_ctx; float defrag_thold;
    bool (* cb_eval)(struct ggml_tensor *, bool, void *); void * cb_eval_user_data;
    int type_k; int type_v; size_t moe_cache_size;
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
const char * ggml_get_name(const struct ggml_tensor *);
const char * ggml_op_name(int);
size_t ggml_nbytes(const struct ggml_tensor *);
bool ggml_backend_buffer_is_host(void *);
size_t ggml_quantize_chunk(int, const float *, void *, int64_t, int64_t, int64_t, const float *);
"""
"""The part of llama.h and ggml.h that is used, as of llama.cpp b11549; the lock pins the wheel and `library` checks the layout."""

BATCH = 512
"""Tokens evaluated side by side where many short rows are only looked at."""

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
        with self._decoder(longest, longest, 1) as decode:
            for ids, start in rows:
                yield _log_softmax(self._logits(decode([ids], range(start - 1, len(ids) - 1)), len(ids) - start))

    def observe(self, rows: Sequence[Sequence[int]], see: Callable[[str, np.ndarray], None]) -> Iterator[int]:
        """Evaluate rows of ids, some side by side, and yield how many are done; `see` is told the name of every weight matrix and what it is
        multiplied with: float32 of shape (tokens, columns), valid during the call.
        """
        longest, watch, done = max(map(len, rows)), Watch(see), 0
        most = max(1, BATCH // longest)
        with self._decoder(max(longest, BATCH), BATCH, most, watch.callback) as decode:
            for together in _packs(rows, BATCH, most):
                for first in range(0, max(map(len, together)), BATCH):  # only a row alone is longer
                    decode([ids[first : first + BATCH] for ids in together], range(BATCH), first)  # all logits: else the last layer sees less
                    watch.raise_failure()
                done += len(together)
                yield done

    @contextlib.contextmanager
    def _decoder(self, room: int, size: int, most: int, callback: Any = ffi.NULL) -> Iterator[Callable[..., Any]]:
        """Yield decode(rows, wanted, first=0): it evaluates rows of ids, leaves the logits at the places `wanted` of each and returns the context.

        A context has `room` tokens; `most` rows of up to `size` tokens together are evaluated at a time. What follows earlier ids starts at `first`.
        """
        params = library().llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = room, size, size
        params.n_outputs_max = params.n_outputs_max_per_seq = size
        params.n_seq_max, params.kv_unified = most, most > 1
        params.n_threads = params.n_threads_batch = threads()
        params.cb_eval = callback
        context = library().llama_init_from_model(self._handle, params)
        if context == ffi.NULL:
            raise OSError(f"llama.cpp cannot make a context of {room} tokens")
        batch = library().llama_batch_init(size, 0, 1)

        def decode(rows: Sequence[Sequence[int]], wanted: range, first: int = 0) -> Any:
            if not first:
                library().llama_memory_clear(library().llama_get_memory(context), True)
            places = [(row, place, token) for row, ids in enumerate(rows) for place, token in enumerate(ids)]
            batch.n_tokens = len(places)
            for number, (row, place, token) in enumerate(places):
                batch.token[number], batch.pos[number] = token, first + place
                batch.n_seq_id[number], batch.seq_id[number][0] = 1, row
                batch.logits[number] = place in wanted  # the token before predicts the next one
            if library().llama_decode(context, batch) != 0:
                raise OSError("llama.cpp cannot evaluate a row")
            return context

        try:
            yield decode
        finally:
            library().llama_batch_free(batch)
            library().llama_free(context)

    def _logits(self, context: Any, count: int) -> np.ndarray:
        width = library().llama_vocab_n_tokens(self._vocabulary)
        data = ffi.buffer(library().llama_get_logits(context), 4 * width * count)
        return np.frombuffer(data, np.float32).reshape(count, width).copy()


class Watch:
    """Sees what the weight matrices of the layers are multiplied with; llama.cpp calls it at every node of its graph."""

    def __init__(self, see: Callable[[str, np.ndarray], None]) -> None:
        self._see, self._failure = see, ""
        self.callback = ffi.callback("bool(struct ggml_tensor *, bool, void *)", self._node, error=False)

    def raise_failure(self) -> None:
        """Raise OSError with what the callback could not do; an exception cannot pass through C."""
        if self._failure:
            raise OSError(self._failure)

    def _node(self, node: Any, ask: bool, data: Any) -> bool:
        """Say whether a node is of interest where `ask` is set; take its input where it is not."""
        if ffi.string(library().ggml_op_name(node.op)) != b"MUL_MAT":
            return not ask
        name, matrix, values = _name(node.src[0]), node.src[0], node.src[1]
        if not name.startswith("blk.") or values.type != 0:  # GGML_TYPE_F32
            return not ask
        if ask:
            return True
        if name.encode() != ffi.string(library().ggml_get_name(matrix)) or not library().ggml_backend_buffer_is_host(values.buffer):
            self._failure = f"llama.cpp's tensor {name} is not laid out as declared, or not in the machine's memory"
            return False
        columns, size = values.ne[0], library().ggml_nbytes(values)
        if size != 4 * columns * values.ne[1] * values.ne[2] * values.ne[3]:
            self._failure = f"what {name} is multiplied with does not lie in one piece"
            return False
        self._see(name, np.frombuffer(ffi.buffer(values.data, size), np.float32).reshape(-1, columns))
        return True


def _packs(rows: Sequence[Sequence[int]], room: int, most: int) -> Iterator[list[Sequence[int]]]:
    """Yield the rows, as many at a time as fit into `room` tokens and are not more than `most`."""
    pack: list[Sequence[int]] = []
    for ids in rows:
        if pack and (len(pack) == most or sum(map(len, pack)) + len(ids) > room):
            yield pack
            pack = []
        pack.append(ids)
    yield pack


def _name(tensor: Any) -> str:
    return ffi.string(tensor.name).decode(errors="replace")


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits
