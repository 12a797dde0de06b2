"""What a machine makes once: two runs that start together make it once, and one that cannot write the cache says so."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pinned
import pytest

from toolkit.errors import NotReadyError
from toolkit.runners import cache, environment
from toolkit.runners.environment import Environment
from toolkit.stages import ROOT


@pytest.fixture
def place(monkeypatch, tmp_path):
    for module in (cache, environment, pinned):
        monkeypatch.setattr(module, "CACHE", tmp_path)
    return tmp_path


def test_of_two_runs_that_need_an_environment_one_makes_it_and_the_other_waits(monkeypatch, place, capsys):
    begun = []

    def slow(self, log):
        begun.append(self.folder)
        time.sleep(0.2)
        self.folder.mkdir(parents=True)

    monkeypatch.setattr(Environment, "_install", slow)
    found = twice(Environment("train").install)
    assert len(begun) == 1 and found == [begun[0] / "bin" / "python"] * 2
    assert "another process is making train-" in capsys.readouterr().out


def twice(make):
    """Call something in two threads and return what both got."""
    found = []
    threads = [threading.Thread(target=lambda: found.append(make())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_so_do_two_suites_that_need_an_environment_of_the_tests_alone(monkeypatch, place, capsys):
    begun = []

    def slow(command):
        begun.append(command.argv[1:3])
        time.sleep(0.1)
        if "venv" in command.argv:
            Path(command.argv[-1]).mkdir(parents=True)

    monkeypatch.setattr(pinned.process, "run", slow)
    lock = ROOT / "requirements.lock"
    first, second = twice(lambda: pinned.environment(lock, "other"))
    assert first == second and (first / ".complete").is_file()
    assert begun == [("venv", "--quiet"), ("pip", "sync")]
    assert "another process is making other-" in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_is_named_with_the_setting_that_moves_it(place):
    (place / "locks").write_text("in the way")
    with pytest.raises(NotReadyError, match="cannot be written") as error, cache.making("train"):
        pass
    assert "XDG_CACHE_HOME" in error.value.remedy
