"""Downloads from a hub on loopback: over a line that cuts, truncates and lies, after a kill, from caches, offline, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import ProgramRun, program_environment
from hub_server import TOKEN, Hub, Repo, Trouble, blob, running, sha256
from skips import skip_or_fail
from small_disk import mounted
from training import PROGRAMS

from toolkit import hubs

PROGRAM = Path(__file__).with_name("bring.py")
WEIGHTS = random.Random(7).randbytes(3 << 20)
FILES = {"config.json": b'{"a": 1}', "tokenizer.json": b"{}" * 50_000, "model.safetensors": WEIGHTS, "empty.txt": b""}
CHUNK = 1 << 16
"""What may be on its way when a line breaks."""
GUARD = """
import os, sys

def guard(event, details):
    if event in ("socket.connect", "socket.getaddrinfo") or event == "socket.__new__" and int(details[1]) in (2, 10):
        os._exit(99)

sys.addaudithook(guard)
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running() as server:
        server.repos["models", "owner/tiny"] = Repo(dict(FILES))
        yield server


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if not shutil.which("openssl"):
        skip_or_fail("openssl is not on PATH")
    argv = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=hub")
    files = ("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate"))
    subprocess.run((*argv, *files), check=True, capture_output=True)
    return tmp_path / "certificate"


