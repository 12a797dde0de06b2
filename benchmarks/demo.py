"""Times `make demo` from a fresh clone: cold (empty caches, downloads included), with the environments there, and with nothing to do;
then the commands that must be there at once.

    python3 benchmarks/demo.py [--warm-only]

Prints seconds and the peak resident memory of all processes together, sampled once a second from /proc (walking the
page tables more often slows down what is measured), as a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECIPE = "recipes/smollm2-demo.yml"


def resident(session: int) -> int:
    """Return the proportional resident bytes of every process below ours."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    family, grown = {session}, True
    while grown:
        new = {pid for pid, parent in parents.items() if parent in family} - family
        grown, family = bool(new), family | new
    return sum(proportional(pid) for pid in family)


def proportional(pid: int) -> int:
    """Return a process's proportional set size in bytes (proc(5), smaps_rollup)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def timed(argv: list[str], folder: Path, env: dict[str, str]) -> tuple[float, int]:
    """Run a command and return its seconds and the peak memory of all its processes."""
    began, peak = time.monotonic(), 0
    process = subprocess.Popen(argv, cwd=folder, env={**os.environ, **env})
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(1):
            peak = max(peak, resident(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(argv)} ended with exit code {code}")
    return time.monotonic() - began, peak


def main() -> None:
    """Run the three measurements and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--warm-only", action="store_true", help="skip the run with empty caches")
    given = options.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        caches = {"XDG_CACHE_HOME": f"{place}/cache", "UV_CACHE_DIR": f"{place}/cache/uv", "PIP_CACHE_DIR": f"{place}/cache/pip"}
        if not given.warm_only:
            rows.append(("`make demo`, fresh clone, empty caches", *fresh(Path(place) / "cold", caches)))
            rows.append(("`make demo`, fresh clone, environments there", *fresh(Path(place) / "warm", caches)))
            rows.append(("`make demo` again, nothing changed", *timed(["make", "demo"], Path(place) / "warm", caches)))
        else:
            rows.append(("`make demo`, fresh clone, environments there", *fresh(Path(place) / "warm", {})))
            rows.append(("`make demo` again, nothing changed", *timed(["make", "demo"], Path(place) / "warm", {})))
        rows += [(f"`thinkship {' '.join(words)}`", *quickest(Path(place) / "warm", words)) for words in (["--help"], ["plan", RECIPE])]
    print("\n| what | seconds | peak memory, GiB |\n| --- | --- | --- |")
    for name, seconds, peak in rows:
        print(f"| {name} | {seconds:.{1 if seconds > 1 else 2}f} | {f'{peak / 2**30:.2f}' if peak else ''} |")


def fresh(folder: Path, env: dict[str, str]) -> tuple[float, int]:
    """Clone the repository and time the demo there."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return timed(["make", "demo"], folder, env)


def quickest(folder: Path, words: list[str]) -> tuple[float, int]:
    """Return the least seconds that a command took in five tries."""
    took = []
    for _ in range(5):
        began = time.monotonic()
        subprocess.run([".venv/bin/thinkship", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        took.append(time.monotonic() - began)
    return min(took), 0


if __name__ == "__main__":
    main()
