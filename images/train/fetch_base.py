"""Stage base: a pinned source becomes a checkpoint whose think tags, end tokens, chat template and sampling defaults are consistent.

Not covered: models with code of their own (trust_remote_code) and pickled weights; both are refused.
"""

from __future__ import annotations

import json

from program import Args, run
from sources import fetch


def main(args: Args) -> int:
    """Leave model/ and base.json."""
    base = args.recipe["base"]
    template = (args.inputs["modelfiles"] / f"{base['family']}.chat.jinja").read_text(encoding="utf-8")
    fetched = fetch(args)
    from base_checkpoint import check_checkpoint, write_checkpoint, write_generation_config  # loads torch, which no bad source need wait for

    model = args.output / "model"
    write_checkpoint(fetched, model, base["think"])
    (model / "chat_template.jinja").write_text(template, encoding="utf-8")
    write_generation_config(model, args.recipe["sampling"])
    facts = {**fetched.facts, "family": base["family"], **check_checkpoint(model, base["think"], template)}
    (args.output / "base.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    run(main)
