"""Where a cluster finds a model, as one address: `pvc://claim/folder`, `hostpath:///folder`, `image`, `oci://`, `hf://`, `s3://`, `https://`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from toolkit.errors import UsageError

KINDS = ("pvc", "hostpath", "image", "oci", "hf", "s3", "https", "http")
NAME = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")
"""What Kubernetes takes as an object's name (RFC 1123)."""
REMEDY = "pvc://CLAIM/FOLDER, hostpath:///FOLDER, image, oci://REGISTRY/NAME:TAG, hf://OWNER/NAME@COMMIT, s3://BUCKET/PREFIX or https://HOST/PREFIX"


@dataclass(frozen=True)
class Place:
    """An address taken apart."""

    kind: str
    name: str = ""
    """The claim, the image, the repository or the bucket."""
    folder: str = ""
    """Below it, without slashes at its ends."""
    text: str = ""

    @property
    def remote(self) -> bool:
        """Say whether the model is brought over a network before it is served."""
        return self.kind in ("hf", "s3", "https", "http")

    def uri(self, folder: str) -> str:
        """Return the address of one of the store's directories, as KServe reads it; a repository of a hub is one directory already."""
        return self.text if self.kind in ("hf", "oci") else f"{self.text.rstrip('/')}/{folder}"

    def volume(self) -> dict[str, Any]:
        """Return the volume that holds the store's directories: an empty one, to be filled, where they come over a network."""
        match self.kind:
            case "pvc":
                return {"persistentVolumeClaim": {"claimName": self.name}}
            case "hostpath":
                return {"hostPath": {"path": f"/{self.folder}", "type": "Directory"}}
            case "oci":
                return {"image": {"reference": self.name, "pullPolicy": "IfNotPresent"}}
            case "image":
                return {}
            case _:
                return {"emptyDir": {}}


def parse(text: str, option: str = "--model") -> Place:
    """Take an address apart that an option was given; UsageError says what is wrong with it."""
    if text == "image":
        return Place("image", text=text)
    kind, separator, rest = text.partition("://")
    if not separator or kind not in KINDS or not rest or re.search(r"\s", text):
        raise UsageError(f"{option} {text!r} is no place of a model", REMEDY)
    if kind == "oci":
        return Place(kind, rest, text=text)
    if kind == "hostpath":
        if not rest.startswith("/") or not rest.strip("/"):
            raise UsageError(f"{option} {text!r} names no absolute path", "hostpath:///srv/models")
        return Place(kind, folder=rest.strip("/"), text=text)
    return _named(kind, text, option)


def _named(kind: str, text: str, option: str) -> Place:
    if kind == "hf":
        if not re.match(r"^hf://[\w.-]+/[\w.-]+@[\w./-]+$", text):
            raise UsageError(f"{option} {text!r} names no commit", "hf://OWNER/NAME@COMMIT: a branch may move to other bytes than those verified")
        name = text.removeprefix("hf://")
        return Place(kind, name, text=text)
    name, folder = text.partition("://")[2].partition("/")[::2]
    if kind == "pvc" and not NAME.match(name):
        raise UsageError(f"{option} {text!r}: {name!r} cannot name a claim", "lower-case letters, digits, '-' and '.'")
    if kind in ("http", "https") and not urlsplit(text).hostname:
        raise UsageError(f"{option} {text!r} names no host", REMEDY)
    return Place(kind, name, folder.strip("/"), text)
