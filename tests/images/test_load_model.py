"""images/verify/load_model.py against real files and a server on this machine that breaks off, knows no ranges, or holds other bytes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from toolkit.stages import IMAGES

PROGRAM = IMAGES / "verify" / "load_model.py"
CUT = 15 << 16
"""Bytes after which a line breaks off."""
WEIGHTS = bytes(range(256)) * 12_000
FILES = {"gguf-1/model.gguf": WEIGHTS, "modelfile-1/Modelfile": b"FROM ../gguf-1/model.gguf\n"}


def manifest(folder: Path, origin: str, files: dict[str, bytes] = FILES, **sources: str) -> Path:
    listed = [{"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()]
    for one in listed:
        one |= {"from": sources[one["path"]]} if one["path"] in sources else {}
    path = folder / "model.json"
    path.write_text(json.dumps({"from": origin, "files": listed}), encoding="utf-8")
    return path


def load(path: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": "", **environment}
    return subprocess.run([sys.executable, str(PROGRAM), str(path), str(folder)], capture_output=True, text=True, check=False, env=env, timeout=60)


def put(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


class Store(BaseHTTPRequestHandler):
    """A server of FILES; `server.habit` says how it misbehaves, `server.asked` keeps what it was asked."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))  # type: ignore[attr-defined]
        habit = self.server.habit  # type: ignore[attr-defined]
        data = next((data for name, data in FILES.items() if urlsplit(self.path).path.endswith(name.partition("/")[2])), b"")
        if habit == "other":
            data = data[:-1] + b"?"
        begin = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if habit != "no ranges" else 0
        refused = habit == "closed" or (habit == "keys" and "X-Amz-Signature" not in self.path)
        self.send_response(403 if refused else 206 if begin else 200)
        body = b"" if refused else data[begin:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if habit in ("breaks off", "no ranges") and len(body) > CUT:
            self.wfile.write(body[:CUT])
            if habit == "no ranges":
                self.server.habit = "whole"  # type: ignore[attr-defined]
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def serving(habit: str = "") -> Iterator[ThreadingHTTPServer]:
    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Store) as server:
        server.habit, server.asked = habit, []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def same(folder: Path) -> bool:
    return all((folder / name).read_bytes() == data for name, data in FILES.items())


def test_what_is_there_and_right_is_only_checked(tmp_path: Path) -> None:
    done = load(manifest(tmp_path, ""), put(tmp_path / "models"))
    assert done.returncode == 0, done.stderr
    assert "0 brought, 2 there and as they should be" in done.stdout


def test_a_check_writes_nothing_where_it_may_not(tmp_path: Path) -> None:
    folder = put(tmp_path / "models")
    if os.getuid():
        folder.chmod(0o555)
    assert load(manifest(tmp_path, ""), folder).returncode == 0


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda folder: (folder / "gguf-1/model.gguf").unlink(), 4, "is not there"),
        (lambda folder: (folder / "gguf-1/model.gguf").write_bytes(WEIGHTS[:-1]), 6, "3071999 bytes instead of 3072000"),
        (lambda folder: (folder / "gguf-1/model.gguf").write_bytes(WEIGHTS[:-1] + b"?"), 6, "its content is another"),
    ],
)
def test_an_engine_does_not_start_on_another_model(tmp_path: Path, change: object, code: int, words: str) -> None:
    folder = put(tmp_path / "models")
    change(folder)  # type: ignore[operator]
    done = load(manifest(tmp_path, ""), folder)
    assert done.returncode == code
    assert words in done.stderr and "fix: " in done.stderr and "Traceback" not in done.stderr


