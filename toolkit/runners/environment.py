"""Locked Python environments, one per folder under images/, made once with uv and kept outside the repository."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from toolkit import console, process
from toolkit.errors import FailedError, NotReadyError
from toolkit.hubs import offline
from toolkit.processors import has_nvidia
from toolkit.runners.cache import CACHE, making
from toolkit.stages import IMAGES, digest_files

UNREACHABLE = ("error sending request", "dns error", "Connection refused", "timed out", "Could not connect", "Failed to fetch", "tcp connect")


@dataclass(frozen=True)
class Environment:
    """The interpreter and packages that images/<name>/<lock> pins."""

    name: str
    lock: str = "requirements.lock"

    @property
    def folder(self) -> Path:
        """Where it is installed: its name and the digest of its lock, so that a new lock makes a new environment."""
        sources = tuple(path for path in (self.packages, self._image / "sources.lock") if path.is_file())
        return CACHE / "envs" / f"{self._title}-{digest_files(sources)[:12]}"

    @property
    def _title(self) -> str:
        return self.name if self.lock == "requirements.lock" else f"{self.name}-{Path(self.lock).stem}"

    @property
    def packages(self) -> Path:
        """Return the lock's file: the one for a GPU where the machine has one and its packages are locked apart, as vLLM's are."""
        cuda = self._image / "cuda.lock"
        return cuda if self.lock == "requirements.lock" and cuda.is_file() and has_nvidia() else self._image / self.lock

    @property
    def _image(self) -> Path:
        return IMAGES / self.name

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.folder / "bin" / "python"

    def ready(self) -> bool:
        """Say whether it is installed whole."""
        return (self.folder / ".complete").is_file()

    def install(self) -> Path:
        """Install it unless it is there, and return its interpreter; NotReadyError where the package index cannot be reached."""
        if not self.ready():
            with making(self.folder.name):
                if not self.ready():
                    self._make()
        return self.python

    def _make(self) -> None:
        console.note(f"installing the {self._title} environment, once, into {self.folder}")
        shutil.rmtree(self.folder, ignore_errors=True)
        log = CACHE / "logs" / f"{self.folder.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        try:
            self._install(log)
        except FailedError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise self._translated(error, log) from error
        (self.folder / ".complete").touch()

    def _install(self, log: Path) -> None:
        process.run(process.Command((uv(), "venv", "--quiet", "--python", sys.executable, str(self.folder))), log=log)
        sync = (uv(), "pip", "sync", "--require-hashes", "--python", str(self.python), str(self.packages))
        process.run(process.Command(sync, {"UV_HTTP_TIMEOUT": "120"} | ({"UV_OFFLINE": "1"} if offline() else {})), log=log)
        if (self._image / "install_sources.py").is_file():
            process.run(process.Command((str(self.python), str(self._image / "install_sources.py"), str(self.folder))), log=log)

    def _translated(self, error: FailedError, log: Path) -> NotReadyError:
        words = process.tail(log, 40)
        if any(sign.lower() in words.lower() for sign in UNREACHABLE):
            message = f"the {self.name} environment: the package index cannot be reached\n{process.tail(log, 5)}"
            return NotReadyError(message, "check the network or the index set for pip and uv (UV_DEFAULT_INDEX)")
        return NotReadyError(f"the {self.name} environment cannot be installed: {error.message}", f"see {log}")


def uv() -> str:
    """Return uv's program: the one installed beside this interpreter, else that on PATH."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.is_file() else str(process.which("uv", "python3 -m pip install uv"))
