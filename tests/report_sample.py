"""A whole report with several engines and quantisations, as large as a demo's: what the page and the comparison are tested on.

Answers are drawn from a seed, so that two calls with one seed give one report.
"""

from __future__ import annotations

import random
from typing import Any

from toolkit.assessment import Task, Verify
from toolkit.recipe import Think
from toolkit.verify import Expectations, Finding, Reply, stop, task, think
from toolkit.verify.conversations import CORPUS
from toolkit.verify.judge import REQUIRED, Observation, judge
from toolkit.verify.observe import Observed

SERVED = (
    ("llamacpp", "q4_k_m", 0.84, 97.0),
    ("llamacpp", "q8_0", 0.96, 81.0),
    ("llamacpp", "f16", 0.98, 55.0),
    ("ollama", "q4_k_m", 0.86, 90.0),
    ("vllm", "bnb-nf4", 0.9, 11.0),
    ("vllm", "w4a16", 0.94, 19.0),
    ("vllm", "bf16", 0.98, 24.0),
    ("transformers", "bf16", 0.98, 8.5),
)
BASES = (("llamacpp", "f16", 55.0), ("ollama", "f16", 52.0), ("vllm", "bf16", 23.0), ("transformers", "bf16", 8.0))
WANTED = Task(at_least=0.9, base_at_most=0.2)


def _file(size: int, kl: tuple[float, float, float], top1: float, perplexity: float, bits: float) -> dict[str, Any]:
    """One file as gguf.json has it; `kl` is the mean, what 99 % lie below, and the largest."""
    spread = dict(zip(("mean_kl", "p99_kl", "max_kl"), kl, strict=True))
    growth = perplexity / 1.00218 - 1
    return {"bytes": size, **spread, "top1": top1, "perplexity": perplexity, "perplexity_growth": growth, "bits_per_weight": bits, "tokens": 370}


FACTS: dict[str, Any] = {
    "gguf": {
        "reference": "f16",
        "rows": 8,
        "types": {
            "f16": _file(270890112, (0.0, 0.0, 0.0), 1.0, 1.00218, 16.004),
            "q8_0": _file(144814176, (3.6e-05, 0.0007, 0.0037), 1.0, 1.00223, 8.506),
            "q6_k": _file(138511296, (0.00021, 0.0042, 0.021), 1.0, 1.00231, 8.13),
            "q4_k_m": _file(105457248, (0.00183, 0.034, 0.278), 0.997, 1.00373, 6.165)
            | {"plain": {"mean_kl": 0.00244, "p99_kl": 0.041, "top1": 0.997, "perplexity": 1.0041}},
        },
        "limits": {"max_kl": {"q8_0": 0.01, "q4_k_m": 0.2}, "min_top1": {"q4_k_m": 0.85}, "max_perplexity_growth": {}},
        "size_limit": 140.0,
        "imatrix": {"file": "imatrix.gguf", "from": "the training rows", "texts": 64, "tokens": 4700},
    },
    "compress": {
        "reference": "merged",
        "types": {"w4a16": _file(97_400_000, (0.0021, 0.041, 0.3), 0.994, 1.0039, 5.8)},
        "limits": {"max_kl": {"w4a16": 0.05}},
    },
    "dataset": {"train": {"read": 3003, "kept": 3000, "dropped": {"too long": 3}}, "eval": {"read": 237, "kept": 237}, "longest_row": 69},
}


def report(seed: int = 7, broken: bool = True, loss: float = 0.0) -> dict[str, Any]:
    """Return report.json as data; `loss` is the share of right answers that every tuned endpoint loses against the table above."""
    chance = random.Random(seed)
    seen = [_tuned(chance, *served, loss, broken) for served in SERVED] + [_base(chance, *base) for base in BASES]
    found = judge("smollm2-demo", Verify(task=WANTED), seen, FACTS, "SmolLM2-135M learns to add by writing out its reasoning")
    return found.model_dump(mode="json", by_alias=True)


def _sums(count: int) -> list[tuple[int, int]]:
    return [(23 + 17 * number % 67, 11 + 29 * number % 71) for number in range(count)]


