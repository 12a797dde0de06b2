"""Arguments and options that several commands share, spelt and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

ENGINES = click.Choice(["llamacpp", "ollama", "vllm", "transformers"])
STAGES = click.Choice(["base", "dataset", "train", "merge", "reference", "compress", "gguf", "lora", "modelfile", "serve", "verify"])
STORE = click.option("--store", type=click.Path(path_type=Path), default=Path(".thinkship"), show_default=True, help="Folder of the artefacts.")
RECIPE = click.argument("recipe", type=click.Path(path_type=Path))
RUNNER = click.option("--runner", type=click.Choice(["local", "docker"]), default="local", show_default=True, help="Where steps run.")
ANYWHERE = click.option("--runner", type=click.Choice(["local", "docker", "kubernetes"]), default="local", show_default=True, help="Where steps run.")


def cluster(command: Any) -> Any:
    """Give a command what is said of a cluster that runs Jobs."""
    for option in (
        click.option("--pod", type=click.Path(path_type=Path), help="With kubernetes: YAML laid over the pods: nodeSelector, resources, …"),
        click.option("--gpu/--no-gpu", default=None, help="With kubernetes: ask for GPUs; unless the recipe's verify.gpu is false, if not given."),
        click.option("--secret", help="With kubernetes: Secret whose keys stages with network see as variables (HF_TOKEN, HTTPS_PROXY)."),
        click.option("--registry", help="With kubernetes: registry that the images were pushed to, as registry.example.org/team."),
        click.option("--namespace", help="With kubernetes: the namespace (default)."),
        click.option("--volume", metavar="PLACE", help="With kubernetes: where the store lies, pvc://CLAIM/FOLDER (pvc://thinkship-store)."),
    ):
        command = option(command)
    return command


POSITIVE = click.FloatRange(min=0, min_open=True)
