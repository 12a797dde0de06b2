"""`thinkship images build|ls|push` on a real engine and a real registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request

import pytest
from docker_engine import NAMES, docker
from skips import skip_or_fail

from toolkit import __version__
from toolkit.images import image
from toolkit.stages import ROOT

REGISTRY = "THINKSHIP_TEST_REGISTRY"
"""Environment variable: a registry without a password, host:port, that a test may push to."""

pytestmark = pytest.mark.skipif("verify" not in NAMES, reason="not among THINKSHIP_TEST_IMAGES")


def thinkship(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((sys.executable, "-m", "toolkit.cli", *words), cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def verify(engine: None) -> str:
    done = thinkship("images", "build", "verify")
    assert done.returncode == 0, done.stderr
    return image("verify").tag


def test_what_is_here_by_content_is_not_built_again(verify: str):
    began = time.monotonic()
    assert "skip" in thinkship("images", "build", "verify").stdout and time.monotonic() - began < 10
    (line,) = (line for line in thinkship("images", "ls").stdout.splitlines() if line.startswith("thinkship/verify"))
    assert verify.partition(":")[2] in line and " MB" in line


def test_the_label_says_whether_the_tree_was_clean(verify: str):
    labels = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", verify).stdout)
    assert len(labels["org.opencontainers.image.revision"].removesuffix("-dirty")) == 40 and len(labels["thinkship.lock.sha256"]) == 64


def test_a_pushed_image_lies_in_the_registry_under_the_printed_digest(verify: str):
    registry = os.environ.get(REGISTRY) or skip_or_fail(f"{REGISTRY} names no registry")
    done = thinkship("images", "push", registry, "verify")
    assert done.returncode == 0, done.stderr
    name, _, digest = done.stdout.strip().splitlines()[-1].partition("@")
    assert name == f"{registry}/thinkship/verify:{__version__}"
    accept = {"Accept": "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"}
    for tag in (__version__, verify.partition(":")[2]):
        asked = urllib.request.Request(f"http://{registry}/v2/thinkship/verify/manifests/{tag}", headers=accept)
        with urllib.request.urlopen(asked, timeout=20) as reply:
            assert reply.headers["Docker-Content-Digest"] == digest


def test_a_registry_that_is_not_there_is_named(verify: str):
    done = thinkship("images", "push", "127.0.0.1:9", "verify")
    assert done.returncode in (4, 5) and "127.0.0.1:9" in done.stderr and "fix:" in done.stderr, done.stderr