@pytest.fixture
def settings(hub: Hub, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in program_environment().items() if not name.startswith(("HF_", "MODELSCOPE", "THINKSHIP"))}
    places = {"HF_ENDPOINT": hub.url, "MODELSCOPE_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    return {**kept, **places, "PYTHONPATH": str(PROGRAMS)}


def lock(hub: Hub, site: str = "hub", name: str = "owner/tiny") -> dict[str, Any]:
    """Return the recipe of bring.py with what the host would have locked."""
    repo = hub.repos["models", name]
    found = hubs.HuggingFace._file if site == "hub" else hubs.ModelScope(name, "models")._file
    files = []
    for path, data in repo.files.items():
        large = {"lfs": {"oid": sha256(data)}} if repo.is_large(path) else {}
        entry = {"path": path, "size": len(data), "oid": blob(data), **large, "Path": path, "Size": len(data), "Sha256": sha256(data)}
        files.append(asdict(found(entry)))
    source = {site: name, "revision": repo.commit if site == "hub" else "master"}
    return {"source": source, "kind": "models", "files": files}


Bring = Callable[..., ProgramRun]


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    def write(recipe: dict[str, Any]) -> Path:
        places = {name: str(tmp_path / name) for name in ("output", "scratch", "downloads")}
        for place in places.values():
            Path(place).mkdir(exist_ok=True)
        path = tmp_path / "args.json"
        path.write_text(json.dumps({"inputs": {}, **places, "recipe": recipe}))
        return path

    return write


@pytest.fixture
def bring(train_python: Path, settings: dict[str, str], arguments: Any, tmp_path: Path) -> Bring:
    def run(recipe: dict[str, Any], **env: str) -> ProgramRun:
        command = (str(train_python), str(PROGRAM), str(arguments(recipe)))
        done = subprocess.run(command, env={**settings, **env}, capture_output=True, text=True, timeout=120)
        events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"event"')]
        return ProgramRun(done.returncode, events, tmp_path / "scratch" / "base", done.stderr)

    return run


def assert_whole(done: ProgramRun, files: dict[str, bytes] = FILES) -> None:
    assert done.code == 0, done.log[-2000:] + str(done.events[-1:])
    assert {path.relative_to(done.output).as_posix(): path.read_bytes() for path in done.output.rglob("*") if path.is_file()} == files
    assert not list(done.output.parent.parent.glob("downloads/*.part"))


def test_every_file_comes_once_and_is_not_asked_for_again(hub: Hub, bring: Bring) -> None:
    assert_whole(bring(lock(hub)))
    assert hub.sent.total() == sum(map(len, FILES.values()))
    again = bring(lock(hub))
    assert_whole(again)
    assert hub.sent.total() == sum(map(len, FILES.values()))


def test_the_download_tells_rate_and_remaining_time(hub: Hub, bring: Bring) -> None:
    hub.always["model.safetensors"] = Trouble(slow=0.01)
    done = bring(lock(hub))
    told = [event for event in done.events if event["event"] == "progress" and event["unit"] == "MiB"]
    assert any("MiB/s, " in event["text"] and "s left" in event["text"] for event in told)
    assert (told[-1]["done"], told[-1]["total"]) == (3, 3)
    assert any(event.get("text", "").startswith("downloaded 3 MiB in ") for event in done.events)


def test_the_hub_of_these_tests_is_one_to_the_real_client_and_its_cache_is_used(
    hub: Hub, bring: Bring, train_python: Path, settings: dict[str, str], tmp_path: Path
) -> None:
    code = "from huggingface_hub import snapshot_download; print(snapshot_download('owner/tiny'))"
    done = subprocess.run((train_python, "-c", code), env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    snapshot = Path(done.stdout.strip())
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == FILES
    sent = hub.sent.total()
    assert_whole(bring(lock(hub)))
    assert hub.sent.total() == sent, "nothing that the tools' own cache holds is downloaded"
    Path(os.path.realpath(snapshot / "model.safetensors")).write_bytes(b"x" * len(WEIGHTS))
    done = bring(lock(hub))
    assert_whole(done)
    assert any("is not what the lock pins and is not used" in event.get("text", "") for event in done.events)
    assert hub.sent.total() == sent + len(WEIGHTS)


ONCE = {
    "a line that breaks": [Trouble(cut_after=1 << 20), Trouble(cut_after=200_000), Trouble(cut_after=0)],
    "a file that ends early though nothing says so": [Trouble(truncate_to=1 << 20)],
    "a hub that is busy": [Trouble(status=429, headers={"Retry-After": "1"}), Trouble(status=503)],
}
OVER = {
    "a hub without ranges": [Trouble(cut_after=1 << 20), Trouble(ignore_range=True)],
    "other bytes": [Trouble(corrupt=True)],
    "more bytes": [Trouble(extra=b"x" * 100)],
    "the wrong part": [Trouble(cut_after=1 << 20), Trouble(wrong_range=True)],
}


@pytest.mark.parametrize("case", [*ONCE, *OVER])
def test_a_bad_line_costs_no_more_than_it_must(case: str, hub: Hub, bring: Bring) -> None:
    troubles = {**ONCE, **OVER}[case]
    hub.troubles["model.safetensors"] = list(troubles)
    assert_whole(bring(lock(hub)))
    lost = 0 if case in ONCE else 1 << 20 if case == "a hub without ranges" else len(WEIGHTS)
    assert hub.sent["model.safetensors"] <= len(WEIGHTS) + lost + 4 * CHUNK
    assert not hub.troubles["model.safetensors"]


def wait_until_sent(hub: Hub, count: int, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 60
    while hub.sent["model.safetensors"] < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def test_four_files_come_at_once_and_no_more(hub: Hub, bring: Bring) -> None:
    files = {f"{name}.bin": bytes([name]) * 200_000 for name in range(9)}
    hub.repos["models", "owner/tiny"] = Repo(dict(files))
    hub.always = dict.fromkeys(files, Trouble(slow=0.02))
    assert_whole(bring(lock(hub)), files)
    assert hub.most_at_once == 4


def test_a_hub_that_says_how_long_to_wait_is_given_that_time(hub: Hub, bring: Bring) -> None:
    hub.troubles["model.safetensors"] = [Trouble(status=429, headers={"Retry-After": "1"})]
    assert_whole(bring(lock(hub)))
    first, second = (moment for moment, seen in zip(hub.moments, hub.seen, strict=True) if seen[1].startswith("/cdn/"))
    assert 1 <= second - first < 10


@pytest.mark.parametrize("site", ["hub", "modelscope"])
def test_a_kill_in_the_middle_loses_no_more_than_what_was_on_its_way(
    site: str, hub: Hub, bring: Bring, train_python: Path, settings: dict[str, str], arguments: Any, tmp_path: Path
) -> None:
    hub.always["model.safetensors"] = Trouble(slow=0.005)
    command = (str(train_python), str(PROGRAM), str(arguments(lock(hub, site))))
    process = subprocess.Popen(command, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until_sent(hub, 1 << 20, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = sum(path.stat().st_size for path in (tmp_path / "downloads").glob("*.part"))
    assert kept >= (1 << 20) - CHUNK
    hub.always.clear()
    done = bring(lock(hub, site))
    assert_whole(done)
    assert hub.sent["model.safetensors"] <= len(WEIGHTS) + CHUNK
    assert any("were there from an earlier try" in event.get("text", "") for event in done.events)


REFUSED = {
    "bytes that are always other ones": (Trouble(corrupt=True), 3, "its checksum is not sha256:", "thinkship lock"),
    "a file that has become shorter": (Trouble(truncate_to=1 << 20), 3, "fewer than the", "thinkship lock"),
    "a file that has become longer": (Trouble(extra=b"x"), 3, "more than the", "thinkship lock"),
    "a hub that sends other parts": (Trouble(cut_after=1 << 20, wrong_range=True), 3, "the hub sent 'bytes 1048583-", "thinkship lock"),
    "a line that always breaks": (Trouble(cut_after=100), 4, "6 tries in a row brought nothing", "goes on where this one ended"),
    "a hub that is always busy": (Trouble(status=503), 4, "the hub answered 503", "try again later"),
    "a hub that is asked too often": (Trouble(status=429), 4, "limits how often", "HF_TOKEN"),
    "a file that was removed": (Trouble(status=404), 3, "the hub answered 404", "thinkship lock"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str, hub: Hub, bring: Bring, tmp_path: Path) -> None:
    trouble, code, words, remedy = REFUSED[case]
    hub.always["model.safetensors"] = trouble
    done = bring(lock(hub))
    assert done.code == code, done.log[-2000:]
    assert "model.safetensors" in done.error["message"] and words in done.error["message"]
    assert remedy in done.error["remedy"]
    assert not done.output.exists()
    assert not (tmp_path / "downloads" / f"sha256-{'0' * 64}").exists()
    assert hub.sent["model.safetensors"] <= 2 * len(WEIGHTS) + 4 * CHUNK


def test_a_hub_that_cannot_be_reached_is_told(hub: Hub, bring: Bring) -> None:
    done = bring(lock(hub), HF_ENDPOINT="http://127.0.0.1:9")
    assert (done.code, "6 tries in a row brought nothing, the last: " in done.error["message"]) == (4, True), done.error
    assert "HF_ENDPOINT" in done.error["remedy"]


def test_a_certificate_of_ones_own_authority_is_trusted_where_it_is_named(certificate: Path, bring: Bring, settings: dict[str, str]) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, certificate.with_name("key"))
    with running(tls) as hub:
        hub.repos["models", "owner/tiny"] = Repo(dict(FILES))
        done = bring(lock(hub), HF_ENDPOINT=hub.url)
        assert (done.code, "certificate is not trusted" in done.error["message"]) == (4, True), done.error
        assert "SSL_CERT_FILE" in done.error["remedy"]
        assert_whole(bring(lock(hub), HF_ENDPOINT=hub.url, SSL_CERT_FILE=str(certificate)))


TOKENS = {"no token": ("", "asks for its terms"), "a wrong token": ("hf_bad", "refuses the token (401)")}


@pytest.mark.parametrize("case", TOKENS)
def test_a_gated_repository_is_told(case: str, hub: Hub, bring: Bring) -> None:
    token, words = TOKENS[case]
    hub.repos["models", "owner/tiny"].gated = True
    done = bring(lock(hub), HF_TOKEN=token)
    assert (done.code, words in done.error["message"]) == (4, True), done.error
    assert "HF_TOKEN" in done.error["remedy"]
    assert not hub.sent


@pytest.mark.parametrize("site", ["hub", "modelscope"])
def test_a_token_opens_it_and_is_told_to_nobody_else(site: str, hub: Hub, bring: Bring, tmp_path: Path) -> None:
    hub.repos["models", "owner/tiny"].gated = True
    done = bring(lock(hub, site), HF_TOKEN=TOKEN, MODELSCOPE_API_TOKEN=TOKEN)
    assert_whole(done)
    assert not any("Authorization" in headers for _, path, headers in hub.seen if path.startswith("/cdn/"))
    assert TOKEN not in done.log + json.dumps(done.events) + (tmp_path / "args.json").read_text()


def test_a_disk_without_room_is_told_before_the_first_byte(hub: Hub, bring: Bring) -> None:
    recipe = lock(hub)
    recipe["files"][2]["size"] = 10**16
    done = bring(recipe)
    assert (done.code, "the download needs 10000000." in done.error["message"]) == (4, True), done.error
    assert "--store" in done.error["remedy"]
    assert not hub.seen


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "downloads", megabytes=80) as folder:
        yield folder


def fill(path: Path) -> None:
    filler = os.open(path, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(filler, bytes(4096)):
            pass
    os.close(filler)


def test_a_disk_that_fills_up_in_the_middle_is_told_and_what_came_is_kept(
    hub: Hub, bring: Bring, train_python: Path, settings: dict[str, str], arguments: Any, small_disk: Path
) -> None:
    hub.always["model.safetensors"] = Trouble(slow=0.005)
    command = (str(train_python), str(PROGRAM), str(arguments(lock(hub))))
    with subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        wait_until_sent(hub, 1 << 19, process)
        fill(small_disk / "filler")
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 4 and "no space left on the disk" in told
    (small_disk / "filler").unlink()
    hub.always.clear()
    assert_whole(bring(lock(hub)))
    assert hub.sent["model.safetensors"] <= len(WEIGHTS) + 4 * CHUNK


def test_offline_opens_no_socket_and_says_what_is_missing(
    hub: Hub, bring: Bring, settings: dict[str, str], train_python: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    guarded = f"{tmp_path}{os.pathsep}{PROGRAMS}"
    assert bring(lock(hub), PYTHONPATH=guarded).code == 99, "the guard ends whoever opens a socket"
    cold = bring(lock(hub), PYTHONPATH=guarded, THINKSHIP_OFFLINE="1")
    assert (cold.code, "4 of 4 files (0.00 GB) are not on this machine" in cold.error["message"]) == (4, True), cold.error
    assert "without THINKSHIP_OFFLINE" in cold.error["remedy"]
    assert_whole(bring(lock(hub)))
    for setting in ("THINKSHIP_OFFLINE", "HF_HUB_OFFLINE"):
        assert_whole(bring(lock(hub), PYTHONPATH=guarded, **{setting: "1"}))


def test_offline_the_kernel_is_asked_for_no_socket(hub: Hub, bring: Bring, arguments: Any, train_python: Path, settings: dict[str, str]) -> None:
    if not shutil.which("strace"):
        skip_or_fail("strace is not on PATH")
    assert_whole(bring(lock(hub)))
    told = arguments(lock(hub)).with_name("trace")
    trace = ("strace", "-f", "-e", "trace=socket,connect", "-o", str(told))
    command = (*trace, str(train_python), str(PROGRAM), str(told.with_name("args.json")))
    done = subprocess.run(command, env={**settings, "THINKSHIP_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "exited with 0" in told.read_text() and "AF_INET" not in told.read_text()


def test_a_path_that_leads_out_of_the_folder_is_refused(hub: Hub, bring: Bring) -> None:
    recipe = lock(hub)
    recipe["files"][0]["path"] = "../../config.json"
    done = bring(recipe)
    assert (done.code, "leads out of the repository" in done.error["message"]) == (3, True), done.error
    assert not hub.seen
