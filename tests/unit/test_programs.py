"""The stage programs' folders, as text: each complete on its own, and their shared lines one text."""

from __future__ import annotations

from typing import get_args

import pytest

from toolkit import cli, engines
from toolkit.recipe import EngineName
from toolkit.stages import IMAGES, STAGES


def test_every_copy_of_program_py_is_the_same():
    copies = sorted(IMAGES.glob("*/program.py"))
    assert len(copies) >= 2 and len({path.read_bytes() for path in copies}) == 1


@pytest.mark.parametrize("name", ["tensor_files.py", "adapter_delta.py", "adapter.py"])
def test_every_copy_of_what_merges_a_weight_is_the_same(name):
    copies = sorted(IMAGES.glob(f"*/{name}"))
    assert copies and len({path.read_bytes() for path in copies}) == 1


def test_every_stage_program_is_there():
    assert [stage.program for stage in STAGES.values() if not (IMAGES.parent / stage.program).is_file()] == []


def test_no_lock_names_an_index():
    locks = [*IMAGES.glob("*/*.lock"), IMAGES.parent / "requirements.lock"]
    assert len(locks) >= 5
    assert [path.name for path in locks if "://" in (text := path.read_text(encoding="utf-8")) or "--index-url" in text] == []


def test_the_command_line_offers_the_engines_and_stages_there_are():
    assert tuple(cli.ENGINES.choices) == engines.NAMES == get_args(EngineName)
    assert list(cli.STAGES.choices) == list(STAGES)
