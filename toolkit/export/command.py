"""The commands of `thinkship export`: each says in a few lines what it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from toolkit.options import RECIPE, STORE

USUAL = "pvc://thinkship-models"
SERVERS = click.Choice(["vllm", "ollama", "llamacpp"])


def common(command: Any) -> Any:
    """Give a command what all of them take."""
    for option in (
        STORE,
        click.option("--output", "-o", type=click.Path(path_type=Path), help="Write here instead of to standard output."),
        click.option("--registry", default="", help="Registry that the images were pushed to, as registry.example.org/team."),
    ):
        command = option(command)
    return command


def serving(command: Any) -> Any:
    """Give a command what those that serve take."""
    for option in (
        click.option("--variant", help="Quantisation to serve; the recipe's if not given."),
        click.option("--gpu/--no-gpu", default=None, help="Serve on GPUs; by the recipe's verify.gpu if not given, else where the image can."),
        click.option("--model", "place", default=USUAL, show_default=True, metavar="PLACE", help="Where the cluster finds the model."),
    ):
        command = option(command)
    return command


def fleet(command: Any) -> Any:
    """Give a command what those take that spread vLLM over replicas, nodes and GPUs."""
    for option in (
        click.option("--adapter", is_flag=True, help="Serve the base with the adapter beside it instead of the merged model."),
        click.option("--gpus", type=click.IntRange(1), help="GPUs of a node; the recipe's tensor_parallel if not given."),
        click.option("--nodes", type=click.IntRange(1), default=1, show_default=True, help="Nodes over which one replica is spread."),
        click.option("--replicas", type=click.IntRange(1), default=1, show_default=True, help="Copies of the model."),
        click.option("--secret", default="", help="Secret with the API key under `api-key`."),
    ):
        command = option(command)
    return command


@click.group()
def export() -> None:
    """Write what Kubernetes and its engines are given to serve or train a recipe: the flags are those that were verified."""


@export.command("k8s")
@RECIPE
@click.option("--engine", "engines", multiple=True, type=SERVERS, help="Deploy these instead of the recipe's.")
@click.option("--secret", default="thinkship", show_default=True, help="Secret with the API key under `api-key`; empty serves everybody.")
@serving
@common
def k8s(recipe: Path, **wanted: Any) -> None:
    """Write the values of charts/thinkship."""
    from toolkit.export import writing

    writing.chart_values(recipe, **wanted)


def _target(name: str, text: str) -> Callable[..., None]:
    """Make the command of one kind of object."""

    @export.command(name, help=text)
    @RECIPE
    @fleet
    @serving
    @common
    def command(recipe: Path, **wanted: Any) -> None:
        from toolkit.export import writing

        writing.objects(name, recipe, **wanted)

    return command


_target("kserve", "Write a KServe LLMInferenceService that serves the recipe with vLLM.")
_target("production-stack", "Write the values of vLLM production-stack's chart.")
_target("kuberay", "Write a KubeRay RayService that serves the recipe with Ray Serve LLM.")
_target("lws", "Write a LeaderWorkerSet that spreads each replica over several nodes, and its Service.")


@export.command("trainer")
@RECIPE
@click.option("--claim", default="thinkship-store", show_default=True, help="PersistentVolumeClaim that holds the store; shared by all nodes.")
@click.option("--nodes", type=click.IntRange(1), default=1, show_default=True, help="Nodes that train together; they share train.processes.")
@common
def trainer(recipe: Path, **wanted: Any) -> None:
    """Write a Kubeflow TrainJob, its TrainingRuntime and its arguments for the recipe's train stage."""
    from toolkit.export import writing

    writing.training(recipe, **wanted)
