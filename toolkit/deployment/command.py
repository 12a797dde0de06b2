"""The commands release, deploy and rollback: each says in a few lines what it does with which room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit.options import RECIPE, STORE

TO = click.option("--to", required=True, type=click.Choice(["compose", "k8s"]), help="This host with Docker Compose, or a cluster with Helm.")
DRY = click.option("--dry-run", is_flag=True, help="Look, print what would be done, and change nothing.")


@click.command()
@RECIPE
@click.option("--output", "-o", type=click.Path(path_type=Path), default=Path("release.json"), show_default=True, help="Write here.")
@click.option("--gpu/--no-gpu", default=None, help="Serve on GPUs; by the recipe's verify.gpu if not given, else where the image can.")
@STORE
def release(recipe: Path, output: Path, gpu: bool | None, store: Path) -> None:
    """Write release.json: what a verified store serves, byte by byte; refused without a verdict of pass or from a tree with changes."""
    from toolkit.release import making

    making.release(recipe, store, output, gpu)


def cluster(command: Any) -> Any:
    """Give a command what is said of a cluster."""
    for option in (
        click.option("--values", multiple=True, type=click.Path(path_type=Path), help="With k8s: file with values of the chart, laid over ours."),
        click.option("--secret", help="With k8s: Secret with the API key under `api-key` (thinkship); empty serves everybody."),
        click.option("--model", metavar="PLACE", help="With k8s: where the cluster finds the model (pvc://thinkship-models)."),
        click.option("--namespace", help="With k8s: the namespace (default)."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("release", type=click.Path(path_type=Path))
@TO
@click.option("--name", help="Name of the deployment; the served name if not given.")
@click.option("--engine", type=click.Choice(["vllm", "ollama", "llamacpp"]), help="Which of the release's engines, where it has several.")
@click.option("--canary", type=click.IntRange(0, 90), default=10, show_default=True, help="Percent of the requests it gets while it is verified.")
@click.option("--registry", default="", help="Registry that the images were pushed to, as registry.example.org/team.")
@cluster
@DRY
@STORE
def deploy(release: Path, to: Any, store: Path, **how: Any) -> None:
    """Try a release beside the one that serves, verify it there, and promote it or take it back; the old one serves until then."""
    from toolkit.deployment import session

    session.bring(release, to, store, **how)


@click.command()
@click.argument("name")
@TO
@DRY
@STORE
def rollback(name: str, to: Any, dry_run: bool, store: Path) -> None:
    """Bring back the release that served before, or take back a deployment that was cut off."""
    from toolkit.deployment import session

    session.bring_back(name, to, store, dry_run)
