"""Make adapters that are good, broken and of other bases, import each in one process, and print what became of them as JSON.

`adapters.py BASE FOLDER`, in the training environment; BASE is a base step's directory of two random layers.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "images" / "train"))

import torch
from import_adapter import main
from peft import LoraConfig, get_peft_model
from program import Args, ProgramError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

BASE, FOLDER = map(Path, sys.argv[1:])
THINK = {"open": "<think>", "close": "</think>", "add_tokens": False}
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
EMBEDDINGS = "base_model.model.model.embed_tokens.weight"
MADE: dict[str, Callable[[Path], None]] = {}
"""What is done to a copy of the good adapter, by the case's name."""


def case(change: Callable[[Path], None]) -> Callable[[Path], None]:
    MADE[change.__name__] = change
    return change


def adapter(folder: Path, spread: float = 0.02, **wanted: Any) -> None:
    """Save an adapter as PEFT does, with weights as if it had been trained."""
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM", **wanted}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(BASE / "model"), LoraConfig(**settings))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=spread)
    model.save_pretrained(folder)


@contextmanager
def edited(path: Path) -> Iterator[dict[str, Any]]:
    value = json.loads(path.read_text())
    yield value
    path.write_text(json.dumps(value))


@contextmanager
def tensors(folder: Path) -> Iterator[dict[str, torch.Tensor]]:
    found = load_file(folder / WEIGHTS)
    yield found
    save_file(found, folder / WEIGHTS)


def tokens(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE / "model" / name, folder)


@case
def good(folder: Path) -> None:
    tokens(folder)
    shutil.copy(BASE / "model" / "chat_template.jinja", folder)
    (folder / "README.md").write_text("---\nlibrary_name: peft\ntags:\n- base_model:adapter:x\n- llama-factory\n- lora\n---\n# sums\n")
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": [{"loss": 2.0, "step": 1}, {"train_runtime": 3.0, "step": 1}]}))


@case
def of_axolotl(folder: Path) -> None:
    (folder / "README.md").write_text("---\ntags:\n- axolotl\n---\n<details>\n\naxolotl version: `0.19.0`\n```yaml\n")


@case
def of_swift(folder: Path) -> None:
    (folder / "args.json").write_text('{"swift_version": "4.6.0"}')


@case
def dora(folder: Path) -> None:
    shutil.rmtree(folder)
    adapter(folder, use_dora=True, modules_to_save=[], rank_pattern={"up_proj": 2})


@case
def strong(folder: Path) -> None:
    shutil.rmtree(folder)
    adapter(folder, spread=0.3, rank_pattern={"up_proj": 2})


@case
def strong_elsewhere(folder: Path) -> None:
    shutil.rmtree(folder)
    adapter(folder, spread=0.3, target_modules=["v_proj", "down_proj"])


@case
def rank_stabilized(folder: Path) -> None:
    shutil.rmtree(folder)
    adapter(folder, use_rslora=True)


@case
def trained_tags(folder: Path) -> None:
    shutil.rmtree(folder)
    adapter(folder, trainable_token_indices={"embed_tokens": [262, 263]})


@case
def whole_embeddings_saved(folder: Path) -> None:
    with tensors(folder) as found:
        found[EMBEDDINGS] = AutoModelForCausalLM.from_pretrained(BASE / "model").get_input_embeddings().weight.detach().clone()


@case
def not_a_folder_of_peft(folder: Path) -> None:
    (folder / "checkpoint-7").mkdir()
    (folder / CONFIG).rename(folder / "checkpoint-7" / CONFIG)


@case
def config_cut_off(folder: Path) -> None:
    (folder / CONFIG).write_text('{"r": 4,')


@case
def other_kind(folder: Path) -> None:
    with edited(folder / CONFIG) as config:
        config["peft_type"] = "LOKR"


@case
def rank_zero(folder: Path) -> None:
    with edited(folder / CONFIG) as config:
        config["r"] = 0


@case
def pissa(folder: Path) -> None:
    with edited(folder / CONFIG) as config:
        config["init_lora_weights"] = "pissa_niter_16"


@case
def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


@case
def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


@case
def pickled_and_allowed(folder: Path) -> None:
    pickled(folder)


