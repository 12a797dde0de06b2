"""A PEFT adapter, read strictly against its base: what becomes of each weight, and an error by name for whatever is not covered.

Covered: LoRA, rsLoRA and DoRA on linear layers (GPT-2's transposed ones too) and embeddings, experts' weights in one tensor or apart, ranks and
alphas by module, modules_to_save, trainable token rows, resized vocabularies. This file stands unchanged in each folder that merges, beside
adapter_delta.py and tensor_files.py, and needs program.py and torch alone; a test holds the copies equal.

    adapter = Adapter(Checkpoint(base_folder), adapter_folder)
    adapter.tensor("model.layers.0.mlp.up_proj.weight")   # merged, in 32 bits; None where the adapter leaves the weight alone
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from adapter_delta import Change, blocks
from program import INVALID, ProgramError
from tensor_files import Checkpoint, Weight, read_header

KNOWN = {
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "peft_version", "inference_mode", "runtime_config", "lora_dropout"),
    *("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out", "bias", "init_lora_weights"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters", "modules_to_save", "eva_config"),
    *("trainable_token_indices", "ensure_weight_tying", "qalora_group_size", "megatron_core"),
}
"""Settings of PEFT 0.21 that are read here or say nothing about the weights; any other that is set is refused."""
NEUTRAL_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways to start an adapter that leave the base as it is; the others (PiSSA, OLoRA, LoftQ, …) change it, and the adapter fits that base alone."""
PREFIX = "base_model.model."
PARTS = {
    **{".lora_A.weight": "A", ".lora_B.weight": "B", ".lora_embedding_A": "eA", ".lora_embedding_B": "eB", ".lora_B.bias": "bias"},
    **{".lora_magnitude_vector": "m", ".lora_magnitude_vector.weight": "m", ".token_adapter.trainable_tokens_delta": "rows"},
}
"""How the names of an adapter's tensors end; one that ends otherwise is a whole weight."""
SPLIT = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
"""transformers 5 holds the experts of a layer in one tensor, its checkpoints hold them apart."""
EMBEDDINGS, HEADS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight"), ("lm_head.weight", "embed_out.weight")
OTHER_BASE = "merge it with the base that it was trained on: base_model_name_or_path in adapter_config.json names it"
UNTIE = "train it again with ensure_weight_tying: true, or with neither embeddings nor output layer among its modules"
RETRAIN = "train again without it, or merge with the library that wrote the adapter"


