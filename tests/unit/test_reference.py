from __future__ import annotations

import pytest

from toolkit import reference
from toolkit.errors import BrokenError


def test_the_page_in_the_repository_is_what_the_code_says():
    reference.write(check=True)


def test_a_page_that_differs_is_refused(monkeypatch, tmp_path):
    page = tmp_path / "reference.md"
    page.write_text("# Reference\n", encoding="utf-8")
    monkeypatch.setattr(reference, "PAGE", page)
    with pytest.raises(BrokenError, match="not what the code says"):
        reference.write(check=True)


def test_every_key_and_command_has_words():
    rows = [line for line in reference.lines() if line.startswith(("| `", "* `"))]
    assert len(rows) > 80
    assert [row for row in rows if row.endswith(("|  |", "`"))] == []
