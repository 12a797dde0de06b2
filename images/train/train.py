"""Stage train: an adapter learns the completions over a frozen base, held in NF4 (QLoRA) or as it is; a killed run goes on from its
last whole checkpoint.

Not covered: full fine-tuning, several machines.
"""

from __future__ import annotations

import os
from pathlib import Path

import ranks
from program import Args, run


def main(args: Args) -> int:
    """Leave adapter/, metrics.jsonl and train.json."""
    wanted = args.recipe["train"]
    if ranks.missing(wanted["processes"]):
        return ranks.launch(main, wanted["processes"])
    if wanted["engine"] == "unsloth":
        _keep_compiled(args.scratch)
        import unsloth_engine as engine  # before any library that it changes as it is imported
    else:
        import trl_engine as engine  # type: ignore[no-redef]
    from training import train

    return train(args, engine)


def _keep_compiled(folder: Path) -> None:
    """Let what unsloth compiles lie in a folder where files may be executed; it writes its own part where it is run."""
    os.environ |= {"TRITON_CACHE_DIR": str(folder / "triton"), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    os.chdir(folder)


if __name__ == "__main__":
    run(main)
