"""A real Docker engine for the images' tests; without one they are skipped, in CI they fail."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from docker_engine import SECRETS, Built, docker, name_of
from skips import skip_or_fail

from toolkit.stages import IMAGES, ROOT


@pytest.fixture(scope="session")
def engine() -> None:
    try:
        docker("info", timeout=20)
    except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
        skip_or_fail(f"no Docker engine: {error}")


@pytest.fixture(scope="session")
def built(engine: None) -> Built:
    """built(image) builds it, from the cache where nothing has changed, and returns its name."""
    names: dict[str, str] = {}

    def build(image: str) -> str:
        if image not in names:
            folder = IMAGES / image
            context = (str(ROOT), "--file", str(folder / "Dockerfile")) if image == "verify" else (str(folder),)
            variant = ("--build-arg", "VARIANT=cpu") if image == "vllm" else ()
            docker("buildx", "build", *SECRETS, *variant, "--tag", name_of(image), *context, timeout=3600)
            names[image] = name_of(image)
        return names[image]

    return build


@pytest.fixture
def container(engine: None) -> Any:
    """container(image, *flags, command=...) starts one in the background and returns its id; all are removed at the end."""
    started: list[str] = []

    def run(image: str, *flags: str, command: tuple[str, ...] = ()) -> str:
        started.append(docker("run", "--detach", *flags, image, *command).stdout.strip())
        return started[-1]

    yield run
    for one in started:
        docker("rm", "--force", "--volumes", one, check=False)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a GGUF of two random layers and a Modelfile, readable for every user."""
    folder = tmp_path_factory.mktemp("models")
    code = "import sys, pathlib, selftest; selftest.write_gguf(pathlib.Path(sys.argv[1]))"
    env = {**os.environ, "PYTHONPATH": str(IMAGES / "llamacpp")}
    subprocess.run(["python3", "-B", "-c", code, str(folder / "model.gguf")], check=True, env=env)
    (folder / "Modelfile").write_text('FROM model.gguf\nTEMPLATE """{{ .Prompt }}"""\nPARAMETER num_ctx 256\n')
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    return folder
