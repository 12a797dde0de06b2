"""A dataset's sources with their files on this disk: what lies on a hub is brought by its lock, what lies on this machine stays where it is."""

from __future__ import annotations

from typing import Any

from hub import bring
from program import Args


def brought(args: Args) -> dict[str, Any]:
    """Return the recipe's dataset, each hub source replaced by its files and its split; ProgramError as hub.bring."""
    wanted = dict(args.recipe["dataset"])
    for name, locked in args.recipe.get("files", {}).items():
        folder = bring(wanted[name], "datasets", locked, args, name)
        wanted[name] = {"files": [str(folder / file["path"]) for file in locked], "split": wanted[name]["split"]}
    return wanted
