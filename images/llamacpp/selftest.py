#!/usr/bin/env python3
"""Prove inside the image that it serves: a GGUF of two random layers, written here, answers one token of a chat. One line of JSON, exit code 0."""

from __future__ import annotations

import contextlib
import json
import random
import struct
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path

import healthcheck

PORT = 18080
WIDTH, HIDDEN, LAYERS = 64, 128, 2
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
"""Types of metadata in the GGUF specification."""
TOKENS = ("<unk>", "<s>", "</s>", *(f"<0x{number:02X}>" for number in range(256)))
KINDS = (2, 3, 3, *[6] * 256)
"""llama.cpp's token types: unknown, control, byte."""
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"


def main() -> int:
    """Serve, ask, end the server and tell how long it took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        model = Path(folder) / "tiny.gguf"
        write_gguf(model)
        ready = serve(model)
    print(json.dumps({"selftest": "llamacpp", "ok": True, "seconds": round(time.monotonic() - began, 1), "ready": ready}))
    return 0


def serve(model: Path) -> float:
    """Start the image's own program, wait for one answered token and return the seconds that took."""
    size = ("--context", "256", "--parallel", "1")
    program = (sys.executable, str(Path(__file__).with_name("serve.py")), "--model", str(model), "--alias", "tiny", "--port", str(PORT), *size)
    began = time.monotonic()
    with subprocess.Popen(program, stdout=sys.stderr) as server:
        try:
            while healthcheck.main(PORT):
                if server.poll() is not None or time.monotonic() - began > 60:
                    raise SystemExit(f"the server did not answer; its exit code: {server.poll()}")
                time.sleep(0.2)
        finally:
            server.terminate()
    return round(time.monotonic() - began, 1)


def write_gguf(path: Path) -> None:
    """Write a Llama of two random layers whose tokens are single bytes (GGUF 3, 32-bit weights)."""
    entries, shapes = metadata(), tensors()
    described, offset = b"", 0
    for name, shape in shapes.items():
        described += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)
        offset += 4 * size(shape)
    header = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(entries)) + b"".join(entries) + described
    chance = random.Random(3407)
    with path.open("wb") as stream:
        stream.write(header + bytes(-len(header) % 32))  # the tensors begin at a multiple of 32 bytes, and each is one long
        for shape in shapes.values():
            stream.write(array("f", (chance.gauss(0, 0.1) for _ in range(size(shape)))).tobytes())


def metadata() -> list[bytes]:
    """Return the entries of the header."""
    numbers = {"context_length": 256, "embedding_length": WIDTH, "block_count": LAYERS, "feed_forward_length": HIDDEN, "attention.head_count": 2}
    return [
        entry("general.architecture", STRING, text("llama")),
        *(entry(f"llama.{name}", UINT32, struct.pack("<I", value)) for name, value in numbers.items()),
        entry("llama.attention.layer_norm_rms_epsilon", FLOAT32, struct.pack("<f", 1e-5)),
        entry("tokenizer.ggml.model", STRING, text("llama")),
        entry("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, len(TOKENS)) + b"".join(map(text, TOKENS))),
        entry("tokenizer.ggml.scores", ARRAY, struct.pack("<IQ", FLOAT32, len(TOKENS)) + bytes(4 * len(TOKENS))),
        entry("tokenizer.ggml.token_type", ARRAY, struct.pack("<IQ", INT32, len(TOKENS)) + struct.pack(f"<{len(KINDS)}i", *KINDS)),
        entry("tokenizer.ggml.eos_token_id", UINT32, struct.pack("<I", 2)),
        entry("tokenizer.ggml.add_bos_token", BOOL, b"\0"),
        entry("tokenizer.chat_template", STRING, text(TEMPLATE)),
    ]


def tensors() -> dict[str, tuple[int, ...]]:
    """Return names and shapes, the row length first."""
    square, up, down = (WIDTH, WIDTH), (WIDTH, HIDDEN), (HIDDEN, WIDTH)
    layer = {"attn_norm": (WIDTH,), "attn_q": square, "attn_k": square, "attn_v": square, "attn_output": square, "ffn_norm": (WIDTH,)}
    layer |= {"ffn_gate": up, "ffn_up": up, "ffn_down": down}
    blocks = {f"blk.{number}.{name}.weight": shape for number in range(LAYERS) for name, shape in layer.items()}
    return {"token_embd.weight": (WIDTH, len(TOKENS)), "output_norm.weight": (WIDTH,), **blocks}


def size(shape: tuple[int, ...]) -> int:
    """Return how many numbers a tensor holds."""
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


def entry(name: str, kind: int, value: bytes) -> bytes:
    """Return a metadata entry."""
    return text(name) + struct.pack("<I", kind) + value


def text(value: str) -> bytes:
    """Return a string with its length before it."""
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


if __name__ == "__main__":
    sys.exit(main())
