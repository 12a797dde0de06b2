from __future__ import annotations

import pytest

from toolkit import reference
from toolkit.cli import cli
from toolkit.errors import BrokenError


def test_the_files_in_the_repository_are_what_the_code_says():
    reference.write(True, cli)


@pytest.mark.parametrize("name", ["PAGE", "SCHEMA", "RELEASE"])
def test_a_file_that_differs_or_is_missing_is_refused_by_name(monkeypatch, tmp_path, name):
    file = tmp_path / getattr(reference, name).name
    monkeypatch.setattr(reference, name, file)
    for text in (None, "{}\n"):
        if text:
            file.write_text(text, encoding="utf-8")
        with pytest.raises(BrokenError, match=f"docs/{file.name} is not what the code says"):
            reference.write(True, cli)


def test_every_key_and_command_has_words():
    rows = [line for line in reference.lines(cli) if line.startswith(("| `", "* `"))]
    assert len(rows) > 80
    assert [row for row in rows if row.endswith(("|  |", "`"))] == []