def _tuned(chance: random.Random, engine: str, variant: str, share: float, speed: float, loss: float, broken: bool) -> Observation:
    replies = [_reply(chance, one, other, chance.random() < share - loss, speed) for one, other in _sums(50)]
    if broken and variant == "bnb-nf4":
        cut = replies[3].model_copy(update={"reasoning": "", "text": "<think>" + replies[3].reasoning, "finish": "length", "right": False})
        replies[3:5] = [cut, replies[4].model_copy(update={"reasoning": "", "text": "", "error": "no answer within 120 s", "right": False})]
    expected = Expectations(task=WANTED, variant=variant)
    findings = (
        _thought(engine, variant, replies),
        stop.check(engine, expected, replies),
        _prompt(engine, variant, broken),
        task.check(engine, expected, replies),
        *(Finding(name=name, engine=engine, variant=variant, status="pass", message="as it should be") for name in REQUIRED[3:]),
    )
    return Observation(_observed(engine, variant, False, replies), findings, tuple(replies))


def _base(chance: random.Random, engine: str, variant: str, speed: float) -> Observation:
    replies = []
    for one, other in _sums(20):
        right = chance.random() < 0.06
        words = f"The sum of {one} and {other} is {one + other if right else one + 2 * other}." * chance.randint(1, 4)
        tokens = len(words) // 3
        made = {"question": f"What is {one} + {other}?", "expected": str(one + other), "text": words, "right": right, "finish": "length"}
        replies.append(Reply(**made, completion_tokens=tokens, seconds=round(tokens / speed, 3)))
    return Observation(_observed(engine, variant, True, replies), (), tuple(replies))


def _reply(chance: random.Random, one: int, other: int, right: bool, speed: float) -> Reply:
    tens, ones = one // 10 * 10 + other // 10 * 10, one % 10 + other % 10
    total = one + other + (0 if right else chance.choice((-10, 10, 1)))
    check = f" Check: {total} - {other} = {total - other}." if chance.random() < 0.3 else ""
    steps = (
        f"Tens: {one // 10 * 10} + {other // 10 * 10} = {tens}. Ones: {one % 10} + {other % 10} = {ones}. Together: {tens} + {ones} = {total}.{check}"
    )
    tokens = len(steps) // 2
    made = {"question": f"What is {one} + {other}?", "expected": str(one + other), "reasoning": steps, "text": str(total), "right": right}
    took = round(tokens / speed * chance.uniform(1.0, 1.6), 3)
    return Reply(**made, finish="stop", where="reasoning", prompt_tokens=22, completion_tokens=tokens, seconds=took)


def _observed(engine: str, variant: str, base: bool, replies: list[Reply]) -> Observed:
    numbers = {"asked": len(replies), "thinking": think.kept(replies, Think()), "right": sum(bool(reply.right) for reply in replies)}
    sums = {"tokens": sum(reply.completion_tokens or 0 for reply in replies), "seconds": round(sum(reply.seconds for reply in replies), 2)}
    version = {"ollama": "0.33.0", "vllm": "0.32.0"}.get(engine, "")
    return Observed(engine=engine, variant=variant, base=base, model="demo", version=version, template="the checkpoint's", **numbers, **sums)


def _thought(engine: str, variant: str, replies: list[Reply]) -> Finding:
    good = think.kept(replies, Think())
    rules = [f"{reply.question} → {', '.join(broken)}" for reply in replies if (broken := think.broken_rules(reply, Think()))]
    evidence = {"kept": good, "asked": len(replies), "reasoning_in": ["reasoning"], "breaches": rules, "streams": []}
    message = f"{good} of {len(replies)} answers reason, then answer, reasoning in reasoning; streamed the same"
    status, remedy = ("pass", "") if good == len(replies) else ("fail", think.REMEDY)
    return Finding(name="think", engine=engine, variant=variant, status=status, message=message, remedy=remedy, evidence=evidence)


def _prompt(engine: str, variant: str, broken: bool) -> Finding:
    made: dict[str, Any] = {"name": "prompt", "engine": engine, "variant": variant}
    if broken and engine == "transformers":
        return Finding(
            **made, status="skip", required=False, message="no HF checkpoint was given to compare with", remedy="give one with --model-dir"
        )
    wrong = [
        {"conversation": "system prompt", "template": "<|im_start|>system\nAnswer in one sentence.<|im_end|>\n", "server": "### Instruction:\nAnswer"}
    ]
    differences = wrong if broken and engine == "ollama" else []
    return Finding(
        **made,
        status="fail" if differences else "pass",
        message=f"{len(CORPUS) - len(differences)} of {len(CORPUS)} prompts equal the HF chat template's, compared by text; the server used its own",
        remedy="serve with the template of modelfiles/ (the checkpoint's, the GGUF's and the Modelfile's derive from it)" if differences else "",
        evidence={"compared_by": "text", "conversations": list(CORPUS), "differences": differences},
    )
