from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.artifact import read_record, seal, verify_files
from toolkit.errors import BrokenError

FACTS = {"step": "x", "stage": "base", "id": "0", "inputs": {}, "recipe": {}, "programs": "p", "runner": "local", "thinkship": "0", "seconds": 1.0}


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"0123456789")
    (tmp_path / "facts.json").write_text("{}", encoding="utf-8")
    seal(tmp_path, **FACTS)
    return tmp_path


def problems(directory: Path, deep: bool = False) -> str:
    record = read_record(directory)
    assert record
    with pytest.raises(BrokenError) as caught:
        verify_files(directory, record, deep)
    assert caught.value.exit_code == 6 and "rm -r" in caught.value.remedy
    return caught.value.message


def test_an_untouched_directory_passes(sealed):
    record = read_record(sealed)
    assert record and [file.path for file in record.files] == ["facts.json", "model/weights"]
    verify_files(sealed, record, deep=True)


def test_a_truncated_file_is_named(sealed):
    (sealed / "model" / "weights").write_bytes(b"01234")
    assert "model/weights: 5 bytes instead of 10" in problems(sealed)


def test_an_edit_of_the_same_size_is_named(sealed):
    (sealed / "model" / "weights").write_bytes(b"012345678X")
    assert "model/weights: its content was changed" in problems(sealed)


def test_an_edit_that_hides_its_time_is_found_by_a_deep_look(sealed):
    import os

    path = sealed / "model" / "weights"
    before = path.stat()
    path.write_bytes(b"012345678X")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "its content was changed" in problems(sealed, deep=True)


def test_missing_and_added_files_are_named_together(sealed):
    (sealed / "facts.json").unlink()
    (sealed / "new").touch()
    text = problems(sealed)
    assert "facts.json: is missing" in text and "new: was added later" in text


def test_a_touched_file_with_the_same_bytes_passes(sealed):
    import os

    os.utime(sealed / "facts.json")
    record = read_record(sealed)
    assert record
    verify_files(sealed, record)


def test_a_damaged_record_is_an_error(sealed):
    (sealed / "record.json").write_text("{", encoding="utf-8")
    with pytest.raises(BrokenError, match="record is damaged"):
        read_record(sealed)


def test_an_unsealed_directory_has_no_record(tmp_path):
    assert read_record(tmp_path) is None
