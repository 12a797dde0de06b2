"""Stage lora: an adapter becomes a GGUF of its own, which llama.cpp and Ollama lay over the base's GGUF while they serve.

Inputs: base (model/ in HF layout), train (adapter/). Leaves adapter.gguf, in 32 bits, and lora.json. Not covered: what llama.cpp has no place
for in an adapter (rows of the vocabulary, whole layers, DoRA); it is refused, and must be served merged.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from program import BROKEN, FAILED, INVALID, Args, ProgramError, note, run

MERGED = "serve it merged: serve.llamacpp.adapter: merged, serve.ollama.adapter: merged; one of serve.adapters by a recipe of its own"


def main(args: Args) -> int:
    """Convert the adapter and hold the file against it."""
    adapter, base, target = args.inputs["train"] / "adapter", args.inputs["base"] / "model", args.output / "adapter.gguf"
    names = tensors(adapter / "adapter_model.safetensors")
    require(names, json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")))
    convert(adapter, base, target)
    facts = check(target, len(names))
    (args.output / "lora.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    note(f"{facts['pairs']} pairs of matrices, {facts['bytes'] / 1e6:.1f} MB")
    return 0


def tensors(path: Path) -> list[str]:
    """Return the names in a safetensors file."""
    with path.open("rb") as stream:
        header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
    return [name for name in header if name != "__metadata__"]


def require(names: list[str], config: dict[str, Any]) -> None:
    """Refuse what llama.cpp would leave out or fail on; ProgramError (3)."""
    strange = sorted(name for name in names if not name.endswith(("lora_A.weight", "lora_B.weight")))
    if strange:
        raise ProgramError(f"llama.cpp has no place for {len(strange)} of the adapter's tensors, as {strange[0]}", MERGED, INVALID)
    other = [key for key in ("alpha_pattern", "use_rslora") if config.get(key)]
    if other:  # the file has one alpha, which llama.cpp divides by each pair's own rank
        message = f"the adapter's scale is not alpha / rank throughout ({' and '.join(other)}), which llama.cpp takes it for"
        raise ProgramError(message, MERGED, INVALID)


def convert(adapter: Path, base: Path, target: Path) -> None:
    """Run llama.cpp's converter; its own words are the log."""
    from sources import CONVERTER

    program = CONVERTER.with_name("convert_lora_to_gguf.py")
    argv = [sys.executable, str(program), str(adapter), "--base", str(base), "--outfile", str(target), "--outtype", "f32"]
    made = subprocess.run(argv, stdout=sys.stderr, check=False)
    if made.returncode:
        raise ProgramError(f"llama.cpp's converter of adapters ended with exit code {made.returncode}", "see the log above its last line", FAILED)


def check(path: Path, tensors: int) -> dict[str, Any]:
    """Return what a file is; ProgramError (6) unless it is an adapter with as many tensors as were given."""
    from sources import gguf

    reader = gguf.GGUFReader(path)
    kind = reader.get_field("adapter.type")
    alpha = reader.get_field("adapter.lora.alpha")
    if kind is None or kind.contents() != "lora" or alpha is None or len(reader.tensors) != tensors:
        message = f"{path.name} holds {len(reader.tensors)} tensors of an adapter that has {tensors}"
        raise ProgramError(message, "look at the stage's log", BROKEN)
    return {"pairs": tensors // 2, "alpha": float(alpha.contents()), "bytes": path.stat().st_size}


if __name__ == "__main__":
    run(main)
