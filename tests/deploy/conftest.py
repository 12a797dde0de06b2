"""A real Docker engine and the demo's verified store; without an engine these tests are skipped, in CI they fail."""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import short_recipe
from skips import skip_or_fail
from untuned import untuned

from toolkit.images import ensure, image
from toolkit.release.document import Commits, Release, identity, write
from toolkit.release.making import cut
from toolkit.stages import ROOT

FIGURES: list[str] = []
"""What was measured, told at the end."""


def run(*argv: str, check: bool = True, timeout: float = 900, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a program and fail with its own words."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout, **how)
    assert done.returncode == 0 or not check, f"{' '.join(argv)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done


@dataclass
class Host:
    """This host with a deployment of its own name, ports and key, and what is known of it from outside."""

    store: Path
    name: str
    key_file: Path
    port: int
    env: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where clients ask."""
        return f"https://localhost:{self.port}/v1"

    @property
    def key(self) -> str:
        """What they ask with."""
        return self.key_file.read_text().strip()

    def argv(self, *words: object) -> list[str]:
        """Return a command line of thinkship."""
        return [sys.executable, "-m", "toolkit.cli", *map(str, words), "--to", "compose", "--store", str(self.store)]

    def thinkship(self, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return run(*self.argv(*words), check=check, cwd=ROOT, env=self.env, timeout=1800)

    def deploy(self, release: Path, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Deploy a release."""
        return self.thinkship("deploy", release, "--name", self.name, *words, check=check)

    def projects(self) -> set[str]:
        """Return the projects of this deployment that are up."""
        told = run("docker", "ps", "--format", '{{.Label "com.docker.compose.project"}}').stdout.split()
        return {name.removeprefix(f"thinkship-{self.name}") or "front" for name in told if name.startswith(f"thinkship-{self.name}")}

    def authority(self, folder: Path) -> Path:
        """Return the certificate of the proxy's own authority."""
        container = run("docker", "ps", "--quiet", "--filter", f"label=com.docker.compose.project=thinkship-{self.name}").stdout.strip()
        text = run("docker", "exec", container, "cat", "/state/caddy/pki/authorities/local/root.crt").stdout
        (folder / "root.crt").write_text(text)
        return folder / "root.crt"


@pytest.fixture(scope="session")
def engine() -> None:
    try:
        run("docker", "info", timeout=20)
    except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
        skip_or_fail(f"no Docker engine: {error}")


@pytest.fixture(scope="session")
def caddy(engine: None) -> str:
    """A stand-in for the official image, whose hub CI does not reach."""
    flags = shlex.split(os.environ.get("THINKSHIP_BUILD_FLAGS", ""))
    run("docker", "buildx", "build", "--load", *flags, "--tag", "thinkship/test-caddy", str(ROOT / "tests" / "images" / "caddy"))
    return "thinkship/test-caddy"


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's with few questions, since every release is asked all of them before it serves."""
    return short_recipe.ask_less(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="session")
def store(engine: None, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The verified store: on top of THINKSHIP_TEST_STORE, or made here in six minutes."""
    ensure(image("llamacpp"))
    root = Path(os.environ.get("THINKSHIP_TEST_STORE") or tmp_path_factory.mktemp("store"))
    run(sys.executable, "-m", "toolkit.cli", "run", str(recipe), "--store", str(root), cwd=ROOT, timeout=2400)
    for folder in (root, *root.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)  # pytest's folders are closed to the containers' user
    return root


@pytest.fixture
def place(caddy: str, tmp_path: Path) -> Iterator[Host]:
    """A deployment of a test's own."""
    with deployment(caddy, tmp_path) as made:
        yield made


@contextmanager
def deployment(caddy: str, folder: Path) -> Iterator[Host]:
    """A deployment that is gone at the end, with its networks and volumes."""
    key = folder / "api_key"
    key.write_text(secrets.token_hex(16))
    key.chmod(0o444)
    for one in (folder, *folder.parents):
        if not one.stat().st_mode & 0o001:
            one.chmod(one.stat().st_mode | 0o011)
    (folder / "tls").mkdir(mode=0o755)
    name = f"test-{secrets.token_hex(3)}"
    settings = {"CADDY_IMAGE": caddy, "PROXY_PORT": "18444", "API_KEY_FILE": str(key), "TLS_DIR": str(folder / "tls"), "MEMORY": "4g"}
    try:
        yield Host(folder, name, key, 18444, {**os.environ, "PYTHONPATH": str(ROOT), **settings})
    finally:
        label = "label=com.docker.compose.project=thinkship-" + name
        for part in ("-blue", "-green", ""):
            for kind, remove in (("ps --all", "rm --force --volumes"), ("network ls", "network rm"), ("volume ls", "volume rm")):
                for found in run("docker", *kind.split(), "--quiet", "--filter", label + part).stdout.split():
                    run("docker", *remove.split(), found, check=False)


@pytest.fixture(scope="session")
def good(recipe: Path, store: Path) -> Release:
    """The store's release."""
    return cut(recipe, store, Commits(thinkship="1" * 40, recipe="1" * 40))


def renewed(release: Release, **changes: Any) -> Release:
    """Return another release with the id that it then has."""
    other = release.model_copy(update=changes)
    return other.model_copy(update={"id": identity(other)})


@pytest.fixture(scope="session")
def releases(good: Release, store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One that serves, a newer one, and one that serves the base model under the tuned one's name."""
    newer = renewed(good, commits=Commits(thinkship="2" * 40, recipe="1" * 40))
    wrong = renewed(good, engines=(untuned(good, store),))
    folder = tmp_path_factory.mktemp("releases")
    paths = {name: folder / f"{name}.json" for name in ("old", "new", "untuned")}
    for path, release in zip(paths.values(), (good, newer, wrong), strict=True):
        write(release, path)
    return paths


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what was measured."""
    for line in FIGURES:
        terminalreporter.write_line(line)
