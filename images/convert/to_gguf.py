"""Convert an HF checkpoint to a 16-bit GGUF, quantise it, and prove each file against the checkpoint and the 16-bit one.

Inputs: model (model/ in HF layout), dataset (train.jsonl, eval.jsonl); with gguf.source: one_pass base and train (adapter/) too, whose sum the
files are, and model is one without weights. Leaves model-<type>.gguf for each of gguf.types, imatrix.gguf where
gguf.imatrix asks for one, and gguf.json.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from program import BROKEN, INVALID, Args, ProgramError, note, progress, run

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
    model, wanted = args.inputs["model"] / "model", args.recipe["gguf"]
    reference, *others = wanted["types"]
    files = {kind: args.output / f"model-{kind}.gguf" for kind in (reference, *others)}
    matrix = args.output / "imatrix.gguf" if wanted["imatrix"] else None
    stored, adapter, dtype = origin(args)
    apart(_room, args.output, stored, wanted)
    convert(stored, files[reference], reference, adapter, dtype)
    apart(_finite, files[reference])
    made_of = apart(_matrix, files[reference], matrix, training_rows(args, model), others) if matrix else None
    tensors = apart(_quantize, files[reference], {kind: files[kind] for kind in others}, matrix)
    prompt, rows = held_out(args.inputs["dataset"] / "eval.jsonl", model, wanted["rows"])
    yardstick = args.scratch / "reference.npy"
    measured = examine(files, model, prompt, rows, yardstick)
    for kind, seen in measured.items():
        same_weights(kind, int(seen.pop("weights")), stored)
    if matrix and wanted["imatrix"]["compare"]:
        for kind in filter(guided, others):
            measured[kind] |= unguided(files[reference], kind, args.scratch / f"plain-{kind}.gguf", rows, yardstick)
    yardstick.unlink()
    for seen in measured.values():
        seen["perplexity_growth"] = seen["perplexity"] / measured[reference]["perplexity"] - 1
    types = {kind: _described(files[kind], tensors.get(kind)) | measured[kind] for kind in files}
    limits = {name: wanted[name] for name in LIMITS}
    report = {"reference": reference, "rows": len(rows), "types": types, "limits": limits, "size_limit": wanted["size_limit"], "imatrix": made_of}
    (args.output / "gguf.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    within_limits(measured, limits)
    return 0


def origin(args: Args) -> tuple[Path, Path | None, str]:
    """Return the checkpoint whose weights are converted, the adapter that is merged into them meanwhile, and the type of the sum."""
    if args.recipe["gguf"]["source"] == "merge":
        return args.inputs["model"] / "model", None, ""
    return args.inputs["base"] / "model", args.inputs["train"] / "adapter", args.recipe["dtype"]


def convert(model: Path, target: Path, kind: str, adapter: Path | None = None, dtype: str = "") -> None:
    """Run llama.cpp's converter on the checkpoint; its own words are the log."""
    what = f"merging and converting to {kind}" if adapter else f"converting to {kind}"
    progress(0, 1, "file", what)
    apart(_converted, target, model, kind, adapter, dtype)
    progress(1, 1, "file", f"converted to {kind}")


def _room(folder: Path, model: Path, wanted: dict[str, Any]) -> None:
    import room

    room.known(wanted["types"][1:])
    room.require(model, wanted, folder)


def _converted(target: Path, model: Path, kind: str, adapter: Path | None, dtype: str) -> None:
    import converter

    converter.convert(model, target, kind, adapter, dtype or "float32")


