"""An engine with an image store and nothing else, behind a real Unix socket: it saves in the forms that Docker has and takes only what is whole.

What it cannot show is that Docker itself takes the layout; tests/images/test_bundle.py does.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import socketserver
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Engine:
    """What the engine has: images by id, ids by tag, and what was pushed."""

    form: str = "blobs"
    """How it saves: `blobs` (Docker 25 and later), `folders` (before), `gzip` (containerd's store)."""
    images: dict[str, tuple[bytes, tuple[bytes, ...]]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pushed: dict[str, str] = field(default_factory=dict)
    saves: int = 0
    full: bool = False

    def add(self, tag: str, *layers: bytes) -> str:
        """Make an image of layers (tars) and return its id."""
        history = [f"sha256:{sha256(layer)}" for layer in layers]
        config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": history}}).encode()
        return self._take(tag, config, layers)

    def _take(self, tag: str, config: bytes, layers: tuple[bytes, ...]) -> str:
        identity = f"sha256:{sha256(config)}"
        self.images[identity] = (config, layers)
        self.tags[tag] = identity
        return identity

    def saved(self, tag: str) -> bytes:
        """Return what `docker save` writes."""
        self.saves += 1
        config, layers = self.images[self.tags[tag]]
        files: dict[str, bytes | str] = {"repositories": b"{}", "blobs/sha256/" + sha256(b"v1"): b"v1"}
        names = []
        for number, layer in enumerate(layers):
            data = gzip.compress(layer, mtime=0) if self.form == "gzip" else layer
            name = f"{number:064x}/layer.tar" if self.form == "folders" else f"blobs/sha256/{sha256(data)}"
            first = next((one for one in names if files[one] == data), None)
            files[name] = f"../{first}" if first and self.form == "folders" else data
            names.append(name)
        name = f"{sha256(config)}.json" if self.form == "folders" else f"blobs/sha256/{sha256(config)}"
        told = [{"Config": name, "RepoTags": [tag], "Layers": names}]
        return packed(files | {name: config, "manifest.json": json.dumps(told).encode()})

    def loaded(self, data: bytes) -> None:
        """Take what `docker load` sends; ValueError where it is not whole."""
        with tarfile.open(fileobj=io.BytesIO(data)) as sent:
            files = {one.name: sent.extractfile(one).read() for one in sent.getmembers() if one.isreg()}
        for name, content in files.items():
            if name.startswith("blobs/sha256/") and name.rpartition("/")[2] != sha256(content):
                raise ValueError(f"{name} is not its content")
        index = {one["annotations"]["io.containerd.image.name"]: one["digest"] for one in json.loads(files["index.json"])["manifests"]}
        assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
        for image in json.loads(files["manifest.json"]):
            config, layers = files[image["Config"]], tuple(files[name] for name in image["Layers"])
            plain = tuple(gzip.decompress(layer) if layer.startswith(b"\x1f\x8b") else layer for layer in layers)
            if [f"sha256:{sha256(layer)}" for layer in plain] != json.loads(config)["rootfs"]["diff_ids"]:
                raise ValueError("the layers are not those of the configuration")
            for tag in image["RepoTags"]:
                name = f"docker.io/{tag}" if "/" in tag else f"docker.io/library/{tag}"
                manifest = json.loads(files[f"blobs/sha256/{index[name].removeprefix('sha256:')}"])
                assert [one["digest"].partition(":")[2] for one in manifest["layers"]] == [sha256(layer) for layer in layers]
                assert {one["mediaType"].endswith("+gzip") for one in manifest["layers"]} == {layer.startswith(b"\x1f\x8b") for layer in layers}
                self._take(tag, config, plain)


def packed(files: dict[str, bytes | str]) -> bytes:
    """Return a tar; a text is a link's target."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return sink.getvalue()


class _Handler(BaseHTTPRequestHandler):
    engine: Engine
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.endswith("/version"):
            return self._send({"Version": "27.0", "ApiVersion": "1.46", "MinAPIVersion": "1.24"})
        name, _, what = path.partition("/images/")[2].rpartition("/")
        tag = next((tag for tag, identity in self.engine.tags.items() if name in (tag, identity)), None)
        if tag is None:
            return self._send({"message": f"No such image: {name}"}, 404)
        if what == "get":
            return self._send(self.engine.saved(tag))
        _, layers = self.engine.images[self.engine.tags[tag]]
        return self._send({"Id": self.engine.tags[tag], "Size": sum(map(len, layers)), "RepoTags": [tag]})

    def do_POST(self) -> None:
        address = urlsplit(self.path)
        asked = dict(part.partition("=")[::2] for part in unquote(address.query).split("&"))
        body, name = self._body(), unquote(address.path).partition("/images/")[2]
        if name == "load":
            try:
                if self.engine.full:
                    raise ValueError("write /layer: no space left on device")
                self.engine.loaded(body)
            except (ValueError, KeyError) as error:
                return self._send({"errorDetail": {"message": str(error)}, "error": str(error)})
            return self._send({"stream": "Loaded image\n"})
        if name.endswith("/tag"):
            self.engine.tags[f"{asked['repo']}:{asked['tag']}"] = self.engine.tags.get(name.removesuffix("/tag"), name.removesuffix("/tag"))
            return self._send(b"", 201)
        tag = f"{name.removesuffix('/push')}:{asked['tag']}"
        self.engine.pushed[tag] = self.engine.tags[tag]
        return self._send({"aux": {"Tag": asked["tag"], "Digest": f"sha256:{sha256(tag.encode())}"}})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, what: object, status: int = 200) -> None:
        data = what if isinstance(what, bytes) else json.dumps(what).encode() + b"\r\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/x-tar" if isinstance(what, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "socket"

    def log_message(self, *_: object) -> None:
        return


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@contextmanager
def listening(engine: Engine, path: Path) -> Iterator[str]:
    """Serve an engine at a socket and yield its address as DOCKER_HOST has it."""
    server = _Server(str(path), type("_Bound", (_Handler,), {"engine": engine}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"unix://{path}"
    finally:
        server.shutdown()
        server.server_close()