class Wicked:
    """Writes a file where it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.write_text, (FOLDER / "was-run", "x"))


@case
def cut_off_pickle_allowed(folder: Path) -> None:
    pickled(folder)
    path = folder / "adapter_model.bin"
    path.write_bytes(path.read_bytes()[:-300])


@case
def wicked_pickle_allowed(folder: Path) -> None:
    torch.save({"x": Wicked()}, folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


@case
def cut_off(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-100])


@case
def pointer(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@case
def header_of_noise(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 8) + b"\xff" * 40)


@case
def other_width(folder: Path) -> None:
    with tensors(folder) as found:
        found[Q] = torch.ones(4, 320)


@case
def other_rank(folder: Path) -> None:
    with edited(folder / CONFIG) as config:
        config["r"] = 8


@case
def ungathered(folder: Path) -> None:
    with tensors(folder) as found:
        found[Q] = torch.ones(0)


@case
def more_layers(folder: Path) -> None:
    with tensors(folder) as found:
        found[Q.replace("layers.0", "layers.2")] = found[Q].clone()


@case
def fewer_layers(folder: Path) -> None:
    with tensors(folder) as found:
        del found[Q]


@case
def unknown_module(folder: Path) -> None:
    with edited(folder / CONFIG) as config:
        config["target_modules"] = ["q_proj", "c_attn"]


@case
def resized(folder: Path) -> None:
    with tensors(folder) as found:
        found[EMBEDDINGS] = torch.ones(300, 256)


@case
def tied_layer_saved(folder: Path) -> None:
    with edited(folder / CONFIG) as config:
        config["modules_to_save"] = ["embed_tokens"]


@case
def not_a_number(folder: Path) -> None:
    with tensors(folder) as found:
        found[Q][1, 2] = float("inf")


@case
def untrained(folder: Path) -> None:
    with tensors(folder) as found:
        for name in found:
            found[name] *= "lora_B" not in name


def token(folder: Path, content: str, **settings: Any) -> None:
    tokens(folder)
    with edited(folder / "tokenizer.json") as told:
        told["added_tokens"].append({**told["added_tokens"][-1], "content": content, "id": 1 + max(entry["id"] for entry in told["added_tokens"])})
    with edited(folder / "tokenizer_config.json") as config:
        config |= settings


@case
def added_token(folder: Path) -> None:
    token(folder, "<tool>")


@case
def added_padding(folder: Path) -> None:
    token(folder, "<|pad|>", pad_token="<|pad|>")


@case
def lacking_tags(folder: Path) -> None:
    tokens(folder)
    with edited(folder / "tokenizer.json") as told:
        told["added_tokens"] = [entry for entry in told["added_tokens"] if "think" not in entry["content"]]


@case
def other_template(folder: Path) -> None:
    tokens(folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}\x1b[2J{% endfor %}")


@case
def broken_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('tools only') }}")


@case
def mute(folder: Path) -> None:
    """Nothing is wrong with this one but its base."""


@case
def mute_no_more(folder: Path) -> None:
    trained_tags(folder)


def mute_base(folder: Path) -> Path:
    """Return the base with the rows of its tags as the base step makes them where it adds tags: the means of their pieces' rows."""
    shutil.copytree(BASE, folder)
    weights = load_file(folder / "model" / "model.safetensors")
    rows = weights["model.embed_tokens.weight"]
    pieces = [3 + number for number in b"</think>"]  # a token a byte
    rows[262 + 1] = rows[pieces].float().mean(0).to(rows.dtype)
    save_file(weights, folder / "model" / "model.safetensors", {"format": "pt"})
    return folder


def imported(name: str, folder: Path) -> dict[str, Any]:
    """Import an adapter and return its facts or its error."""
    output, scratch = FOLDER / f"{name}-output", FOLDER / f"{name}-scratch"
    output.mkdir()
    scratch.mkdir()
    wanted = {"source": {"path": folder.name}, "allow_pickle": name.endswith("allowed")}
    base = FOLDER / "base-of-the-mute" if name.startswith("mute") else BASE
    args = Args({"base": base, "recipe_dir": FOLDER}, output, scratch, {"adapter": wanted, "think": THINK})
    try:
        main(args)
    except ProgramError as error:
        return {"message": error.message, "remedy": error.remedy, "code": error.code}
    return json.loads((output / "train.json").read_text())["trained_elsewhere"]


FOLDER.mkdir(parents=True)
adapter(FOLDER / "plain")
for name, change in MADE.items():
    shutil.copytree(FOLDER / "plain", FOLDER / name)
    change(FOLDER / name)
sys.stdout.flush()
mute_base(FOLDER / "base-of-the-mute")
results = {name: imported(name, FOLDER / name) for name in MADE}
(FOLDER / "results.json").write_text(json.dumps(results, indent=1))
