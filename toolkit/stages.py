"""One row a stage: where it runs, which program, what it takes, its slice of the recipe and the room it needs on the disk."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from toolkit.adapter import Adapter
from toolkit.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
IMAGES, MODELFILES = ROOT / "images", ROOT / "modelfiles"

IMPORT = re.compile(r"^[ \t]*(from[ \t]+[\w.]+[ \t]+import[ \t]+(?:\([^)]*\)|[^\n(#]*)|import[ \t]+[\w., \t]+)", re.MULTILINE)
"""An import statement on a line of its own."""


@dataclass(frozen=True)
class Stage:
    """What the pipeline must know of a stage before it runs one of its steps."""

    name: str
    program: str
    """Path below the repository: images/<environment>/<program>.py, or a module of toolkit/ that runs in the host process."""
    slice: Callable[[Recipe], dict[str, Any]]
    """The part of the recipe that the stage sees and that its id covers."""
    network: bool = False
    disk: float = 1.0
    """Free bytes wanted on the store's disk, as a multiple of the stage's inputs."""
    lock: Callable[[Mapping[str, Any]], str] = lambda _: "requirements.lock"
    """Which lock of its environment's folder a step with this slice of the recipe runs with."""

    @property
    def environment(self) -> str | None:
        """Folder under images/ whose environment runs it, None for the host."""
        parts = Path(self.program).parts
        return parts[1] if parts[0] == "images" else None

    def online(self, recipe: Mapping[str, Any]) -> bool:
        """Say whether a step with this slice of the recipe may reach the network."""
        return self.network or bool(recipe.get("train", {}).get("network"))

    @property
    def digest(self) -> str:
        """SHA-256 over the program, the local modules it imports and the lock of its environment."""
        return _digest_of(self.program, self.environment)


def _base(recipe: Recipe) -> dict[str, Any]:
    return {"base": recipe.base.model_dump(mode="json"), "sampling": dict(recipe.serve.sampling), "seed": recipe.seed}


def _dataset(recipe: Recipe) -> dict[str, Any]:
    return {"dataset": recipe.dataset.model_dump(mode="json"), "think": recipe.base.think.model_dump(), "seed": recipe.seed}


def _train(recipe: Recipe) -> dict[str, Any]:
    assert recipe.train
    shared = {"think": recipe.base.think.model_dump(), "max_length": recipe.dataset.max_length, "seed": recipe.seed}
    return {"train": recipe.train.model_dump(mode="json"), **shared}


def _adapter(recipe: Recipe) -> dict[str, Any]:
    assert recipe.adapter
    return imported(recipe, recipe.adapter)


def imported(recipe: Recipe, adapter: Adapter) -> dict[str, Any]:
    """Return what the import of an adapter is told of it: the recipe's own, or one of serve.adapters."""
    return {"adapter": adapter.model_dump(mode="json", exclude={"name"}), "think": recipe.base.think.model_dump()}


def _train_lock(recipe: Mapping[str, Any]) -> str:
    """Unsloth stops at other versions of trl and datasets than ours; trackers bring 40 packages (179 MB), which a training without them is spared."""
    wanted = recipe["train"]
    return "unsloth.lock" if wanted["engine"] == "unsloth" else "tracking.lock" if wanted["track"] else "requirements.lock"


def _merge(recipe: Recipe) -> dict[str, Any]:
    return {
        "merge": recipe.merge.model_dump(),
        "quantization": recipe.train.quantization if recipe.train else "none",  # of an adapter's training elsewhere nothing is known
        "think": recipe.base.think.model_dump(),
        "seed": recipe.seed,
    }


def _reference(recipe: Recipe) -> dict[str, Any]:
    return {"dtype": recipe.merge.dtype, "think": recipe.base.think.model_dump(), "seed": recipe.seed}


def _gguf(recipe: Recipe) -> dict[str, Any]:
    dtype = {"dtype": recipe.merge.dtype} if recipe.gguf.source == "one_pass" else {}
    return {"gguf": recipe.gguf.model_dump(mode="json"), **dtype}


def _lora(recipe: Recipe) -> dict[str, Any]:
    return {}


def _compress(recipe: Recipe) -> dict[str, Any]:
    return {"compress": recipe.compress.model_dump(mode="json"), "think": recipe.base.think.model_dump()}


