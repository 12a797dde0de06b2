# ruff: noqa: F401, F811 - pytest finds the imported fixtures by their names
"""A bundle that is not what its manifest says: told in one sentence with the member's name, and nothing of it gets a name in the store."""

from __future__ import annotations

import fcntl
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import load, manifest, named, save, saved, sealed, store
from small_disk import mounted

from toolkit.bundle import archive

pytestmark = pytest.mark.loopback


def altered(path: Path, target: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    target.write_bytes(data)
    return target


def flip(place: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[place] ^= 1

    return change


def refused(path: Path, store: Path, code: int, *words: str) -> None:
    done = load(path, store)
    assert done.returncode == code and all(word in done.stderr for word in (*words, "fix:")), done.stderr
    assert "Traceback" not in done.stderr
    assert not named(store) and not list(store.glob(".bundles/*")) and not list(store.glob(".incoming/*"))


def test_a_flipped_byte_is_named_wherever_it_stands(saved, store, tmp_path):
    """In the header, the content and the padding of members, in the manifest, its checksum and the end."""
    with archive.opened(saved) as bundle:
        slots = bundle.slots
    kinds = ("config.json", "record.json", "init.sh", "values.yaml")
    chosen = [*slots[:2], *(next(slot for slot in slots[2:] if slot.path.endswith(kind)) for kind in kinds)]
    for slot in chosen:
        places = [slot.start + 150, slot.start + 200, slot.data, slot.data + slot.size - 1, *([slot.end - 1] if slot.padding else [])]
        for place in places:
            name = archive.HEAD if slot.path == archive.SUM else slot.path
            refused(altered(saved, tmp_path / "x.tar", flip(place)), store, 6, name)
    refused(altered(saved, tmp_path / "x.tar", flip(-1)), store, 6, "behind its last member")
    refused(altered(saved, tmp_path / "x.tar", flip(0)), store, 3, "is no bundle")


def test_a_truncated_archive_is_told_with_the_member_in_which_it_ends(saved, store, tmp_path):
    with archive.opened(saved) as bundle:
        slot = next(slot for slot in bundle.slots if slot.path.endswith("model.safetensors"))
        head = bundle.slots[0]
    whole = saved.stat().st_size
    ends = {slot.data + 3: slot.path, whole - 600: "the blocks that end it", head.data + 5: archive.HEAD, 100: archive.HEAD, 0: ""}
    for size, name in ends.items():

        def cut(data: bytearray, size: int = size) -> None:
            del data[size:]

        refused(altered(saved, tmp_path / "x.tar", cut), store, 6 if name else 3, name or "is no bundle")


def test_what_hangs_behind_the_end_is_told(saved, store, tmp_path):
    refused(altered(saved, tmp_path / "x.tar", lambda data: data.extend(b"more")), store, 6, "4 bytes behind its end")


def written(told: dict, contents: dict[str, bytes], target: Path, change: Callable[[tarfile.TarInfo], None] = lambda _: None) -> Path:
    """Write an archive as a stranger could: a manifest of their own with the right checksum, any members."""
    head = (json.dumps(told, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as sink:
        for name, data in {archive.HEAD: head, archive.SUM: archive.checksum_line(head), **contents}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            if name not in (archive.HEAD, archive.SUM):
                change(info)
            sink.addfile(info, io.BytesIO(data if info.isreg() else b""))
    return target


def stranger(path: str, data: bytes = b"evil") -> tuple[dict, dict[str, bytes]]:
    member = {"path": path, "size": len(data), "sha256": archive.digest(data)}
    told = {"schema_version": 1, "thinkship": "0", "recipe": "x", "model": "x", "verdict": "", "serving": {}, "directories": [], "images": []}
    return {**told, "members": [member]}, {path: data}


def test_a_strangers_archive_of_harmless_members_is_taken(store, tmp_path):
    """So that what is refused below is refused for its path."""
    told, contents = stranger("recipe/x.yml")
    assert load(written(told, contents, tmp_path / "x.tar"), store).returncode == 0
    (found,) = store.glob(".bundles/x-*/recipe/x.yml")
    assert found.read_bytes() == b"evil"


@pytest.mark.parametrize(
    "path",
    [
        "../evil",
        "recipe/../../evil",
        "/tmp/evil",
        "recipe//x",
        "recipe/./x",
        "recipe/..",
        "store/../x",
        "a\\..\\b",
        "recipe/x\ny",
        "evil",
        "bin/evil",
        "",
    ],
)
def test_a_path_that_climbs_out_is_refused(store, tmp_path, path):
    told, contents = stranger(path)
    refused(written(told, contents, tmp_path / "x.tar"), store, 3, "manifest.json: members/0/path")
    assert sorted(found.name for found in tmp_path.iterdir()) in (["x.tar"], ["store", "x.tar"])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(store, tmp_path, kind):
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, "/etc/passwd", 0

    told, contents = stranger("recipe/x.yml", b"")
    refused(written(told, contents, tmp_path / "x.tar", change), store, 6, "recipe/x.yml")


def test_a_member_that_is_not_what_the_manifest_lists_is_refused(store, tmp_path):
    told, _ = stranger("recipe/x.yml")
    refused(written(told, {"recipe/y.yml": b"evil"}, tmp_path / "x.tar"), store, 6, "recipe/x.yml")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"directories": ["merge-1"]}, "not those of the directories"),
        ({"schema_version": 2}, "schema_version"),
        ({"more": 1}, "more"),
        ({"recipe": "../x"}, "recipe"),
        ({"images": [{"tags": ["x"], "config": "0" * 64, "manifest": "0" * 64, "layers": []}]}, "is missing"),
    ],
)
def test_a_manifest_that_does_not_hold_together_is_refused(store, tmp_path, change, words):
    told, contents = stranger("recipe/x.yml")
    refused(written(told | change, contents, tmp_path / "x.tar"), store, 3, words)


