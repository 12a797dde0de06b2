"""What a machine makes once: two runs that start together make it once, and one that cannot write the cache says so."""

from __future__ import annotations

import threading
import time

import pytest

from toolkit.errors import NotReadyError
from toolkit.runners import cache, environment
from toolkit.runners.environment import Environment


@pytest.fixture
def place(monkeypatch, tmp_path):
    for module in (cache, environment):
        monkeypatch.setattr(module, "CACHE", tmp_path)
    return tmp_path


def test_of_two_runs_that_need_an_environment_one_makes_it_and_the_other_waits(monkeypatch, place, capsys):
    begun = []

    def slow(self, log):
        begun.append(self.folder)
        time.sleep(0.2)
        self.folder.mkdir(parents=True)

    monkeypatch.setattr(Environment, "_install", slow)
    found = []
    threads = [threading.Thread(target=lambda: found.append(Environment("train").install())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(begun) == 1 and found == [begun[0] / "bin" / "python"] * 2
    assert "another process is making train-" in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_is_named_with_the_setting_that_moves_it(place):
    (place / "locks").write_text("in the way")
    with pytest.raises(NotReadyError, match="cannot be written") as error, cache.making("train"):
        pass
    assert "XDG_CACHE_HOME" in error.value.remedy
