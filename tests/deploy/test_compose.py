"""Releases on a real host: each is tried beside the old one, verified there and promoted or taken back, and no client notices."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import short_recipe
from conftest import FIGURES, Host, deployment, renewed
from streams import Streams

from toolkit.deployment.state import Deployment, Ledger
from toolkit.release.document import load, write
from toolkit.stages import ROOT

MODEL = "smollm2-demo"


@pytest.fixture(scope="module")
def host(caddy: str, store: Path, releases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A deployment in which the old release serves at first, and then what the test before has left."""
    with deployment(caddy, tmp_path_factory.mktemp("host")) as made:
        found = replace(made, store=store)
        began = time.monotonic()
        found.deploy(releases["old"])
        FIGURES.append(f"the first release: {time.monotonic() - began:.0f} s")
        assert serves(found, releases["old"], "blue")
        yield found


@pytest.fixture(scope="module")
def trust(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return host.authority(tmp_path_factory.mktemp("trust"))


def ask(host: Host, trust: Path, key: str) -> dict[str, Any]:
    """Ask one question through the proxy."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "What is 47 + 25?"}], "max_tokens": 200, "temperature": 0}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{host.url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60, context=ssl.create_default_context(cafile=trust)) as reply:
        return dict(json.load(reply)["choices"][0]["message"])


def state(host: Host) -> Deployment:
    return Ledger(host.store, host.name).read("compose")


def serves(host: Host, release: Path, slot: str) -> bool:
    """Whether a release serves in a place, alone and with nothing left over."""
    found = state(host)
    assert found.current and not found.candidate and not found.leftover
    return (found.current.release.id, found.current.slot) == (load(release).id, slot) and host.projects() == {"front", f"-{slot}"}


def told(what: str, streams: Streams, seconds: float) -> None:
    FIGURES.append(f"{what}: {seconds:.0f} s, {len(streams.log)} requests of {streams.clients} streaming clients, {len(streams.failed)} failed")


def test_clients_are_answered_through_the_proxy_alone(host: Host, trust: Path) -> None:
    message = ask(host, trust, host.key)
    assert "72" in message["content"] and message["reasoning_content"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask(host, trust, "another key")


def test_releases_come_and_go_and_no_client_notices(host: Host, releases: dict[str, Path], trust: Path) -> None:
    with Streams(host.url, MODEL, host.key, 2, trust=trust) as streams:
        began = time.monotonic()
        host.deploy(releases["new"], "--canary", "30")
        seconds = time.monotonic() - began
        asked = len(streams.log)
        while len(streams.log) < asked + 4:
            time.sleep(0.1)
    told("a newer release tried with 30 % of the requests, promoted", streams, seconds)
    assert not streams.failed and len(streams.log) > 10, streams.failed
    assert serves(host, releases["new"], "green")
    report = json.loads((host.store / "deployments" / host.name / f"report-{load(releases['new']).short}.json").read_text())
    assert report["verdict"] == "pass" and report["observed"]["endpoints"][0]["asked"] == short_recipe.QUESTIONS

    with Streams(host.url, MODEL, host.key, 2, trust=trust) as streams:
        began = time.monotonic()
        done = host.deploy(releases["untuned"], "--canary", "1", check=False)
        seconds = time.monotonic() - began
    told("the base model under the tuned one's name, taken back", streams, seconds)
    assert done.returncode == 6 and "did not pass: " in done.stderr, done.stdout + done.stderr
    assert serves(host, releases["new"], "green") and not streams.failed, streams.failed

    with Streams(host.url, MODEL, host.key, 8, trust=trust) as streams:
        while len(streams.log) < 8:
            time.sleep(0.1)
        began = time.monotonic()
        host.thinkship("rollback", host.name)
        seconds = time.monotonic() - began
        asked = len(streams.log)
        while len(streams.log) < asked + 8:
            time.sleep(0.1)
    told("a rollback", streams, seconds)
    assert not streams.failed, streams.failed
    assert serves(host, releases["old"], "blue")


@pytest.mark.long
def test_a_deployment_that_is_killed_again_and_again_leaves_the_old_one_serving_and_goes_on(
    host: Host, releases: dict[str, Path], trust: Path
) -> None:
    before = state(host).current
    assert before and before.release.id == load(releases["old"]).id
    with Streams(host.url, MODEL, host.key, 2, trust=trust) as streams:
        for word in ("starts in green", "is held against"):
            killed_at(word, host, releases["new"])
            assert state(host).candidate and state(host).current == before
            asked = len(streams.log)
            while len(streams.log) < asked + 2:
                time.sleep(0.1)
        host.deploy(releases["new"])
    assert not streams.failed, streams.failed
    assert serves(host, releases["new"], "green")
    FIGURES.append(f"killed twice, run again: {len(streams.log)} requests of {streams.clients} streaming clients, 0 failed")


def killed_at(word: str, host: Host, release: Path) -> None:
    """Deploy a release and kill the command a second after it has said a word."""
    argv = host.argv("deploy", release, "--name", host.name, "--canary", "30")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=host.env) as running:
        assert running.stdout and any(word in line for line in running.stdout)
        time.sleep(1)
        running.kill()


def test_an_engine_that_cannot_start_is_taken_back_with_its_last_words(host: Host, releases: dict[str, Path], tmp_path: Path) -> None:
    before = state(host).current
    assert before
    good = load(releases["old"])
    (one,) = good.engines
    broken = renewed(good, engines=(one.model_copy(update={"args": (*one.args, "--no-such-flag"), "startup_seconds": 20}),))
    write(broken, tmp_path / "broken.json")
    done = host.deploy(tmp_path / "broken.json", check=False)
    assert done.returncode == 5 and "--no-such-flag" in done.stdout, done.stdout + done.stderr
    assert state(host).current == before and host.projects() == {"front", f"-{before.slot}"}
