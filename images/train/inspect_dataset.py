"""Looks at a dataset as the dataset stage would take it and refuses nothing but what cannot be read: inspection.json holds what a person should see.

Inputs: recipe_dir; a model to write the rows for, as `base` (base/model) or `model` (an HF checkpoint), the latter with `modelfiles` for
the family's template. Without a model, lengths are characters.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from audit import Audit, Kept, Rules, histogram, near_overlap, overlap, sort, unread
from dataset_files import brought
from duplicates import Near
from form import Characters, Form
from program import BROKEN, Args, ProgramError, note, run

UNITS = {"source": "training rows", "holdout": "held-out rows"}
LISTED = 8
"""Examples of duplicates and of overlap."""
EXCERPT = 600
"""Characters of a row that is shown as it is."""
HEAD, TAIL = 900, 250
"""Tokens of a long text that are shown, of its beginning and of its end."""
Piece = tuple[str, int | None]
ORIGINS = ("source", "domain", "difficulty")
"""Columns by which published data says where a row comes from."""


def main(args: Args) -> int:
    """Leave inspection.json."""
    wanted = brought(args)
    audits = {name: unread(wanted, name, args.inputs["recipe_dir"]) for name in ("source", "holdout") if wanted.get(name)}
    form = _form(args)
    for name, audit in audits.items():
        rules = Rules(wanted["max_length"], wanted["allow_no_reasoning"], name == "holdout")
        sort(audit, form, rules, UNITS[name])
    found: dict[str, Any] = {
        "schema": 1,
        "unit": "tokens" if isinstance(form, Form) else "characters",
        "max_length": wanted["max_length"],
        "limit": wanted["limit"],
        "parts": {name: _part(audit, wanted) for name, audit in audits.items()},
        "overlap": _overlap(audits["source"], audits["holdout"]) if len(audits) == 2 else None,
        "samples": [sample for name, audit in audits.items() for sample in _samples(audit, name, form, args.recipe["samples"])],
    }
    (args.output / "inspection.json").write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")
    note(", ".join(f"{part['kept']} of {part['read']} {UNITS[name]} can be used" for name, part in found["parts"].items()))
    return 0


def _form(args: Args) -> Form | Characters:
    model = args.inputs["base"] / "model" if "base" in args.inputs else args.inputs.get("model")
    if model is None:
        return Characters()
    from checkpoint import load_tokenizer
    from transformers import AddedToken

    tokenizer = load_tokenizer(model)
    if "modelfiles" in args.inputs:
        tokenizer.chat_template = (args.inputs["modelfiles"] / f"{args.recipe['family']}.chat.jinja").read_text(encoding="utf-8")
    if args.recipe["think"]["add_tokens"]:
        # as the base stage adds them; there are no weights here to go with them
        tokenizer.add_tokens([AddedToken(args.recipe["think"][side], normalized=False, special=False) for side in ("open", "close")])
    return Form.of(tokenizer, args.recipe["think"], model)


def _part(audit: Audit, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return what is to be seen of one source."""
    limit = wanted["max_length"]
    twins = audit.near_duplicates()
    return {
        **audit.summary(limit),
        "files": dict(Counter(row.place.rpartition(":")[0] for row in audit.rows).most_common(LISTED)),
        "origins": _origins(audit),
        "turns": dict(sorted(Counter(row.turns // 2 for row in audit.kept).items())),
        "histogram": histogram(audit.lengths, limit),
        "thinking": histogram([row.pair.thinking_tokens for row in audit.kept], None),
        "dropped": [_dropped(audit, reason, count) for reason, count in audit.dropped.most_common()],
        "duplicates": {"rows": len(audit.twins), "examples": [{"place": place, "first": first} for place, first in audit.twins[:LISTED]]},
        "near_duplicates": {"rows": len(twins), "examples": [_near(pair, audit.kept, audit.kept) for pair in twins[:LISTED]]},
    }


def _dropped(audit: Audit, reason: str, count: int) -> dict[str, Any]:
    rows = [{"place": row.place, "row": _excerpt(row.values)} for row in audit.examples[reason]]
    return {"reason": reason, "count": count, "examples": rows}


def _excerpt(values: dict[str, Any]) -> dict[str, str]:
    shown = {name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str) for name, value in values.items()}
    return {name: text if len(text) <= EXCERPT else f"{text[: EXCERPT // 2]} … {text[-EXCERPT // 2 :]}" for name, text in shown.items()}


def _origins(audit: Audit) -> dict[str, dict[str, int]]:
    """Count the values of the columns that say where a row comes from."""
    names = {name.casefold(): name for row in audit.rows[:100] for name in row.values}
    counts = {names[key]: Counter(str(row.values.get(names[key])) for row in audit.rows) for key in ORIGINS if key in names}
    return {name: dict(values.most_common(LISTED)) for name, values in counts.items() if len(values) < len(audit.rows) or len(values) == 1}


def _near(pair: Near, ones: list[Kept], others: list[Kept]) -> dict[str, Any]:
    one, other = ones[pair.one], others[pair.other]
    return {"place": one.place, "question": one.asked, "other_place": other.place, "other_question": other.asked, "share": pair.share}


def _overlap(trained: Audit, held_out: Audit) -> dict[str, Any]:
    exact, twins = overlap(trained, held_out), near_overlap(trained, held_out)
    return {
        "rows": len(exact),
        "examples": [{"place": row.place, "question": row.asked} for row in exact[:LISTED]],
        "near": {"rows": len(twins), "examples": [_near(pair, held_out.kept, trained.kept) for pair in twins[:LISTED]]},
    }


def _samples(audit: Audit, name: str, form: Form | Characters, wanted: int) -> Iterable[dict[str, Any]]:
    """Yield rows spread evenly over those that are kept, as the pieces of prompt, thinking and answer."""
    count = min(wanted, len(audit.kept))
    for row in (audit.kept[number * len(audit.kept) // count] for number in range(count)):
        pair = row.pair
        prompt, completion = _pieces(form, pair.prompt), _pieces(form, pair.completion)
        border = pair.thinking_tokens if isinstance(form, Form) else 1
        parts = {"prompt": prompt, "thinking": completion[:border], "answer": completion[border:]}
        lengths = {"prompt_tokens": pair.prompt_tokens, "thinking_tokens": pair.thinking_tokens, "completion_tokens": pair.completion_tokens}
        yield {"part": name, "place": row.place, "expected": pair.expected, **lengths, **{key: _cut(pieces) for key, pieces in parts.items()}}


def _pieces(form: Form | Characters, text: str) -> list[Piece]:
    """Return a text as (piece, token id): a character of several tokens stands with the first; a form without tokens has thinking and the rest."""
    if isinstance(form, Characters):
        thought, close, answer = text.rpartition(form.close)
        return [(part, None) for part in (thought + close, answer) if part]
    encoded = form.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    pieces: list[Piece] = []
    end = 0
    for token, (start, stop) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        pieces.append((text[max(start, end) : stop], token))
        end = max(end, stop)
    if "".join(piece for piece, _ in pieces) != text:
        raise ProgramError(f"the places of the tokens do not make up this text: {text[:80]!r}", "check base.family against the model", BROKEN)
    return pieces


def _cut(pieces: list[Piece]) -> list[Piece]:
    """Leave out the middle of a long text; so does a text without tokens, by its characters."""
    if len(pieces) > HEAD + TAIL:
        return [*pieces[:HEAD], (f" … {len(pieces) - HEAD - TAIL} tokens left out … ", None), *pieces[-TAIL:]]
    return [(text if len(text) <= 4 * (HEAD + TAIL) else f"{text[: 4 * HEAD]} … {text[-4 * TAIL :]}", token) for text, token in pieces]


if __name__ == "__main__":
    run(main)
