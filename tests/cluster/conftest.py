"""A real cluster for the chart and the exports; without one these tests are skipped, in CI they fail."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench import TABLE
from kubernetes import FIGURES, IMPORT, LIGHT, RECIPE, Namespace, bring, fresh, run
from skips import skip_or_fail

from toolkit.images import ensure, image
from toolkit.stages import ROOT

PROJECT = ROOT / ".venv" / "bin" / "python"


@pytest.fixture(scope="session")
def helm() -> str:
    found = shutil.which("helm")
    return found or skip_or_fail("no helm on PATH")


@pytest.fixture(scope="session")
def cluster(helm: str) -> str:
    """The cluster's version."""
    try:
        return run("kubectl", "get", "--raw", "/version", timeout=20).stdout
    except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
        skip_or_fail(f"no cluster: {error}")


@pytest.fixture
def namespace(cluster: str) -> Iterator[Namespace]:
    with fresh() as place:
        yield place


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's store with all that Ollama and llama.cpp serve: THINKSHIP_TEST_STORE, or made here in four minutes."""
    root = Path(os.environ.get("THINKSHIP_TEST_STORE") or tmp_path_factory.mktemp("store"))
    command = ("run", str(RECIPE), "--engine", "ollama", "--until", "modelfile", "--store", str(root))
    run(str(PROJECT), "-m", "toolkit.cli", *command, timeout=1800)
    for folder in (root, *root.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)  # pytest's folders are closed to the pods' user
    return root


@pytest.fixture(scope="session")
def exported(store: Path) -> Callable[..., Any]:
    """exported(kind, …) is what `thinkship export` writes for the demo's store."""

    def export(kind: str, *words: str) -> Any:
        done = run(str(PROJECT), "-m", "toolkit.cli", "export", kind, str(RECIPE), *(("--store", str(store), *words)))
        return list(yaml.safe_load_all(done.stdout))

    return export


@pytest.fixture(scope="session")
def values(exported: Callable[..., Any], store: Path) -> Callable[..., dict[str, Any]]:
    """values(engine) are those of one engine on the store as a hostPath, small enough for several replicas on one machine, open as a NodePort."""

    def make(engine: str, **more: Any) -> dict[str, Any]:
        (found,) = exported("k8s", "--engine", engine, "--model", f"hostpath://{store.resolve()}")
        found["engines"][engine] |= {"resources": LIGHT, "service": {"type": "NodePort"}, **more}
        if engine == "ollama":
            found["apiKey"] = {"none": True}
        for name in ("verify", engine) if IMPORT else ():
            ensure(image(name))
        bring(found["images"]["tools"], found["engines"][engine]["image"])
        return found

    return make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what was measured; THINKSHIP_CLUSTER_FAULTS names a page whose table of faults is renewed."""
    for line in (*FIGURES, *TABLE.rows.values()):
        terminalreporter.write_line(line)
    if page := os.environ.get("THINKSHIP_CLUSTER_FAULTS"):
        TABLE.write(Path(page))