def test_a_member_that_nobody_lists_is_refused(store, tmp_path):
    told, contents = stranger("recipe/x.yml")
    refused(written(told | {"members": []}, contents, tmp_path / "x.tar"), store, 6, "behind its last member")


def test_two_files_of_one_name_and_a_file_that_is_a_folder_are_refused(store, tmp_path):
    told, contents = stranger("recipe/x")
    (one,) = told["members"]
    for members, words in (([one, one], "twice"), ([one, {**one, "path": "recipe/x/y"}], "a file and a folder")):
        refused(written({**told, "members": members}, contents, tmp_path / "x.tar"), store, 3, words)


def test_a_record_that_tells_of_other_files_is_refused(store, tmp_path):
    folder = sealed(tmp_path / "merge-1", {"weights": b"true"})
    told, _ = stranger("recipe/x.yml")
    contents = {"store/merge-1/record.json": (folder / "record.json").read_bytes(), "store/merge-1/weights": b"evil"}
    members = [{"path": path, "size": len(data), "sha256": archive.digest(data)} for path, data in contents.items()]
    changed = {**told, "members": members, "directories": ["merge-1"]}
    refused(written(changed, contents, tmp_path / "x.tar"), store, 6, "the record of merge-1 tells of other files")


def test_a_store_with_another_directory_of_that_name_is_left_as_it_is(saved, store):
    name = next(name for name in manifest(saved)["directories"] if name.startswith("gguf-"))
    sealed(store / name, {"model-q8_0.gguf": b"another"}, "gguf")
    done = load(saved, store)
    assert done.returncode == 6 and f"{store / name} is another directory of that name" in done.stderr and "fix: rm -r" in done.stderr
    assert named(store) == [name] and (store / name / "model-q8_0.gguf").read_text() == "another"


def test_what_an_interrupted_run_left_under_a_name_is_replaced(saved, store):
    name = manifest(saved)["directories"][0]
    (store / name).mkdir(parents=True)
    (store / name / "garbage").touch()
    assert load(saved, store).returncode == 0
    assert not (store / name / "garbage").exists() and (store / name / "record.json").is_file()


def test_a_directory_that_is_there_and_was_touched_is_told(saved, finished, store):
    name = next(name for name in manifest(saved)["directories"] if name.startswith("merge-"))
    shutil.copytree(finished / name, store / name)
    (store / name / "model" / "model.safetensors").write_text("weightz")
    done = load(saved, store)
    assert done.returncode == 6 and "model/model.safetensors" in done.stderr and named(store) == [name]


def test_a_full_disk_is_told_before_the_first_byte(saved, tmp_path):
    with mounted(tmp_path / "disk", 8) as disk:
        done = load(saved, disk / "store")
        assert done.returncode == 4 and "MiB are needed" in done.stderr and "8 MiB are free" in done.stderr.replace("7 MiB", "8 MiB")
        assert not named(disk / "store")


def test_a_disk_too_small_for_the_archive_is_told_before_the_first_byte(finished, tmp_path):
    with mounted(tmp_path / "disk", 1) as disk:
        (disk / "other").write_bytes(bytes(980_000))
        done = save(finished, disk / "x.tar")
        assert done.returncode == 4 and "are needed for the bundle" in done.stderr
        assert sorted(path.name for path in disk.iterdir()) == ["other"]


def test_a_store_that_is_in_use_is_told(saved, store):
    store.mkdir()
    with (store / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        done = load(saved, store)
    assert done.returncode == 4 and "another run uses the store" in done.stderr