class Adapter:
    """An adapter laid over its base; ProgramError (3) where they do not belong together or something is not covered."""

    def __init__(self, base: Checkpoint, folder: Path) -> None:
        self.base, self.config = base, read_config(folder)
        self.tied = bool(json.loads((base.folder / "config.json").read_text(encoding="utf-8")).get("tie_word_embeddings"))
        self.sources: dict[str, Weight] = {}
        """Whole weights that the adapter brings, by the base's names."""
        self.changes: dict[str, Change] = {}
        """What becomes of the base's weights; those not named here stay as they are."""
        weights = folder / "adapter_model.safetensors"
        if not weights.is_file():
            raise ProgramError(f"the adapter has no {weights.name}", "save it again in safetensors' format", INVALID)
        self.modules: dict[str, dict[str, Weight]] = {}
        whole: dict[str, Weight] = {}
        for name, weight in read_header(weights)[0].items():
            ending = next((ending for ending in PARTS if name.endswith(ending)), None)
            if ending:
                self.modules.setdefault(name.removesuffix(ending).removeprefix(PREFIX), {})[PARTS[ending]] = weight
            else:
                whole[name.removeprefix(PREFIX).replace(".base_layer.", ".")] = weight
        self._bring(whole)
        self._plan()
        self._follow_tie()

    def tensor(self, name: str) -> torch.Tensor | None:
        """Return a weight as the adapter makes it, in 32 bits; None where it leaves it alone. All of it is in memory at once."""
        change = self.changes.get(name)
        if change is None:
            return None
        loaded, found = change.load(), torch.empty(change.source.rows, change.source.columns)
        for first, last in blocks(change.source):
            found[first:last] = change.source.read(first, last)
            loaded.apply(found[first:last], first)
        return found.view(change.source.shape)

    @property
    def vocabulary(self) -> int | None:
        """Rows of the embeddings, where the adapter brings other ones than the base's."""
        sizes = {weight.shape[0] for name, weight in self.sources.items() if name.endswith(EMBEDDINGS + HEADS)}
        known = {self.base.weights[name].shape[0] for name in self.sources if name.endswith(EMBEDDINGS + HEADS)}
        return next(iter(sizes)) if sizes != known else None

    def _own(self, name: str) -> str | None:
        """Return the base's name of a weight: checkpoints leave the model's own prefix out, or have one that the module lacks."""
        names = (name, name.partition(".")[2], f"model.{name}")
        return next((one for one in names if one in self.base.weights), None)

    def _bring(self, whole: dict[str, Weight]) -> None:
        """Take over whole weights (modules_to_save, resized embeddings)."""
        later = []
        for name, weight in whole.items():
            own = self._own(name)
            if own:
                _same_shape(name, weight.shape, self.base.weights[own].shape, rows_may_differ=name.endswith(EMBEDDINGS + HEADS))
                self.sources[own] = weight
            else:
                later.append((name, weight))
        for name, weight in later:
            table = next((one for own, one in self.sources.items() if own.endswith(EMBEDDINGS)), None)
            if not (self.tied and name.endswith(HEADS)):
                raise ProgramError(f"the adapter brings {name}, and the base has no such weight", OTHER_BASE, INVALID)
            if table is None or table.shape != weight.shape or not torch.equal(table.read(), weight.read()):
                raise ProgramError(f"the adapter brings {name} other than the embeddings, and the base ties the two", UNTIE, INVALID)
        self._hold_vocabulary()
        if self.tied and not any(name.endswith(HEADS) for name in whole) and any(name.endswith(EMBEDDINGS) for name in self.sources):
            self._require_tie("the embeddings")
        self.changes |= {own: Change(weight) for own, weight in self.sources.items()}

    def _hold_vocabulary(self) -> None:
        tables = {name: self.sources.get(name, weight) for name, weight in self.base.weights.items() if name.endswith(EMBEDDINGS + HEADS)}
        if self.sources and len({weight.shape[0] for weight in tables.values()}) > 1:
            seen = ", ".join(f"{name} {weight.shape[0]}" for name, weight in tables.items())
            raise ProgramError(f"the vocabularies of adapter and base differ: {seen} rows", OTHER_BASE, INVALID)

    def _require_tie(self, what: str) -> None:
        if not self.config.get("ensure_weight_tying"):
            message = f"the adapter trained {what} apart from what the base ties them to, and one tensor cannot hold both"
            raise ProgramError(message, UNTIE, INVALID)

    def _plan(self) -> None:
        experts: dict[str, list[dict[str, Weight]]] = {}
        for module, parts in self.modules.items():
            place = re.sub(r"(\.base_layer)+$", "", module)
            own = self._own(f"{place}.weight")
            if "bias" in parts:
                raise ProgramError(f"the adapter trained a bias of its own: {parts['bias'].name} (lora_bias)", RETRAIN, INVALID)
            if own:
                self._add(own, self._linear(place, own, parts) if "rows" not in parts else self._rows(place, own, parts))
            elif self.config.get("target_parameters"):
                experts.setdefault(place, []).append(parts)
            elif not self._tied_head(place, parts):
                raise ProgramError(f"the adapter changes {place}, and the base has no such weight", OTHER_BASE, INVALID)
        for place, several in experts.items():
            for own, change in self._experts(place, several):
                self._add(own, change)

    def _add(self, own: str, change: Change) -> None:
        if (own in self.changes and self.changes[own].a) or (change.rows and own in self.sources):
            raise ProgramError(f"the adapter changes {own} in two ways at once", RETRAIN, INVALID)
        self.changes[own] = change

    def _source(self, own: str) -> Weight:
        return self.sources.get(own, self.base.weights[own])

    def _tied_head(self, place: str, parts: dict[str, Weight]) -> bool:
        """Say whether these are the embeddings' own factors under the name of the output layer, as ensure_weight_tying leaves them."""
        if not (self.tied and f"{place}.weight".endswith(HEADS)):
            return False
        self._require_tie(place)
        table = next((one for module, one in self.modules.items() if f"{module}.weight".endswith(EMBEDDINGS)), {})
        pairs = [(table.get(one), parts.get(other)) for one, other in (("eB", "A"), ("eA", "B"))]
        return all(one and other and torch.equal(one.tensor().T, other.tensor()) for one, other in pairs)

    def _scale(self, key: str, rank: int) -> float:
        """Return alpha / rank of a module, or alpha / sqrt(rank); ProgramError (3) where its tensors have another rank."""
        wanted, alpha = (_by_pattern(self.config.get(name) or {}, key, self.config[single]) for name, single in PATTERNS)
        if not wanted or wanted != rank:
            raise ProgramError(f"{key}: adapter_config.json says rank {wanted}, and the adapter's tensors have {rank}", OTHER_BASE, INVALID)
        return float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _linear(self, place: str, own: str, parts: dict[str, Weight]) -> Change:
        source, embedding = self._source(own), "eA" in parts or "eB" in parts
        a, b = (_part(place, parts, name) for name in (("eA", "eB") if embedding else ("A", "B")))
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
            raise ProgramError(f"{place}: factors of {list(a.shape)} and {list(b.shape)} are no pair of matrices", RETRAIN, INVALID)
        if embedding and self.tied:
            self._require_tie(place)
        wide = (b.shape[0], a.shape[1])
        # where both ways fit the shape, the config tells (PEFT notes there which kind of layer it met)
        transposed = embedding or (wide[::-1] == source.shape and (wide != source.shape or bool(self.config.get("fan_in_fan_out"))))
        _same_shape(place, wide[::-1] if transposed else wide, source.shape)
        if bool(self.config.get("use_dora")) != ("m" in parts):
            raise ProgramError(f"{place}: use_dora and the adapter's magnitudes do not agree", RETRAIN, INVALID)
        if "m" in parts and parts["m"].size != wide[0] * parts["m"].dtype.itemsize:
            raise ProgramError(f"{place}: {list(parts['m'].shape)} magnitudes for {wide[0]} outputs", OTHER_BASE, INVALID)
        return Change(source, self._scale(place, a.shape[0]), a, b, transposed, parts.get("m"))

    def _rows(self, place: str, own: str, parts: dict[str, Weight]) -> Change:
        given = self.config.get("trainable_token_indices") or {}
        named = given if isinstance(given, dict) else {"embed_tokens": given}
        indices = next((tuple(rows) for name, rows in named.items() if place == name or place.endswith(f".{name}")), ())
        source, rows = self._source(own), parts["rows"]
        if rows.shape != (len(indices), source.columns) or len(set(indices)) < len(indices) or max(indices, default=0) >= source.rows:
            message = (
                f"{place}: {list(rows.shape)} trained rows for {len(indices)} tokens up to {max(indices, default=0)} do not fit {list(source.shape)}"
            )
            raise ProgramError(message, OTHER_BASE, INVALID)
        if len(parts) > 1:
            raise ProgramError(f"the adapter changes {place} in two ways at once", RETRAIN, INVALID)
        return Change(source, rows=rows, indices=indices)

    def _experts(self, place: str, several: list[dict[str, Weight]]) -> Iterator[tuple[str, Change]]:
        """Yield the changes of a layer's experts. Which factors belong to which tensor is not named in the file: their shapes must tell."""
        targets = [(target, target.rpartition(".")[2]) for target in self.config["target_parameters"]]
        names = [name for target, name in targets if f".{place}.{name}".endswith(f".{target}")]
        shapes = {name: shape for name in dict.fromkeys(names) if (shape := self._expert_shape(place, name))}
        fits = []
        for chosen in itertools.permutations(shapes, len(several)):
            for transposed in (False, True):
                if all(_expert_fits(parts, shapes[name], transposed) for parts, name in zip(several, chosen, strict=True)):
                    fits.append((chosen, transposed))
        if len(fits) != 1:
            found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "no such weights"
            message = f"{place}: {'more than one way' if fits else 'no way'} to lay the adapter over the experts ({found})"
            raise ProgramError(message, OTHER_BASE if not fits else RETRAIN, INVALID)
        (chosen, transposed), *_ = fits
        for parts, name in zip(several, chosen, strict=True):
            count = shapes[name][0]
            scale = self._scale(f"{place}.{name}", parts["A"].shape[0] // count)
            made = {"scale": scale, "a": parts["A"], "b": parts["B"], "transposed": transposed, "experts": count}
            yield from self._expert_weights(place, name, made)

    def _expert_shape(self, place: str, name: str) -> tuple[int, ...] | None:
        """Return experts, rows and columns of a layer's weight, be it one tensor or one for each expert."""
        own = self._own(f"{place}.{name}")
        if own:
            return self._source(own).shape if len(self._source(own).shape) == 3 else None
        apart = [self._own(f"{place}.0.{part}.weight") for part in SPLIT.get(name, ())]
        if not apart or not all(apart):
            return None
        count = next(number for number in itertools.count() if not self._own(f"{place}.{number}.{SPLIT[name][0]}.weight"))
        first = self.base.weights[str(apart[0])]
        return count, sum(self.base.weights[str(one)].rows for one in apart), first.columns

    def _expert_weights(self, place: str, name: str, made: dict[str, Any]) -> Iterator[tuple[str, Change]]:
        own = self._own(f"{place}.{name}")
        if own:
            yield own, Change(self._source(own), **made)
            return
        if made["transposed"]:
            raise ProgramError(f"{place}.{name}: experts that the base holds apart, and the adapter the other way round", RETRAIN, INVALID)
        for number in range(made["experts"]):
            row = 0
            for part in SPLIT[name]:
                own = str(self._own(f"{place}.{number}.{part}.weight"))
                weight = self._source(own)
                yield own, Change(weight, **made, part=(number, row, row + weight.rows))
                row += weight.rows

    def _follow_tie(self) -> None:
        """Change the output layer as the embeddings, where the base ties the two and stores both."""
        tables = [name for name in self.changes if name.endswith(EMBEDDINGS)]
        heads = [name for name in self.base.weights if name.endswith(HEADS)]
        if self.tied and tables and heads and heads[0] not in self.changes:
            change = self.changes[tables[0]]
            self.changes[heads[0]] = change if tables[0] in self.sources else replace(change, source=self.base.weights[heads[0]])


PATTERNS = (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha"))


def read_config(folder: Path) -> dict[str, Any]:
    """Return adapter_config.json; ProgramError (3) names what is set and not covered."""
    try:
        config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProgramError(f"the adapter's adapter_config.json cannot be read: {error}", "save the adapter again", INVALID) from error
    problems = [f"{name}: {value!r}" for name, value in config.items() if name not in KNOWN and value]
    problems += [f"peft_type: {config.get('peft_type')!r}"] if config.get("peft_type") != "LORA" else []
    problems += [f"bias: {config['bias']!r}"] if config.get("bias", "none") != "none" else []
    problems += [f"init_lora_weights: {config['init_lora_weights']!r}"] if config.get("init_lora_weights", True) not in NEUTRAL_INITS else []
    if problems:
        raise ProgramError(f"the adapter uses what is not merged here: {', '.join(problems)}", RETRAIN, INVALID)
    if not all(isinstance(config.get(key), int | float) for key in ("r", "lora_alpha")):
        raise ProgramError("the adapter's adapter_config.json lacks r or lora_alpha", "save the adapter again", INVALID)
    return config


def _by_pattern(pattern: dict[str, Any], key: str, single: Any) -> Any:
    """Return what a pattern says of a module, as PEFT's get_pattern_key finds it."""
    return next((value for name, value in pattern.items() if re.match(rf"(.*\.)?({name})$", key)), single)


def _part(place: str, parts: dict[str, Weight], name: str) -> Weight:
    if name not in parts:
        raise ProgramError(f"{place}: the adapter holds {', '.join(sorted(parts))} and no {name}", "save the adapter again", INVALID)
    return parts[name]


def _same_shape(name: str, trained: tuple[int, ...], base: tuple[int, ...], rows_may_differ: bool = False) -> None:
    if trained != base and not (rows_may_differ and trained[1:] == base[1:]):
        raise ProgramError(f"{name}: the adapter was trained on {list(trained)}, the base has {list(base)}", OTHER_BASE, INVALID)


def _expert_fits(parts: dict[str, Weight], shape: tuple[int, ...], transposed: bool) -> bool:
    if parts.keys() != {"A", "B"}:
        return False
    a, b = parts["A"].shape, parts["B"].shape
    return a[0] == b[1] and a[0] % shape[0] == 0 and (b[0], a[1]) == (shape[1:][::-1] if transposed else shape[1:])
