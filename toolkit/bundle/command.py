"""The commands of `thinkship bundle`: each says in a few lines what it carries where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit.options import RECIPE, STORE

FILE = click.argument("file", type=click.Path(path_type=Path))


@click.group()
def bundle() -> None:
    """Carry a release over an air gap: one archive with all that serving and verifying need."""


@bundle.command()
@RECIPE
@click.option("--output", "-o", "file", required=True, type=click.Path(path_type=Path), help="Archive to write; FILE.part holds what a kill left.")
@click.option("--engine", "engines", multiple=True, type=click.Choice(["vllm", "ollama", "llamacpp"]), help="For these instead of the recipe's.")
@click.option("--image", "images", multiple=True, help="Take another image along, by its tag in the Docker Engine.")
@click.option("--no-images", is_flag=True, help="Take none along.")
@click.option("--gpu/--no-gpu", default=None, help="Take the images that serve on GPUs; by the recipe's verify.gpu if not given, else where one can.")
@click.option("--with-training", is_flag=True, help="Take along all that the model was made from, so that `run` finds every step done.")
@STORE
def save(recipe: Path, file: Path, engines: tuple[Any, ...], store: Path, with_training: bool, **images: Any) -> None:
    """Pack a recipe, its sealed directories, chart, compose and images into one archive with a checksum for each file; after a kill it goes on."""
    from toolkit import console
    from toolkit.bundle import contents, listing, saving
    from toolkit.store import Store

    wish = contents.Wish(recipe, engines, Store(store), with_training)
    manifest = saving.save(wish, saving.Images(images["images"], images["no_images"], images["gpu"]), file)
    console.show(listing.table(manifest))
    console.say(f"\n{listing.head(manifest)}\nnext, where it is to be served: thinkship bundle load {file.name} --store STORE --docker")


@bundle.command()
@FILE
@click.option("--docker", "to_docker", is_flag=True, help="Load the images into the Docker Engine.")
@click.option("--registry", default="", help="Push the images to this registry, through the Docker Engine.")
@STORE
def load(file: Path, store: Path, to_docker: bool, registry: str) -> None:
    """Check every byte of an archive and restore it: directories into the store, images where they are wanted; after a kill it goes on."""
    from toolkit.bundle import loading
    from toolkit.store import Store

    loading.load(file, Store(store), to_docker=to_docker, registry=registry)


@bundle.command("ls")
@FILE
@click.option("--json", "as_json", is_flag=True, help="Print the manifest for programs.")
def list_members(file: Path, as_json: bool) -> None:
    """Say what an archive holds; its manifest alone is read."""
    from toolkit import console
    from toolkit.bundle import archive, listing

    with archive.opened(file) as found:
        if as_json:
            console.emit_json(found.manifest.model_dump(mode="json"))
        else:
            console.show(listing.table(found.manifest))
            console.say(f"\n{listing.head(found.manifest)}")
