"""A release that crosses an air gap: saved here, restored, served and asked where there is no network but the loopback."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import RECIPE
from skips import skip_or_fail

from toolkit.stages import ROOT

LOOPBACK = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as lo:
    fcntl.ioctl(lo, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: up and running
os.execvp(sys.argv[1], sys.argv[1:])
"""
SERVED = """
set -e
cd "$1"
run() { "$python" -m toolkit.cli "$@"; }
python=$2 bundle=$3 store=$4
run bundle load "$bundle" --store "$store"
run serve "$store"/.bundles/*/recipe/smollm2-demo.yml --engine llamacpp --port 18085 --store "$store"
trap 'run stop --store "$store"' EXIT
run health --store "$store"
run chat --url http://127.0.0.1:18085/v1 --ask "What is 47 + 25?"
"""


@pytest.fixture
def apart() -> tuple[str, ...]:
    """Words that start a program in a network namespace of its own, whose loopback is up."""
    words = ("unshare", "--net", "--", sys.executable, "-c", LOOPBACK)
    tried = subprocess.run((*words, "true"), capture_output=True, text=True)
    return words if tried.returncode == 0 else skip_or_fail(f"no network namespace can be made here: {tried.stderr.strip()[-200:]}")


def test_a_release_is_served_where_there_is_no_network(thinkship, store, apart, tmp_path):
    made = thinkship("run", RECIPE, "--engine", "llamacpp", "--until", "modelfile", "--store", store)
    assert made.returncode == 0, made.stdout + made.stderr
    words = ("--engine", "llamacpp", "--no-images", "--with-training", "--store", store, "--output", tmp_path / "demo.tar")
    saved = thinkship("bundle", "save", RECIPE, *words)
    assert saved.returncode == 0, saved.stdout + saved.stderr
    argv = (*apart, "sh", "-c", SERVED, "sh", str(ROOT), sys.executable, str(tmp_path / "demo.tar"), str(tmp_path / "store"))
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "answers and thinks" in done.stdout and "72" in done.stdout, done.stdout
