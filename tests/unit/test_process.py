from __future__ import annotations

import ast
import os
import signal
import sys
import time
from functools import cache
from pathlib import Path

import pytest

from toolkit import process
from toolkit.errors import FailedError, NotReadyError
from toolkit.process import Command
from toolkit.stages import ROOT

pytestmark = pytest.mark.loopback


def python(code: str, **env: str) -> Command:
    return Command((sys.executable, "-c", code), env)


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_output_lines_arrive_and_are_returned():
    lines: list[str] = []
    done = process.run(python("print('a'); print('b')"), on_line=lines.append)
    assert (done.code, done.output, lines) == (0, "a\nb\n", ["a", "b"])


def test_children_are_told_how_to_wait_unless_the_user_says_otherwise(monkeypatch):
    told = "import os; print(os.environ['GOMP_SPINCOUNT'])"
    assert process.run(python(told)).output.strip() == process.WAITING["GOMP_SPINCOUNT"]
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert process.run(python(told)).output.strip() == "7"


def test_a_failure_names_the_program_its_code_and_last_words(tmp_path):
    with pytest.raises(FailedError, match=r"(?s)exit code 3.*boom"):
        process.run(python("import sys; print('boom', file=sys.stderr); sys.exit(3)"), log=tmp_path / "log")


def test_a_missing_program_is_not_ready():
    with pytest.raises(NotReadyError, match="no-such-tool could not be started"):
        process.run(Command(("no-such-tool",)))


def test_a_time_limit_ends_the_whole_group(tmp_path):
    note = tmp_path / "pid"
    code = f"import subprocess, pathlib; p = subprocess.Popen(['sleep', '60']); pathlib.Path({str(note)!r}).write_text(str(p.pid)); p.wait()"
    began = time.monotonic()
    with pytest.raises(FailedError, match="did not end within"):
        process.run(python(code), timeout=0.7)
    assert time.monotonic() - began < 6
    assert gone(int(note.read_text()))


def test_a_killed_parent_takes_its_children_with_it(tmp_path):
    note = tmp_path / "pid"
    child = f"import os, pathlib, time; pathlib.Path({str(note)!r}).write_text(str(os.getpid())); time.sleep(60)"
    parent = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom toolkit.process import *\nrun(Command((sys.executable, '-c', {child!r})))"
    running = process.start(python(parent), log=tmp_path / "log")
    while not (note.exists() and note.read_text()):
        time.sleep(0.02)
    victim = int(Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()[0])
    os.kill(victim, signal.SIGKILL)
    assert gone(int(note.read_text()))
    running.stop()


def test_what_a_command_leaves_behind_is_ended(tmp_path):
    done = process.run(python("import subprocess; print(subprocess.Popen(['sleep', '60'], stdout=-3).pid)"))
    assert gone(int(done.output))


def test_secrets_do_not_print():
    assert str(Command(("x",), {"HF_TOKEN": "abc", "A": "1"})) == "HF_TOKEN=*** A=1 x"


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def imports(path: Path) -> set[str]:
    names = {alias.name for node in nodes(path) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in nodes(path) if isinstance(node, ast.ImportFrom) and node.module}


@pytest.mark.parametrize(
    ("module", "owners"),
    [
        ("subprocess", {"toolkit/process.py"}),
        ("docker", {"toolkit/runners/docker.py"}),
        ("torch", set()),
        ("rich.console", {"toolkit/console.py"}),
    ],
)
def test_each_foreign_thing_has_one_door(module, owners):
    files = sorted((ROOT / "toolkit").rglob("*.py"))
    assert len(files) > 20
    assert {path.relative_to(ROOT).as_posix() for path in files if module in imports(path)} <= owners


def test_only_the_console_prints():
    calls = [
        f"{path.name}:{node.lineno}"
        for path in sorted((ROOT / "toolkit").rglob("*.py"))
        if path.name not in ("console.py", "supervisor.py")
        for node in nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert calls == []
