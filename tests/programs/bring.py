"""Bring a locked repository to this disk as the stages do, with short waits: `bring.py args.json`."""

from __future__ import annotations

import downloads
from hub import bring
from program import Args, run

downloads.FIRST_WAIT = 0.01


def main(args: Args) -> int:
    bring(args.recipe["source"], args.recipe["kind"], args.recipe["files"], args, "base")
    return 0


run(main)
