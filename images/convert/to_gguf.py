"""Convert an HF checkpoint to a 16-bit GGUF, quantise it, and prove each file against the checkpoint and the 16-bit one.

Inputs: model (model/ in HF layout), dataset (eval.jsonl). Leaves model-<type>.gguf for each of gguf.types and gguf.json.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from program import BROKEN, FAILED, INVALID, Args, ProgramError, note, progress, run

T = TypeVar("T")
Rows = list[tuple[list[int], int]]
LIMITS: dict[str, tuple[str, bool, str]] = {
    "max_kl": ("mean_kl", True, "mean KL divergence in nats a token"),
    "min_top1": ("top1", False, "share of tokens with the same likeliest one"),
    "max_perplexity_growth": ("perplexity_growth", True, "growth of the perplexity"),
}
"""Limits of the recipe: the figure that each is for, whether it is an upper one, and the figure's name in words."""


def main(args: Args) -> int:
    """Make, check and describe every file; exit code 6 names the first file that is not the same model."""
    model, (reference, *others) = args.inputs["model"] / "model", args.recipe["gguf"]["types"]
    files = {kind: args.output / f"model-{kind}.gguf" for kind in (reference, *others)}
    convert(model, files[reference], reference)
    tensors = apart(_quantize, files[reference], {kind: files[kind] for kind in others})
    prompt, rows = held_out(args.inputs["dataset"] / "eval.jsonl", model, args.recipe["gguf"]["rows"])
    measured = examine(files, model, prompt, rows, args.scratch / "reference.npy")
    for kind, seen in measured.items():
        same_weights(kind, int(seen.pop("weights")), model)
    for seen in measured.values():
        seen["perplexity_growth"] = seen["perplexity"] / measured[reference]["perplexity"] - 1
    types = {kind: _described(files[kind], tensors.get(kind)) | measured[kind] for kind in files}
    limits = {name: args.recipe["gguf"][name] for name in LIMITS}
    report = {"reference": reference, "rows": len(rows), "types": types, "limits": limits, "size_limit": args.recipe["gguf"]["size_limit"]}
    (args.output / "gguf.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    within_limits(measured, limits)
    return 0


def convert(model: Path, target: Path, kind: str) -> None:
    """Run llama.cpp's converter on the checkpoint; its own words are the log."""
    from sources import CONVERTER

    progress(0, 1, "file", f"converting to {kind}")
    made = subprocess.run([sys.executable, str(CONVERTER), str(model), "--outfile", str(target), "--outtype", kind], stdout=sys.stderr, check=False)
    if made.returncode:
        raise ProgramError(f"llama.cpp's converter ended with exit code {made.returncode}", "see the log above its last line", FAILED)
    progress(1, 1, "file", f"converted to {kind}")


def apart(function: Callable[..., T], gguf: Path, *given: Any) -> T:
    """Call a function that reads a file with llama.cpp in a process of its own: a C++ exception there ends that process, not this one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(function, gguf, *given).result()
        except BrokenProcessPool:
            message = f"llama.cpp ended the process while it read {gguf.name}"
            raise ProgramError(message, "mend what the log's last lines name in the checkpoint", BROKEN) from None


def _quantize(source: Path, targets: dict[str, Path]) -> dict[str, dict[str, int]]:
    """Look at every weight of the 16-bit file and make every quantisation; return how many tensors of which type each has."""
    from quantize import Source

    opened, made = Source(source), {}
    overflown = opened.overflown()
    if overflown:
        raise ProgramError(f"{source.name}: {overflown} has a weight that this type cannot hold", "state bf16 as the first of gguf.types", BROKEN)
    for kind, target in targets.items():
        made[kind] = opened.quantize(target, kind, lambda done, total, kind=kind: progress(done, total, "tensors", kind))  # type: ignore[misc]
        note(f"{kind}: {', '.join(f'{count} x {name}' for name, count in sorted(made[kind].items()))}")
    return made


def same_model(kind: str, faults: Sequence[str]) -> None:
    """Stop where a file differs from the checkpoint."""
    for fault in faults:
        note(f"model-{kind}.gguf: {fault}")
    if faults:
        more = f" (and {len(faults) - 1} more, in the log)" if len(faults) > 1 else ""
        message = f"model-{kind}.gguf is not the checkpoint: {faults[0][:500]}{more}"
        raise ProgramError(message, "mend the checkpoint's tokenizer or config, then run again", BROKEN)


def same_weights(kind: str, held: int, model: Path) -> None:
    """Stop where a file has another number of weights than the checkpoint, apart from the few rotary factors that Llama 3 files carry."""
    from check_gguf import weights

    due = weights(model)
    same_model(kind, [] if due <= held <= due + 256 else [f"it holds {held} weights, the checkpoint {due}"])


def held_out(path: Path, model: Path, count: int) -> tuple[str, Rows]:
    """Return the first held-out prompt, and (ids, start of the completion) of the first rows."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    with path.open(encoding="utf-8") as lines:
        given = [json.loads(line) for line in itertools.islice(lines, count)]
    if not given:
        raise ProgramError(f"{path.name} has no rows to measure on", "hold out at least one row", INVALID)
    parts = [[tokenizer.encode(row[name], add_special_tokens=False).ids for name in ("prompt", "completion")] for row in given]
    return given[0]["prompt"], [(prompt + completion, len(prompt)) for prompt, completion in parts]


def examine(files: dict[str, Path], model: Path, prompt: str, rows: Rows, yardstick: Path) -> dict[str, dict[str, float]]:
    """Hold every file against the checkpoint and evaluate it on held-out rows; the first one's log-probabilities, kept in scratch
    meanwhile, are the yardstick.
    """
    yardstick.unlink(missing_ok=True)
    measured: dict[str, dict[str, float]] = {}
    for done, (kind, path) in enumerate(files.items(), 1):
        faults, measured[kind] = apart(_examined, path, model, prompt, rows, yardstick)
        same_model(kind, faults)
        progress(done, len(files), "files", f"{kind}: KL {measured[kind]['mean_kl']:.4f} nats a token, perplexity {measured[kind]['perplexity']:.3f}")
    yardstick.unlink()
    return measured


def _examined(gguf: Path, model: Path, prompt: str, rows: Rows, yardstick: Path) -> tuple[list[str], dict[str, float]]:
    """Return where a file is not the checkpoint, and its scores where it is."""
    from check_gguf import faults, scores

    found = list(faults(gguf, model, prompt))
    try:
        return found, {} if found else scores(gguf, rows, yardstick)
    except ValueError as error:
        raise ProgramError(f"{gguf.name}: {error}", "look at the checkpoint's weights and config", BROKEN) from None


def _described(path: Path, tensors: dict[str, int] | None) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest, "tensors": tensors or {}}


def within_limits(measured: dict[str, dict[str, float]], limits: dict[str, dict[str, float]]) -> None:
    """Stop where a quantisation is further from the 16-bit file than the recipe allows."""
    for name, (figure, upper, words) in LIMITS.items():
        for kind, limit in limits[name].items():
            seen = measured[kind][figure] if kind in measured else limit
            if not (seen <= limit if upper else seen >= limit):  # no number keeps no limit
                message = f"model-{kind}.gguf: {words} {seen:.4f}, gguf/{name}/{kind} allows {limit}"
                raise ProgramError(message, "choose a type with more bits, or change the limit knowingly", BROKEN)


if __name__ == "__main__":
    run(main)
