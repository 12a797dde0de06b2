"""The model is on the GPU where it is meant to be, and answers at the speed that is asked for (`hardware`).

An engine that finds no driver, no fitting build or no room falls back to the CPU without a word. Where the engine tells its own share on the
GPU it is believed; else the processes behind its port must hold at least the weights there, or, where nvidia-smi sees no processes, the memory
in use must have grown by as much since the start. It proves nothing of a server on another machine that does not tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolkit import footprint
from toolkit.engines import Endpoint, Target
from toolkit.errors import ThinkshipError
from toolkit.verify import Expectations, Finding, Reply, Status
from toolkit.verify.settings import told

WHOLE = 0.95
"""Share of the weights that must be on the GPU: an engine may keep the embedding in the machine's memory."""
NOTHING = 0.1
"""Share of the weights below which nothing of the model is there: a CUDA context alone takes a few hundred MiB."""
REMEDY = (
    "look in the server's log for the driver's error, then at its build (is it one for CUDA?), its free GPU memory and its layers on the GPU; "
    "or state verify.gpu: false where the CPU is meant"
)


@dataclass(frozen=True)
class Part:
    """One half of the check."""

    status: Status
    message: str
    evidence: dict[str, Any]


def on_hardware(expectations: Expectations, target: Target, gpu: bool) -> Expectations:
    """Add what the server is about to be started on: whether it has a GPU, what is in use there already, and how large the weights are."""
    meant = gpu if expectations.gpu is None else expectations.gpu
    return replace(expectations, gpu=meant, weights=weights(target), gpu_before=footprint.gpu_used() if meant else None)


def weights(target: Target) -> int:
    """Return the bytes that a target's weights take at least, 0 where it has none."""
    if target.gguf:
        return target.gguf.stat().st_size
    size = sum(path.stat().st_size for path in target.model.glob("*.safetensors")) if target.model else 0
    return size // 4 if target.variant == "bnb-nf4" else size  # 16 bits become 4 and some scales


def check(endpoint: Endpoint, expectations: Expectations, replies: Sequence[Reply]) -> Finding:
    """Hold the server's place and its speed against what is asked for; skipped where neither is."""
    parts = [_place(endpoint, expectations), _speed(expectations, replies)]
    statuses = [part.status for part in parts]
    return expectations.finding(
        "hardware",
        endpoint.engine,
        status=(status := _joined(statuses, bool(expectations.gpu))),
        required=status != "skip" or bool(expectations.gpu),
        message="; ".join(part.message for part in parts if part.message),
        remedy=_remedy(statuses),
        evidence={key: value for part in parts for key, value in part.evidence.items()},
    )


def _joined(statuses: Sequence[Status], gpu: bool) -> Status:
    """Return the outcome of both parts; a GPU that is asked for must have been seen, however fast the answers are."""
    if "fail" in statuses:
        return "fail"
    return "pass" if "pass" in (statuses[:1] if gpu else statuses) else "skip"


def _remedy(statuses: Sequence[Status]) -> str:
    if statuses[0] == "fail":
        return REMEDY
    return "give the server more of the machine, or ask for less: verify.tokens_per_second_at_least" if statuses[1] == "fail" else ""


def _place(endpoint: Endpoint, expectations: Expectations) -> Part:
    """Say whether the weights are on a GPU."""
    if not expectations.gpu:
        why = "the CPU is meant" if expectations.gpu is False else "it is not known whether a GPU is meant"
        return Part("skip", f"not looked for a GPU: {why}", {})
    try:
        share = told(endpoint).on_gpu
    except ThinkshipError as error:
        return Part("fail", f"the server cannot be asked where the model lies: {error.message}", {})
    if share is not None:
        words = f"{endpoint.engine} says that {share:.0%} of the model is on the GPU"
        return Part("pass" if share >= WHOLE else "fail", words, {"on_gpu": round(share, 4)})
    return _held(endpoint, expectations)


def _held(endpoint: Endpoint, expectations: Expectations) -> Part:
    """Compare what the server holds on GPUs with the size of its weights."""
    weights, held, how = expectations.weights, footprint.on_gpu(footprint.serving(endpoint.url)), "its processes hold"
    if held is None:
        held, how = _grown(expectations), "since its start there are"
    if held is None:
        return Part("skip", f"{endpoint.engine} does not tell whether it uses a GPU, and nvidia-smi tells nothing of its processes", {})
    words = f"{how} {held >> 20} MiB on GPUs, the weights are {weights >> 20} MiB"
    passed = held > 0 and held >= weights * WHOLE
    fallback = "" if passed else ": it answers from the CPU" if not held or held < weights * NOTHING else ": part of it is on the CPU"
    return Part("pass" if passed else "fail", words + fallback, {"gpu_bytes": held, "weights": weights})


def _grown(expectations: Expectations) -> int | None:
    """Return the growth of all memory in use on the GPUs since before the server was started, None where that is not known."""
    used, before = footprint.gpu_used(), expectations.gpu_before
    return None if used is None or before is None else max(used - before, 0)


def _speed(expectations: Expectations, replies: Sequence[Reply]) -> Part:
    """Compare the tokens a second of one request, as the report shows them, with the recipe's floor."""
    least = expectations.tokens_per_second_at_least
    timed = [reply for reply in replies if reply.completion_tokens and reply.seconds]
    seconds = sum(reply.seconds for reply in timed)
    if least is None or not seconds:
        return Part("skip", "" if least is None else "no answer tells its tokens and its time", {})
    speed = sum(reply.completion_tokens or 0 for reply in timed) / seconds
    evidence = {"tokens_per_second": round(speed, 2), "tokens_per_second_at_least": least}
    return Part("pass" if speed >= least else "fail", f"{speed:.1f} tokens/s, at least {least:g} wanted", evidence)