def apart(function: Callable[..., T], gguf: Path, *given: Any) -> T:
    """Call a function that reads a file with llama.cpp in a process of its own: a C++ exception there ends that process, not this one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(function, gguf, *given).result()
        except OSError as error:
            # numpy says only in words that a file got less than it was given
            raise OSError(errno.ENOSPC, "no space left", gguf.name) if re.search(r"requested and \d+ written", str(error)) else error from None
        except BrokenProcessPool:
            message = f"llama.cpp ended the process while it read {gguf.name}"
            raise ProgramError(message, "mend what the log's last lines name in the checkpoint", BROKEN) from None


def _finite(source: Path) -> None:
    """Look at every weight of the 16-bit file."""
    from quantize import Source

    overflown = Source(source).overflown()
    if overflown:
        raise ProgramError(f"{source.name}: {overflown} has a weight that this type cannot hold", "state bf16 as the first of gguf.types", BROKEN)


def _matrix(source: Path, target: Path, given: Path | Rows, kinds: Sequence[str]) -> dict[str, Any]:
    """Leave an importance matrix, a given file's or one made of rows, and return what it is made of; ProgramError where it is not this model's."""
    import imatrix
    from quantize import Source

    opened = Source(source)
    for kind in kinds:
        opened.types(kind, guided=True)  # what has no rules is refused before rows are evaluated
    if isinstance(given, Path):
        found, origin = imatrix.read(given), given.name
    else:
        origin, ids = "the training rows", [ids for ids, _ in given]
        found = imatrix.collect(source, ids, "train.jsonl", lambda done, total: progress(done, total, "rows", "importance matrix"))
    found.require(opened.layers())
    found.write(target)
    tokens = max(found.counts.values())
    note(f"importance matrix of {origin}: {found.texts} texts, {tokens} tokens, {len(found.sums)} tensors")
    return {"file": target.name, "from": origin, "texts": found.texts, "tokens": tokens, "sha256": _sha256(target)}


def guided(kind: str) -> bool:
    """Say whether an importance matrix changes a quantisation: Q8_0 rounds each weight by itself."""
    return kind != "q8_0"


def _quantize(source: Path, targets: dict[str, Path], given: Path | None) -> dict[str, dict[str, int]]:
    """Make every quantisation, with the importance matrix `given`; return how many tensors of which type each has."""
    import imatrix
    from quantize import Source

    opened, matrix, made = Source(source), imatrix.read(given) if given else None, {}
    for kind, target in targets.items():
        weighed = matrix if guided(kind) else None
        made[kind] = opened.quantize(target, kind, weighed, lambda done, total, kind=kind: progress(done, total, "tensors", kind))  # type: ignore[misc]
        note(f"{kind}: {', '.join(f'{count} x {name}' for name, count in sorted(made[kind].items()))}")
    return made


def unguided(source: Path, kind: str, target: Path, rows: Rows, yardstick: Path) -> dict[str, Any]:
    """Return, as `plain`, the figures of the same quantisation without the matrix; nothing where it cannot do without."""
    scored = apart(_unguided, source, kind, target, rows, yardstick)
    if scored is None:
        return {}
    note(f"{kind} without the importance matrix: KL {scored['mean_kl']:.4f} nats a token, perplexity {scored['perplexity']:.3f}")
    return {"plain": {name: scored[name] for name in ("mean_kl", "p99_kl", "top1", "perplexity")}}


def _unguided(source: Path, kind: str, target: Path, rows: Rows, yardstick: Path) -> dict[str, float] | None:
    from check_gguf import scores
    from quantize import Source

    opened = Source(source)
    try:
        opened.types(kind)
    except ProgramError:  # garbage, or nothing, without a matrix
        return None
    try:
        opened.quantize(target, kind, None, lambda done, total: progress(done, total, "tensors", f"{kind} without the matrix"))
        return scores(target, rows, yardstick)
    finally:
        target.unlink(missing_ok=True)


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
    with path.open(encoding="utf-8") as lines:
        given = [json.loads(line) for line in itertools.islice(lines, count)]
    if not given:
        raise ProgramError(f"{path.name} has no rows to measure on", "hold out at least one row", INVALID)
    return given[0]["prompt"], _encoded(given, model)


def training_rows(args: Args, model: Path) -> Path | Rows:
    """Return what an importance matrix is made of: the file that the recipe names, or training rows, spread evenly, as they will be served."""
    wanted = args.recipe["gguf"]["imatrix"]
    if wanted["path"]:
        return args.inputs["recipe_dir"] / wanted["path"]
    with (args.inputs["dataset"] / "train.jsonl").open(encoding="utf-8") as lines:
        count = sum(1 for _ in lines)
    if not count:
        raise ProgramError("train.jsonl has no rows to make an importance matrix of", "state gguf.imatrix: null", INVALID)
    step = max(1.0, count / wanted["rows"])
    chosen = {int(number * step) for number in range(min(count, wanted["rows"]))}
    with (args.inputs["dataset"] / "train.jsonl").open(encoding="utf-8") as lines:
        return _encoded([json.loads(line) for number, line in enumerate(lines) if number in chosen], model)


def _encoded(given: Sequence[dict[str, str]], model: Path) -> Rows:
    """Return the ids of prompt and completion together, and where the completion starts."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    parts = [[tokenizer.encode(row[name], add_special_tokens=False).ids for name in ("prompt", "completion")] for row in given]
    return [(prompt + completion, len(prompt)) for prompt, completion in parts]


def examine(files: dict[str, Path], model: Path, prompt: str, rows: Rows, yardstick: Path) -> dict[str, dict[str, float]]:
    """Hold every file against the checkpoint and evaluate it on held-out rows; the first one's log-probabilities become the yardstick."""
    yardstick.unlink(missing_ok=True)
    measured: dict[str, dict[str, float]] = {}
    for done, (kind, path) in enumerate(files.items(), 1):
        faults, measured[kind] = apart(_examined, path, model, prompt, rows, yardstick)
        same_model(kind, faults)
        progress(done, len(files), "files", f"{kind}: KL {measured[kind]['mean_kl']:.4f} nats a token, perplexity {measured[kind]['perplexity']:.3f}")
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
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path), "tensors": tensors or {}}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def within_limits(measured: dict[str, dict[str, float]], limits: dict[str, dict[str, float]]) -> None:
    """Stop where a quantisation is further from the 16-bit file than the recipe allows; say all that is, for each mending takes a run."""
    broken = []
    for name, (figure, upper, words) in LIMITS.items():
        for kind, limit in limits[name].items():
            seen = measured[kind][figure] if kind in measured else limit
            if not (seen <= limit if upper else seen >= limit):  # no number keeps no limit
                broken.append(f"model-{kind}.gguf: {words} {seen:.4f}, gguf/{name}/{kind} allows {limit}")
    if broken:
        raise ProgramError("; ".join(broken), "choose a type with more bits, or change the limit knowingly", BROKEN)


if __name__ == "__main__":
    run(main)
