"""What quantising cost: each served variant is held against the 16-bit model on held-out text, within the recipe's limits (`fidelity`).

GGUF files are measured by the gguf stage (images/convert/check_gguf.py): Kullback-Leibler divergence, the same likeliest token, perplexity.
An engine that quantises while loading is asked, where it scores a given text (`echo`), how likely it finds the merged model's own answers to
held-out questions, token by token: the same model at another quantisation loses next to nothing, one of half the size 0.27 nats a token.
Both are measured on the task's own text, where a fine-tuned model is sure; on other text quantising may cost more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from toolkit.chat_template import ChatTemplate
from toolkit.engines.chat import Chat, Scored
from toolkit.errors import ThinkshipError
from toolkit.quality import breaches, is_limited
from toolkit.verify import Expectations, Finding, Probe
from toolkit.verify.identity import COARSE

TOP1, TOP1_COARSE = 0.95, 0.85
"""Least shares of the same likeliest token unless the recipe names others."""
GAP, GAP_COARSE = 0.02, 0.1
"""Largest mean losses in nats a token unless the recipe names others."""
REMEDY = "choose a quantisation with more bits, or change the recipe's limit knowingly"


def of_files(served: Iterable[tuple[str, str]], gguf: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield a finding for each (engine, variant) that serves a file of gguf.json."""
    for engine, kind in served:
        if kind == gguf.get("reference"):
            message = "this file is what the others are held against; identity holds it against the merged model"
            yield Finding(name="fidelity", engine=engine, variant=kind, status="skip", required=False, message=message)
        elif kind in gguf["types"]:
            yield _of_file(engine, kind, gguf)


FIGURES = (
    ("mean_kl", "KL {:.5f} nats a token"),
    ("p99_kl", "99 % of it below {:.4f}"),
    ("top1", "the likeliest token the same in {:.1%}"),
    ("perplexity_growth", "perplexity {:+.2%}"),
)
"""What is told of a file; a report of an older version may lack some."""


def _of_file(engine: str, kind: str, gguf: Mapping[str, Any]) -> Finding:
    seen, broken, limited = gguf["types"][kind], breaches(kind, gguf), is_limited(kind, gguf)
    told = ", ".join(words.format(seen[name]) for name, words in FIGURES if seen.get(name) is not None)
    message = f"{'; '.join(broken)}; {told}" if broken else told if limited else f"{told}; the recipe has no limit for {kind}"
    limits = {name: values[kind] for name, values in gguf.get("limits", {}).items() if kind in values}
    return Finding(
        name="fidelity",
        engine=engine,
        variant=kind,
        status="fail" if broken else "pass" if limited else "skip",
        required=limited,
        message=message,
        remedy=REMEDY if broken else "" if limited else f"state gguf.max_kl.{kind} and its like",
        evidence={name: value for name, value in seen.items() if isinstance(value, float)} | {"limits": limits},
    )


def check(chat: Chat, expectations: Expectations) -> Finding:
    """Have the server score the merged model's answers; skipped where it cannot."""
    name = chat.endpoint.engine
    if not expectations.probes or expectations.template is None:
        return expectations.skipped("fidelity", name, "no answers of the merged model were given to be scored")
    try:
        pairs = list(_scored(chat, expectations.probes, expectations.template))
    except ThinkshipError as error:
        return expectations.skipped("fidelity", name, f"the server does not score a given text: {error.message}")
    if not pairs:
        return expectations.skipped("fidelity", name, f"{name} does not score a given text")
    return _judged(name, pairs, expectations)


def _scored(chat: Chat, probes: Iterable[Probe], template: ChatTemplate) -> Iterator[tuple[float, Scored]]:
    """Yield the merged model's log-probability of each token with the server's word on it; ends with the first answer that is not scored."""
    for probe in probes:
        prompt = template.render([{"role": "user", "content": probe.question}])
        answer = "".join(token for token, _ in probe.wanted)
        # One more token follows the text. Tokens can be joined to others than they were said as: then the two cannot be compared.
        scored = chat.scored(prompt + answer)[: -1 or None]
        ours = scored[len(scored) - len(probe.wanted) :]
        if not ours or [token.text for token in ours] != [token for token, _ in probe.wanted]:
            return
        yield from zip((value for _, value in probe.wanted), ours, strict=True)


def _judged(name: str, pairs: list[tuple[float, Scored]], expectations: Expectations) -> Finding:
    top1 = sum(token.text == token.best for _, token in pairs) / len(pairs)
    gap = sum(merged - (token.logprob or 0.0) for merged, token in pairs) / len(pairs)
    coarse, variant, wanted = expectations.quantization in COARSE, expectations.quantization, expectations.fidelity
    least = wanted.top1.get(variant, TOP1_COARSE if coarse else TOP1)
    most = wanted.gap.get(variant, GAP_COARSE if coarse else GAP)
    passed = top1 >= least and gap <= most
    return expectations.finding(
        "fidelity",
        name,
        status="pass" if passed else "fail",
        message=f"{top1:.1%} of {len(pairs)} tokens of the merged model are likeliest here too, and lose {gap:+.4f} nats each",
        remedy="" if passed else REMEDY,
        evidence={"top1": round(top1, 4), "gap": round(gap, 5), "tokens": len(pairs), "least_top1": least, "most_gap": most},
    )
