"""Compare rows alone with the same rows in one sequence, on two random layers with a random adapter: `flat_losses.py BASE ROWS.jsonl`.

Prints the losses of the rows alone, of the flat sequence, and of the flat sequence if rows could see each other; the largest distance of a
hidden state and of a gradient, alone and flat.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "images" / "train"))

import completion_loss
import torch
import trl_engine
from batches import Flat, Padded, tokenized
from checkpoint import load_tokenizer

base, rows_file = Path(sys.argv[1]), Path(sys.argv[2])
if len(sys.argv) > 3:
    completion_loss.LOGITS_AT_ONCE = int(sys.argv[3])
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj", "down_proj"]}
TRAIN = {"quantization": "none", "lora": LORA, "processes": 1, "distributed": "ddp"}
tokenizer = load_tokenizer(base)
units = tokenized(rows_file, tokenizer, 2048)[:6]


def model_for(packing: str):
    torch.manual_seed(7)
    recipe = {"train": {**TRAIN, "packing": packing}, "think": {"add_tokens": True}, "max_length": 2048}
    model = trl_engine.adapted_model(base, tokenizer.convert_tokens_to_ids(["<think>", "</think>"]), recipe)
    for weight in (weight for weight in model.parameters() if weight.requires_grad):
        torch.nn.init.normal_(weight, std=0.2)
    return model


def hidden(model, batch):
    inputs = {name: value for name, value in batch.items() if name in ("input_ids", "attention_mask", "position_ids")}
    inputs |= {"row_lengths": batch["row_lengths"].tolist()} if "row_lengths" in batch else {}
    return model.get_base_model().model(**inputs, use_cache=False).last_hidden_state[0]


def loss_and_gradients(model, batches):
    completion_loss.replace_forward(model)
    total = sum(model(**{name: value for name, value in batch.items() if name != "rows"}) for batch in batches)
    total.backward()
    return float(total.detach()), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


single, flat = [Padded(0)([unit]) for unit in units], Flat()(units)
seeing = Padded(0)([{**units[0], "input_ids": flat["input_ids"][0].tolist(), "labels": flat["labels"][0].tolist()}])
alone_model, flat_model = model_for("none"), model_for("packed")
with torch.no_grad():
    states = torch.cat([hidden(alone_model, batch) for batch in single]), hidden(flat_model, flat)
(alone, alone_gradients), (together, gradients) = loss_and_gradients(alone_model, single), loss_and_gradients(flat_model, [flat])
distances = [float((alone_gradients[name] - gradients[name]).abs().max() / alone_gradients[name].abs().max()) for name in alone_gradients]
found = {"alone": alone, "flat": together, "seeing": loss_and_gradients(model_for("none"), [seeing])[0]}
found |= {"state": float((states[0] - states[1]).abs().max()), "gradient": max(distances), "gradients": len(distances)}
sys.stdout.write(json.dumps(found) + "\n")