def test_what_was_checked_is_not_read_again_until_it_changes(tmp_path: Path) -> None:
    folder, path = put(tmp_path / "models"), manifest(tmp_path, "")
    assert load(path, folder).returncode == 0
    gguf = folder / "gguf-1/model.gguf"
    before = gguf.stat()
    gguf.write_bytes(WEIGHTS[:-1] + b"?")
    os.utime(gguf, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load(path, folder).returncode == 0, "size and time are as written down: not read"
    os.utime(gguf)
    assert load(path, folder).returncode == 6


def test_a_model_is_copied_from_another_volume_and_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    source, folder = put(tmp_path / "source"), tmp_path / "models"
    (folder / "gguf-1").mkdir(parents=True)
    digest = hashlib.sha256(WEIGHTS).hexdigest()[:12]
    (folder / f"gguf-1/model.gguf.{digest}.part").write_bytes(WEIGHTS[:1_000_000])
    (source / "gguf-1/model.gguf").write_bytes(b"\0" * 1_000_000 + WEIGHTS[1_000_000:])  # its beginning is not read again
    done = load(manifest(tmp_path, f"file://{source}"), folder)
    assert done.returncode == 0 and same(folder), done.stderr
    assert "2 brought" in done.stdout
    assert not list(folder.rglob("*.part"))


def test_a_download_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    with serving("breaks off") as server:
        done = load(manifest(tmp_path, f"http://127.0.0.1:{server.server_port}/prefix"), folder)
    assert done.returncode == 0 and same(folder), done.stderr
    ranges = [asked[1] for asked in server.asked if "gguf" in asked[0]]  # type: ignore[attr-defined]
    assert ranges == [None, *(f"bytes={number * CUT}-" for number in (1, 2, 3))]


def test_a_server_without_ranges_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    with serving("no ranges") as server:
        done = load(manifest(tmp_path, f"http://127.0.0.1:{server.server_port}/prefix"), folder)
    assert done.returncode == 0 and same(folder), done.stderr


def test_other_bytes_than_those_verified_are_not_served(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    with serving("other") as server:
        done = load(manifest(tmp_path, f"http://127.0.0.1:{server.server_port}/prefix"), folder)
    assert done.returncode == 6 and "is not what was verified" in done.stderr
    assert not (folder / "gguf-1/model.gguf").exists()


def test_a_hub_is_asked_by_commit_with_the_token(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    with serving() as server:
        path = manifest(tmp_path, "hf://owner/name@0123abc", **{"gguf-1/model.gguf": "model.gguf", "modelfile-1/Modelfile": "Modelfile"})
        done = load(path, folder, HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_TOKEN="hf_secret")
    assert done.returncode == 0 and same(folder), done.stderr
    assert ("/owner/name/resolve/0123abc/model.gguf", None, "Bearer hf_secret") in server.asked  # type: ignore[attr-defined]


def test_an_s3_store_is_asked_with_a_signature_and_no_key_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    with serving("keys") as server:
        path, address = manifest(tmp_path, "s3://bucket/releases"), f"http://127.0.0.1:{server.server_port}"
        refused = load(path, folder, AWS_ENDPOINT_URL=address)
        done = load(path, folder, AWS_ENDPOINT_URL=address, AWS_ACCESS_KEY_ID="id", AWS_SECRET_ACCESS_KEY="very-secret")
    assert refused.returncode == 4 and "refused (403)" in refused.stderr and "model.load.secret" in refused.stderr
    assert done.returncode == 0 and same(folder), done.stderr
    asked = [parse_qs(urlsplit(asked[0]).query) for asked in server.asked if "Signature" in asked[0]]  # type: ignore[attr-defined]
    assert asked and all(one["X-Amz-Credential"][0].startswith("id/") for one in asked)
    assert "very-secret" not in done.stdout + done.stderr + json.dumps(server.asked)  # type: ignore[attr-defined]


def test_a_signature_is_the_one_of_awss_own_example() -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html, "Example"."""
    code = "import json, sys, origin; from datetime import datetime as d; a = sys.argv[1:]"
    code += "; print(origin.signed(a[0], json.loads(a[1]), d.fromisoformat(a[2]), 86400))"
    keys = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
    moment = datetime(2013, 5, 24, tzinfo=UTC).isoformat()
    argv = [sys.executable, "-c", code, "https://examplebucket.s3.amazonaws.com/test.txt", json.dumps(keys), moment]
    told = subprocess.run(argv, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(PROGRAM.parent)}).stdout
    (signature,) = re.findall(r"X-Amz-Signature=(\w+)", told)
    assert signature == "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"


def test_paths_that_lead_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    done = load(manifest(tmp_path, "", {"../outside": b"x"}), tmp_path)
    assert done.returncode == 3 and "leads out of the folder" in done.stderr


def test_a_volume_that_is_too_small_is_said_before_the_first_byte(tmp_path: Path) -> None:
    path = manifest(tmp_path, "http://127.0.0.1:9/x")
    told = json.loads(path.read_text())
    told["files"][0]["size"] = 10**15
    path.write_text(json.dumps(told))
    done = load(path, tmp_path)
    assert done.returncode == 4 and "1000000.00 GB more" in done.stderr


def test_an_address_where_nobody_answers_ends_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    done = load(manifest(tmp_path, "http://127.0.0.1:9/x", {"a": b"x"}), tmp_path / "models")
    assert done.returncode == 4 and "6 tries in a row brought nothing" in done.stderr and "fix: " in done.stderr