def _compress_lock(recipe: Mapping[str, Any]) -> str:
    """llm-compressor and its quantisation libraries are for those alone who ask for what it makes."""
    return "requirements.lock" if recipe.get("format") == "bnb-nf4-stored" else "compress.lock"


def _modelfile(recipe: Recipe) -> dict[str, Any]:
    return {"modelfile": recipe.modelfile.model_dump(), "family": recipe.base.family, "context": recipe.serve.context}


def _serve(recipe: Recipe) -> dict[str, Any]:
    shared = {"family": recipe.base.family, "think": recipe.base.think.model_dump(), "seed": recipe.seed}
    shared |= {"modelfile": recipe.modelfile.model_dump(include={"answer_tokens", "parameters"})}
    return {"serve": recipe.serve.model_dump(mode="json", exclude={"engines", "adapters"}), "verify": recipe.verify.model_dump(mode="json"), **shared}


def _verify(recipe: Recipe) -> dict[str, Any]:
    return {"name": recipe.name, "description": recipe.description, "verify": recipe.verify.model_dump(mode="json")}


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("base", "images/train/fetch_base.py", _base, network=True),
        Stage("dataset", "images/train/prepare_dataset.py", _dataset, network=True),
        Stage("train", "images/train/train.py", _train, disk=0.5, lock=_train_lock),
        Stage("merge", "images/train/merge.py", _merge),
        Stage("reference", "images/train/reference.py", _reference, disk=0.01),
        Stage("compress", "images/train/compress.py", _compress, lock=_compress_lock),
        Stage("gguf", "images/convert/to_gguf.py", _gguf, disk=2.5),
        Stage("lora", "images/convert/lora_to_gguf.py", _lora),
        Stage("modelfile", "toolkit/render.py", _modelfile),
        Stage("serve", "toolkit/verify/observe.py", _serve),
        Stage("verify", "toolkit/verify/judge.py", _verify),
    )
}
"""The stages in the order in which the data passes through them."""


IMPORTED = Stage("train", "images/train/import_adapter.py", _adapter, network=True)
"""What stands in the place of training where the recipe names an adapter that was trained elsewhere; what follows it sees no difference."""


def stages(recipe: Recipe) -> dict[str, Stage]:
    """Return the stages of one recipe by their names."""
    return {**STAGES, "train": IMPORTED} if recipe.adapter else STAGES


@cache
def _digest_of(program: str, environment: str | None) -> str:
    """Read a stage's bytes once a run: its plan and the record it seals tell of the same ones, whatever is edited meanwhile."""
    lock = (IMAGES / environment / "requirements.lock",) if environment else ()
    return digest_files((*program_files(ROOT / program), *lock))


def digest_files(paths: tuple[Path, ...]) -> str:
    """Return one SHA-256 over the bytes of several files, in the order given."""
    total = hashlib.sha256()
    for path in paths:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


@cache
def program_files(entry: Path) -> tuple[Path, ...]:
    """Return a program's file and, sorted, every local module it imports: the bytes that its steps' ids cover."""
    root = ROOT if entry.is_relative_to(ROOT / "toolkit") else entry.parent
    found: dict[Path, None] = {}
    waiting = [entry]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = None
            waiting += _local_imports(path, root)
    return (entry, *sorted(path for path in found if path != entry))


@cache
def _local_imports(path: Path, root: Path) -> tuple[Path, ...]:
    """Return the files below `root` that a module imports by name; read once for all the programs that share the module."""
    return tuple(dict.fromkeys(module for name in _imports(path) for module in _module_files(root, name)))


def _imports(path: Path) -> Iterator[str]:
    """Yield what a module imports, anywhere in it; the statements are found as text: parsing whole files takes longer than planning."""
    for statement in IMPORT.findall(path.read_text(encoding="utf-8")):
        try:
            (node,) = ast.parse(statement).body
        except (SyntaxError, ValueError):  # prose that begins like one
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def _module_files(root: Path, name: str) -> tuple[Path, ...]:
    if name.partition(".")[0] not in _tops(root):
        return ()
    place = root.joinpath(*name.split("."))
    return tuple(path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file())


@cache
def _tops(root: Path) -> frozenset[str]:
    """Return the names at which imports from `root` can start; those of the standard library and of packages need no look at the disk."""
    return frozenset(path.stem for path in root.iterdir())
