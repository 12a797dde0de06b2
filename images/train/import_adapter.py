"""Stage train for an adapter that was trained elsewhere: held strictly against this base, and left as the trainer of this room would leave it.

What its trainer does not tell is not made up: there is no loss curve unless its folder holds one, and train.json says that it was trained
elsewhere. Not covered: adapters that add tokens or change the base's own weights; both are refused.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from adapter_folder import CONFIG, WEIGHTS, Adapter, header, losses, read, shown, trainer
from adapter_vocabulary import check_template, check_tokens
from hub import bring
from program import Args, ProgramError, note, run
from sources import sha256


def main(args: Args) -> int:
    """Leave adapter/, metrics.jsonl and train.json."""
    wanted, base = args.recipe["adapter"], args.inputs["base"] / "model"
    folder, origin = _fetched(args)
    adapter = read(folder, wanted["allow_pickle"])
    if adapter.weights.name == WEIGHTS:
        header(adapter.weights)
    remarks = check_tokens(folder, base)
    import adapter_tags  # loads torch, which no bad folder need wait for
    import adapter_weights
    from checkpoint import load_tokenizer, share
    from form import Form

    target = args.output / "adapter"
    target.mkdir()
    weights = adapter_weights.safe_weights(adapter, target)
    parameters = adapter_weights.check_shapes(adapter, weights, base)
    adapter_weights.check_values(weights)
    adapter_tags.check_closing_tag(adapter, header(weights), base, args.recipe["think"])
    remarks += check_template(folder, Form.of(load_tokenizer(base), args.recipe["think"], base))
    facts = json.loads((args.inputs["base"] / "base.json").read_text(encoding="utf-8"))
    remarks += _other_base(adapter, facts["source"])
    if weights.parent != target:
        shutil.copyfile(weights, target / WEIGHTS)
    _write(target / CONFIG, {**adapter.config, "base_model_name_or_path": facts["source"], "inference_mode": True})
    share(target)
    told = losses(folder)
    (args.output / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told), encoding="utf-8")
    made = {**_summary(adapter, origin), "trainable_parameters": parameters, "sha256": sha256(target / WEIGHTS)}
    _write(args.output / "train.json", {"base": facts, "trained_elsewhere": {**made, "losses_told": len(told), "remarks": remarks}})
    note(f"trained elsewhere, by {_by(made['trainer'])}: rank {made['rank']}, {parameters / 1e6:.1f} M parameters")
    for remark in remarks:
        note(remark)
    return 0


def _fetched(args: Args) -> tuple[Path, dict[str, str]]:
    """Return the adapter's folder on this disk and what is known of its origin."""
    source = args.recipe["adapter"]["source"]
    if "path" not in source:
        site = "hub" if "hub" in source else "modelscope"
        folder = bring(source, "models", args.recipe["files"]["source"], args, "adapter")
        return folder, {"source": f"{site}:{source[site]}", "revision": source["revision"]}
    folder = args.inputs["recipe_dir"] / source["path"]
    if not folder.is_dir():
        raise ProgramError(f"adapter.source.path: {folder} is no folder", "name the folder that holds adapter_config.json")
    return folder, {"source": f"path:{folder.name}"}


def _other_base(adapter: Adapter, source: str) -> list[str]:
    """Return a remark where the adapter names another base; paths and mirrors differ everywhere, and the shapes were compared."""
    named = str(adapter.config.get("base_model_name_or_path") or "")
    if not named or source.partition(":")[2].partition("==")[0] == named:
        return []
    return [f"its config names the base {shown(named)}, this recipe's is {source}: the shapes are the same, the weights may not be"]


def _summary(adapter: Adapter, origin: dict[str, str]) -> dict[str, Any]:
    config = adapter.config
    targets = config.get("target_modules") or config.get("target_parameters")
    kind = "DoRA" if config.get("use_dora") else "rsLoRA" if config.get("use_rslora") else "LoRA"
    return {
        **origin,
        "trainer": trainer(adapter.folder, config),
        "kind": kind,
        "rank": config["r"],
        "alpha": config.get("lora_alpha"),
        "target_modules": sorted(targets) if isinstance(targets, list) else targets,
        "base_named": config.get("base_model_name_or_path"),
        "pickle": adapter.weights.name != WEIGHTS,
    }


def _by(made_by: dict[str, str | None]) -> str:
    name = " ".join(filter(None, (made_by["name"], made_by["version"]))) or "a trainer that its files do not name"
    return f"{name} (PEFT {made_by['peft']})" if made_by["peft"] else name


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
