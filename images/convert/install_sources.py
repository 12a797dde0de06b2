"""Put llama.cpp's converter beside the environment: run once as `python install_sources.py PREFIX` after the lock is installed.

No wheel ships the converter's scripts; the source distribution named in sources.lock carries them. pip checks its hash, and only the
scripts are unpacked, into PREFIX/llama.cpp. pip reads the metadata with the scikit-build-core of this environment's lock, compiling nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

LOCK = Path(__file__).with_name("sources.lock")
WANTED = ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py", "conversion/", "gguf-py/gguf/", "LICENSE")
NOT_READY = 4


def main(prefix: Path) -> int:
    """Install into PREFIX/llama.cpp unless the same sources lie there; return the exit code."""
    target, lock = prefix / "llama.cpp", LOCK.read_text(encoding="utf-8")
    if (target / LOCK.name).is_file() and (target / LOCK.name).read_text(encoding="utf-8") == lock:
        return 0
    with tempfile.TemporaryDirectory(dir=prefix) as folder:
        fresh = Path(folder) / "llama.cpp"
        try:
            unpack(download(Path(folder)), fresh)
        except subprocess.CalledProcessError:
            print("error: the converter's sources could not be downloaded\nfix: see pip's message above; check the package index", file=sys.stderr)
            return NOT_READY
        (fresh / LOCK.name).write_text(lock, encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(fresh, target)
    return 0


def download(folder: Path) -> Path:
    """Let pip download the source distribution and check its hash; return the archive."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps", "--require-hashes"]
    subprocess.run([*pip, "--no-build-isolation", "--no-binary", "llama-cpp-python", "-r", str(LOCK), "-d", str(folder)], check=True)
    return next(folder.glob("*.tar.gz"))


def unpack(archive: Path, target: Path) -> None:
    """Unpack the wanted parts of vendor/llama.cpp; the filter refuses paths that would leave the target."""
    target.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.partition("/vendor/llama.cpp/")[2]
            if member.isfile() and path.startswith(WANTED):
                member.name = path
                tar.extract(member, target, filter="data")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
