"""The commands of `thinkship images`: each says in a few lines what it does with which room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit.options import RECIPE, RUNNER, STORE

SIGN = click.option("--sign", "key", type=click.Path(path_type=Path), help="Sign each by digest with this cosign key, its bill of materials too.")


@click.group()
def images() -> None:
    """Build, list and push the images of images/."""


@images.command("build")
@click.argument("names", nargs=-1)
@click.option("--push", "registry", help="Push each to this registry afterwards.")
@SIGN
def build_images(names: tuple[str, ...], registry: str | None, key: Path | None) -> None:
    """Build the named images, or all: what is here by content is not built again."""
    from toolkit import images as room
    from toolkit import supply

    room.build_all(names)
    if registry:
        supply.publish(registry, names, key)


@images.command("push")
@click.argument("registry")
@click.argument("names", nargs=-1)
@SIGN
def push_images(registry: str, names: tuple[str, ...], key: Path | None) -> None:
    """Push images to a registry and print their digests there."""
    from toolkit import supply

    supply.publish(registry, names, key)


@images.command("sbom")
@click.argument("names", nargs=-1)
@click.option("--output", "folder", type=click.Path(path_type=Path), default=Path("sbom"), show_default=True, help="Folder for the files.")
def list_materials(names: tuple[str, ...], folder: Path) -> None:
    """Write the bill of materials of the named images, or of all, as CycloneDX JSON; needs syft."""
    from toolkit import console, supply
    from toolkit import images as room

    for chosen in map(room.image, names or room.NAMES):
        console.say(str(supply.write_sbom(chosen, folder)))


@images.command("model")
@RECIPE
@click.option("--engine", required=True, type=click.Choice(["vllm", "ollama", "llamacpp"]), help="Which server.")
@click.option("--variant", help="Quantisation to serve; the recipe's if not given.")
@RUNNER
@STORE
def bake_model(recipe: Path, engine: Any, variant: str | None, runner: str, store: Path) -> None:
    """Build an image of an engine with a recipe's model inside, which serves without a volume; print its tag."""
    from toolkit import service

    service.bake(recipe, engine, variant=variant, store=store, runner=runner)


@images.command("ls")
def list_images() -> None:
    """List the images with their tags by content, sizes and ids."""
    from toolkit import console
    from toolkit import images as room

    console.show(room.table())
