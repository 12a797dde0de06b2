"""Arguments and options that several commands share, spelt and explained once."""

from __future__ import annotations

from pathlib import Path

import click

ENGINES = click.Choice(["llamacpp", "ollama", "vllm", "transformers"])
STAGES = click.Choice(["base", "dataset", "train", "merge", "reference", "compress", "gguf", "lora", "modelfile", "serve", "verify"])
STORE = click.option("--store", type=click.Path(path_type=Path), default=Path(".thinkship"), show_default=True, help="Folder of the artefacts.")
RECIPE = click.argument("recipe", type=click.Path(path_type=Path))
RUNNER = click.option("--runner", type=click.Choice(["local", "docker"]), default="local", show_default=True, help="Where steps run.")
POSITIVE = click.FloatRange(min=0, min_open=True)
