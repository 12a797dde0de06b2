"""What a bundle holds, as a table: only its manifest is read."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from toolkit.bundle.manifest import Manifest

MB = 1e6


def table(manifest: Manifest) -> Table:
    """Return directories, images and what lies beside them with their sizes."""
    rows = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("what", "name", "files", "size"):
        rows.add_column(column)
    for row in _rows(manifest):
        rows.add_row(*row)
    return rows


def _rows(manifest: Manifest) -> Iterator[tuple[str, str, str, str]]:
    sizes = {member.path: member.size for member in manifest.members}
    for name in manifest.directories:
        members = manifest.of_directory(name)
        yield "directory", name, str(len(members)), _size(sum(member.size for member in members))
    for image in manifest.images:
        yield "image", image.tags[0], str(len(image.blobs)), _size(sum(sizes[path] for path in image.blobs))
    for root in ("recipe", "charts", "compose"):
        yield "folder", root, str(sum(path.startswith(f"{root}/") for path in sizes)), _size(manifest.below(root))
    yield "all", "", str(len(sizes)), _size(sum(sizes.values()))


def _size(size: int) -> str:
    return f"{size / MB:,.1f} MB"


def head(manifest: Manifest) -> str:
    """Return in a line what it is and whether it is proven."""
    proven = f"verdict: {manifest.verdict or 'none'}"
    return f"{manifest.recipe}: {manifest.model} for {', '.join(manifest.serving)}, {proven}, thinkship {manifest.thinkship}, bundle {manifest.id}"
