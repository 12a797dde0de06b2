"""A model hub on loopback with the protocols of the Hugging Face hub and of ModelScope, and with every trouble that a line or a proxy makes.

The real huggingface_hub downloads from it (tests/programs/test_hub.py); a large file is redirected to another host, as hubs do.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_good"
PAGE = 3
"""Entries on a page of a listing."""
SLICE = 1 << 14
"""Bytes of one write."""


@dataclass
class Repo:
    """A repository at one commit."""

    files: dict[str, bytes]
    commit: str = "c0ffee" + "0" * 34
    branches: tuple[str, ...] = ("main", "master")
    gated: bool = False
    private: bool = False
    large: tuple[str, ...] = (".safetensors", ".parquet")
    """Endings of files that are kept beside git, with a SHA-256."""

    def is_large(self, path: str) -> bool:
        return path.endswith(self.large)


@dataclass(frozen=True)
class Trouble:
    """What becomes of one answer: status and headers instead of the file, or a body that is cut, short, long or slow."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Bytes after which the connection is closed, although more were announced."""
    truncate_to: int | None = None
    """Bytes that are announced and sent as if they were all."""
    extra: bytes = b""
    """Sent after the file, and announced."""
    corrupt: bool = False
    ignore_range: bool = False
    wrong_range: bool = False
    slow: float = 0.0
    """Seconds between two writes."""


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scheme = "https" if tls else "http"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.troubles: dict[str, list[Trouble]] = defaultdict(list)
        self.always: dict[str, Trouble] = {}
        self.sent: Counter[str] = Counter()
        self.sending: set[str] = set()
        self.most_at_once = 0
        self.links = self.url
        """Host of the address of a listing's next page; that of the hub itself where a mirror hands it on."""
        self.moments: list[float] = []
        """When each request of `seen` came, in seconds."""
        self.seen: list[tuple[str, str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def trouble(self, path: str) -> Trouble:
        """Return what is in store for the next answer with a file."""
        waiting = self.troubles[path]
        return waiting.pop(0) if waiting else self.always.get(path, Trouble())

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about readers that were killed."""


@contextmanager
def running(tls: ssl.SSLContext | None = None) -> Iterator[Hub]:
    with Hub(tls) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, self.query = unquote(parts.path), {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.server.moments.append(time.monotonic())
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        for pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if match:
                answer(self, **match.groupdict())
                return
        self._json({"error": "no such page"}, 404)

    # what every answer needs

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._json({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})

    def _known(self, kind: str, name: str, revision: str, reading: bool = False) -> Repo | None:
        """Return a repository that this caller may see, or refuse."""
        repo, given = self.server.repos.get((kind, name)), self.headers.get("Authorization")
        allowed = given == f"Bearer {TOKEN}"
        if given and not allowed:
            self._json({"error": "Invalid username or password."}, 401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repo is None or (repo.private and not allowed):
            self._refuse(404 if given else 401, "RepoNotFound", "Repository not found")
        elif revision not in (repo.commit, *repo.branches):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif reading and repo.gated and not allowed:
            self._refuse(403 if given else 401, "GatedRepo", "Access to it is restricted")
        else:
            return repo
        return None

    # the Hugging Face hub

    def _revision(self, kind: str, name: str, rev: str) -> None:
        repo = self._known(kind, name, rev)
        if repo:
            self._json({"id": name, "sha": repo.commit, "gated": repo.gated, "siblings": [{"rfilename": path} for path in repo.files]})

    def _tree(self, kind: str, name: str, rev: str) -> None:
        repo = self._known(kind, name, rev)
        if not repo:
            return
        folders = sorted({path.rpartition("/")[0] for path in repo.files if "/" in path})
        entries: list[dict[str, Any]] = [{"type": "directory", "path": folder, "size": 0, "oid": "0" * 40} for folder in folders]
        for path, data in repo.files.items():
            large = {"lfs": {"oid": sha256(data), "size": len(data), "pointerSize": 134}} if repo.is_large(path) else {}
            entries.append({"type": "file", "path": path, "size": len(data), "oid": blob(data), **large})
        start = int(self.query.get("cursor", 0))
        following = f'<{self.server.links}/api/{kind}/{name}/tree/{rev}?recursive=true&cursor={start + PAGE}>; rel="next"'
        self._json(entries[start : start + PAGE], headers={"Link": following} if start + PAGE < len(entries) else None)

    def _resolve(self, name: str, rev: str, path: str, kind: str | None = None) -> None:
        repo = self._known((kind or "models/").strip("/"), name, rev, reading=True)
        if repo and path not in repo.files:
            self._refuse(404, "EntryNotFound", "Entry not found")
        elif repo and repo.is_large(path):
            data = repo.files[path]
            place = f"{self.server.scheme}://localhost:{self.server.server_port}/cdn/{name}/{path}"
            linked = {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": repo.commit}
            self._json({}, 302, {"Location": place, "ETag": f'"{blob(data)}"', **linked})
        elif repo:
            self._file(path, repo.files[path], {"ETag": f'"{blob(repo.files[path])}"', "X-Repo-Commit": repo.commit})

    def _cdn(self, name: str, path: str) -> None:
        repo = next(repo for (_, known), repo in self.server.repos.items() if known == name and path in repo.files)
        self._file(path, repo.files[path], {})

    # ModelScope

    def _listing(self, kind: str, name: str) -> None:
        repo = self._known(kind, name, self.query["Revision"])
        if not repo:
            return
        entries: list[dict[str, Any]] = [{"Type": "tree", "Path": "data", "Name": "data", "Size": 0}]
        entries += [{"Type": "blob", "Path": path, "Size": len(data), "Sha256": sha256(data)} for path, data in repo.files.items()]
        size = int(self.query.get("PageSize", len(entries)))
        start = (int(self.query.get("PageNumber", 1)) - 1) * size
        self._json({"Code": 200, "Success": True, "Data": {"Files": entries[start : start + size]}})

    def _modelscope_file(self, kind: str, name: str) -> None:
        repo, path = self._known(kind, name, self.query["Revision"], reading=True), self.query["FilePath"]
        if repo and path in repo.files:
            self._file(path, repo.files[path], {})
        elif repo:
            self._json({"Code": 10990101001, "Success": False, "Message": "not found"}, 404)

    # a file, with its trouble

    def _file(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        trouble = self.server.trouble(path) if self.command == "GET" else Trouble()
        if trouble.status:
            self._json({"error": "trouble"}, trouble.status, trouble.headers)
            return
        data = bytes(255 - byte for byte in data) if trouble.corrupt else data
        body = (data if trouble.truncate_to is None else data[: trouble.truncate_to]) + trouble.extra
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if first >= len(body) > 0:
            self._json({}, 416, {"Content-Range": f"bytes */{len(body)}"})
            return
        partly = "Range" in self.headers and not trouble.ignore_range
        body = body[first:] if partly else body
        self.send_response(206 if partly else 200)
        if partly:
            headers |= {"Content-Range": f"bytes {first + (7 if trouble.wrong_range else 0)}-{len(data) - 1}/{len(data)}"}
        for name, text in {"Accept-Ranges": "bytes", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command == "GET":
            self._send(path, body, trouble)

    def _send(self, path: str, body: bytes, trouble: Trouble) -> None:
        self.server.sending.add(path)
        self.server.most_at_once = max(self.server.most_at_once, len(self.server.sending))
        whole = trouble.cut_after is None
        for start in range(0, len(body if whole else body[: trouble.cut_after]), SLICE):
            piece = body[start : start + SLICE] if whole else body[start : min(start + SLICE, trouble.cut_after or 0)]
            self.wfile.write(piece)
            self.server.sent[path] += len(piece)
            time.sleep(trouble.slow)
        self.server.sending.discard(path)
        if not whole:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
ROUTES: tuple[tuple[str, Any], ...] = (
    (rf"/api/(?P<kind>models|datasets)/{NAME}/revision/(?P<rev>.+)", _Handler._revision),
    (rf"/api/(?P<kind>models|datasets)/{NAME}/tree/(?P<rev>[^?]+)", _Handler._tree),
    (rf"/api/v1/(?P<kind>models|datasets)/{NAME}/repo/(?:files|tree)", _Handler._listing),
    (rf"/api/v1/(?P<kind>models|datasets)/{NAME}/repo", _Handler._modelscope_file),
    (rf"/cdn/{NAME}/(?P<path>.+)", _Handler._cdn),
    (rf"/(?P<kind>datasets/)?{NAME}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", _Handler._resolve),
)
