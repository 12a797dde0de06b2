from __future__ import annotations

import base64
import os
import stat
import sys

import pytest
from worlds import wanted

from toolkit.deployment import gate, performing
from toolkit.deployment.acts import Access, Keep, Prove, Run, Write
from toolkit.deployment.performing import Real, key_of
from toolkit.deployment.state import Deployment, Ledger
from toolkit.errors import BrokenError, FailedError, NotReadyError
from toolkit.process import Command


@pytest.fixture
def hands(tmp_path):
    ledger = Ledger(tmp_path, "demo")
    with ledger.locked():
        yield Real(ledger)


def python(code: str) -> Command:
    return Command((sys.executable, "-c", code))


def test_a_command_that_must_succeed_fails_with_its_last_words(hands):
    with pytest.raises(FailedError, match=r"(?s)exit code 3.*no room"):
        hands.do(Run("x", python("import sys; print('no room', file=sys.stderr); sys.exit(3)"), 10))


def test_a_command_that_need_not_is_told_and_passed_over(hands, capsys):
    hands.do(Run("its last words", python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"), 10, must=False, told=True))
    told = capsys.readouterr().out
    assert "its last words" in told and "out" in told and "err" in told


def test_a_command_that_never_ends_is_ended(hands):
    with pytest.raises(FailedError, match="did not end within"):
        hands.do(Run("x", python("import time; time.sleep(30)"), 0.2))


def test_a_file_is_written_whole_and_the_containers_user_may_read_it(tmp_path):
    before = os.umask(0o077)
    try:
        hands = Real(Ledger(tmp_path, "demo"))
        with hands.ledger.locked():
            path = hands.ledger.folder / "route"
            for text in ("nobody nobody 0000\n", "blue:8080 blue:8080 0000\n"):
                hands.do(Write("x", path, text))
                assert path.read_text() == text and path.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path.parent, path.parent.parent)] == [0o755, 0o700]
    assert [one.name for one in path.parent.iterdir()] == ["route"]
    with pytest.raises(NotReadyError, match="cannot be written: No such file"):
        hands.do(Write("x", tmp_path / "nowhere" / "route", ""))


def test_the_state_is_kept(hands, released):
    state = Deployment(name="demo", goal="compose").trying(wanted(released))
    hands.do(Keep("x", state))
    assert hands.ledger.read("compose") == state


def test_a_proof_asks_the_candidate_with_its_key_and_is_held_to_the_release(hands, released, tmp_path, monkeypatch):
    seen = {}

    def passed(endpoint, held, one, folder, progress):
        seen.update(url=endpoint.url, key=endpoint.api_key, model=endpoint.model, held=held, folder=folder)

    monkeypatch.setattr(performing, "pass_through", passed)
    (tmp_path / "key").write_text("f00d\n")
    held = gate.Gate("demo", None, None, {})  # type: ignore[arg-type]
    Real(hands.ledger, held).do(Prove("x", wanted(released), Access(9, key_file=tmp_path / "key")))
    assert seen == {"url": "http://127.0.0.1:9/v1", "key": "f00d", "model": "smollm2-demo", "held": held, "folder": hands.ledger.folder}


def test_a_key_comes_from_a_file_a_secret_or_nowhere(tmp_path):
    secret = python(f"print({base64.b64encode(b'f00d').decode()!r}, end='')")
    assert key_of(Access(1, secret=secret)) == "f00d" and key_of(Access(1)) is None
    with pytest.raises(NotReadyError, match="the API key cannot be read"):
        key_of(Access(1, key_file=tmp_path / "none"))
    with pytest.raises(BrokenError, match="does not hold one"):
        key_of(Access(1, secret=python("print('no base 64!')")))
