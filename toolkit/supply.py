"""The supply chain of images: a bill of materials for each, and signatures on what was pushed; by syft and cosign, which do this for everybody."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from toolkit import console, process
from toolkit.images import Image, push
from toolkit.process import Command

SYFT = "go install github.com/anchore/syft/cmd/syft@latest, or your distribution's package"
COSIGN = "go install github.com/sigstore/cosign/v3/cmd/cosign@latest, or your distribution's package"


def publish(registry: str, names: tuple[str, ...], key: Path | None) -> None:
    """Push images to a registry, signed with their bills of materials where there is a key; errors as `images.push` and `sign`."""
    if key:
        process.which("syft", SYFT)
        process.which("cosign", COSIGN)
    for chosen, reference in push(registry, names):
        if key:
            with tempfile.TemporaryDirectory() as folder:
                sign(reference, key, write_sbom(chosen, Path(folder)))


def write_sbom(chosen: Image, folder: Path) -> Path:
    """Write an image's bill of materials (CycloneDX JSON: Debian and Python packages, Go modules) and return its path.

    NotReadyError where syft is missing or the image is not built, FailedError with syft's words.
    """
    syft = process.which("syft", SYFT)
    chosen.digest()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{chosen.repository.rpartition('/')[2]}.cdx.json"
    draft = path.with_suffix(".part")
    words = (str(syft), "scan", f"docker:{chosen.tag}", "--quiet", "--output", f"cyclonedx-json={draft}")
    try:
        process.run(Command(words, {"SYFT_CHECK_FOR_APP_UPDATE": "false"}))
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def sign(reference: str, key: Path, sbom: Path) -> None:
    """Sign a pushed image, named by its digest, and attest its bill of materials.

    The key's password is read from COSIGN_PASSWORD; the signature goes to the registry and to no public log. NotReadyError where cosign is
    missing, FailedError with its words.
    """
    cosign = str(process.which("cosign", COSIGN))
    private = ("--key", str(key), "--yes", "--tlog-upload=false", "--use-signing-config=false")
    process.run(Command((cosign, "sign", *private, reference)))
    process.run(Command((cosign, "attest", *private, "--type", "cyclonedx", "--predicate", str(sbom), reference)))
    console.say(f"signed {reference}")
