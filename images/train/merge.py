"""Stage merge: the adapter is added to its base weight by weight, in 32-bit arithmetic and rounded once; the result must answer as the two do.

Writing takes under 1 GiB of memory whatever the model's size. What needs whole models, asking them, runs in a process of its own, and where they do
not fit, rows of every tensor are compared instead.
Not covered: adapters other than LoRA's kinds (adapter.py names them), bases quantised otherwise than in bitsandbytes' NF4.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import merged_checkpoint
import torch
from adapter import Adapter
from program import BROKEN, INVALID, NOT_READY, Args, ProgramError, note, run
from sampled_rows import check_rows
from tensor_files import Checkpoint, Nf4Weight

if TYPE_CHECKING:
    from proof import Question


def main(args: Args) -> int:
    """Leave model/, merge.json, tokens.jsonl and, where the model fits into memory, probes.jsonl."""
    wanted, folder = args.recipe["merge"], args.scratch / "merged"
    stored = Checkpoint(args.inputs["base"] / "model")
    Adapter(stored, args.inputs["train"] / "adapter")  # what does not fit is told before anything is asked
    question = asked(args, stored)
    chosen, measured = choose(wanted["base"], question, args.scratch)
    base = as_chosen(chosen, stored, question)
    adapter = Adapter(base, args.inputs["train"] / "adapter")
    shards = merged_checkpoint.plan(base, adapter, getattr(torch, wanted["dtype"]))
    key = merged_checkpoint.key_of(chosen, wanted["dtype"], *(str(path) for path in args.inputs.values()))
    merged = merged_checkpoint.write(shards, folder, key, "cuda" if torch.cuda.is_available() else "cpu")
    facts: dict[str, Any] = {"onto": chosen, "dtype": wanted["dtype"], "files": len(shards), "resumed_files": merged.resumed}
    facts |= {"seconds": round(merged.seconds, 1), "peak_memory": peak_memory(), "parameters": merged_checkpoint.parameters(shards)}
    facts |= merged_checkpoint.require_kept(merged, wanted["min_delta_kept"], wanted["dtype"])
    merged_checkpoint.complete(base, shards, folder, wanted["dtype"], adapter.vocabulary)
    merged_checkpoint.check(base, shards, folder)
    facts["rows"] = check_rows(shards, folder)
    facts |= apart(_prove, question, measured, {"chosen": chosen, "merged": folder, "output": args.output})
    report_candidates(facts["candidates"], chosen)
    facts["base"] = json.loads((args.inputs["base"] / "base.json").read_text(encoding="utf-8"))
    merged_checkpoint.move(folder, args.output / "model")
    (args.output / "merge.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    hold(facts, wanted["max_logit_difference"])
    return 0


def asked(args: Args, stored: Checkpoint) -> dict[str, Any]:
    """Return what the processes that load models must know."""
    facts = json.loads((args.inputs["train"] / "train.json").read_text(encoding="utf-8"))
    quantized = any(isinstance(weight, Nf4Weight) for weight in stored.weights.values())
    # trl_engine.py's choice; where the adapter was trained elsewhere, its device is not known, and nothing is rounded
    kind = "float32" if facts.get("device", "cpu") == "cpu" else "bfloat16"
    trained = {"base": stored.folder, "adapter": args.inputs["train"] / "adapter", "stored_nf4": quantized, "kind": kind}
    trained["nf4"] = args.recipe.get("quantization", "none") == "nf4"
    parameters = sum(weight.rows * weight.columns for weight in stored.weights.values())
    return {"trained": trained, "dtype": args.recipe["merge"]["dtype"], "parameters": parameters, "rows": args.inputs["dataset"] / "eval.jsonl"}


def choose(wanted: str, question: dict[str, Any], scratch: Path) -> tuple[str, dict[str, Any]]:
    """Return the base to merge onto, and what was measured to find it; ProgramError (3) where the wanted one is not there."""
    trained = question["trained"]
    if trained["stored_nf4"]:
        if wanted == "original":
            message = "the base's files hold 4-bit weights, and merge.base: original wants the ones they were made from"
            remedy = "set merge.base: dequantised (16-bit files of what was trained on), or take the 16-bit repository as base.source"
            raise ProgramError(message, remedy, INVALID)
        return "dequantised", {}
    if not trained["nf4"]:
        if wanted == "dequantised":
            raise ProgramError("merge.base: dequantised, and the base was not trained in 4 bits", "set merge.base: original", INVALID)
        return "original", {}
    if wanted != "auto":
        return wanted, {}
    memory = scratch / "candidates.json"
    found = json.loads(memory.read_text(encoding="utf-8")) if memory.is_file() else apart(_measure, question)
    if not found:
        message = "merge.base: auto compares what models say, and this one fits neither into memory nor on a GPU"
        raise ProgramError(message, "set merge.base: original or dequantised, or merge on a larger machine", NOT_READY)
    memory.write_text(json.dumps(found), encoding="utf-8")
    return min(found, key=lambda name: found[name]["mean_kl"]), found


def as_chosen(chosen: str, stored: Checkpoint, question: dict[str, Any]) -> Checkpoint:
    """Return the checkpoint whose weights the adapter is added to."""
    trained = question["trained"]
    if chosen == "original" or trained["stored_nf4"]:
        return stored
    from trained_base import as_trained

    return as_trained(stored, apart(_quantized_modules, stored.folder), getattr(torch, trained["kind"]))


def apart(function: Callable[..., Any], *given: Any) -> Any:
    """Call a function in a process of its own, whose memory goes with it."""
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(function, *given).result()
    except BrokenProcessPool as error:
        message = "the process that compares models was killed, most likely for want of memory"
        raise ProgramError(message, "end other programs, or merge on a machine with more memory", NOT_READY) from error


def _question(facts: dict[str, Any], **more: Any) -> Question:
    from candidates import Trained
    from proof import Question

    return Question(**{**facts, "trained": Trained(**facts["trained"]), **more})


def _measure(facts: dict[str, Any]) -> dict[str, Any]:
    from proof import measure

    return measure(_question(facts))


def _prove(facts: dict[str, Any], measured: dict[str, Any], done: dict[str, Any]) -> dict[str, Any]:
    from proof import prove

    return {**prove(_question(facts, **done)), "candidates": measured or _measure(facts)}


def _quantized_modules(folder: Path) -> list[str]:
    from trained_base import quantized_modules

    return quantized_modules(folder)


def report_candidates(found: dict[str, dict[str, float]], chosen: str) -> None:
    """Say how near each way to merge is to the trained model."""
    said = ", ".join(f"{name} {one['mean_kl']:.2g} nats, {one['top1']:.1%} the same choice" for name, one in found.items())
    if found:
        note(f"merged onto the {chosen} base; from the trained model are: {said}")


def peak_memory() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def hold(facts: dict[str, Any], limit: float) -> None:
    """Say how far the merged model is from base and adapter; ProgramError (6) where that is more than the recipe allows."""
    seen, rows = facts["max_logit_difference"], facts["rows"]
    other = rows["other_than_exact"] / max(1, rows["weights"])
    note(f"{rows['weights']} weights of {rows['tensors']} tensors are the sums of base and adapter; {other:.2%} fell to the other side of a step")
    if seen is None:
        note(facts["why"])
        return
    distance = f"at most {seen:.3f} apart, mean {facts['mean_logit_difference']:.4f}"
    note(f"logits of merged model and base + adapter: {distance}; the same choice at {facts['agreement']:.1%} of the positions")
    if not seen <= limit:
        message = f"the merged model's logits are up to {seen:.3f} from those of base + adapter, more than {limit}"
        raise ProgramError(message, "use merge.dtype: float32 to see whether rounding is the cause, or raise merge.max_logit_difference", BROKEN)


if __name__ == "__main__":
    run(main)
