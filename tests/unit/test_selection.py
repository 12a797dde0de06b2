from __future__ import annotations

import pytest

from toolkit.errors import InvalidError
from toolkit.hubs import RemoteFile
from toolkit.selection import checkpoint, rows


def files(*paths: str) -> list[RemoteFile]:
    return [RemoteFile(path, 1, "sha256:0") for path in paths]


def names(found) -> list[str]:
    return [file.path for file in found]


def test_a_checkpoint_is_taken_once_and_without_what_can_run():
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json")
    extra = ("model.fp16.safetensors", "pytorch_model.bin", "model.gguf", "modeling.py", "onnx/model.safetensors", "README.md")
    assert names(checkpoint(files("config.json", "merges.txt", *shards, *extra), "x")) == ["config.json", "merges.txt", *sorted(shards)]
    assert names(checkpoint(files("config.json", "weights.safetensors"), "x")) == ["config.json", "weights.safetensors"]


@pytest.mark.parametrize(("paths", "lacking"), [(("model.safetensors",), "no config.json"), (("config.json", "a.bin"), r"no \*\.safetensors")])
def test_what_is_no_checkpoint_is_refused(paths, lacking):
    with pytest.raises(InvalidError, match=f"owner/x is no checkpoint: {lacking}"):
        checkpoint(files(*paths), "owner/x")


MEDICAL = "---\nlicense: x\nconfigs:\n- config_name: en\n  data_files: medical_en.json\n- config_name: zh\n  data_files: medical_zh.json\n---\n"
BY_SPLIT = """---
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*}
  - {split: test, path: [data/test-*, 'more/**/t?st.jsonl']}
- config_name: all
  data_dir: all
  data_files: {train: '*.parquet'}
---
"""
FOUND = [
    (MEDICAL, ("medical_en.json", "medical_zh.json"), "en", "train[0:500]", ["medical_en.json"]),
    (BY_SPLIT, ("data/train-0.parquet", "data/sub/train-0.parquet", "x.csv"), None, "train", ["data/train-0.parquet"]),
    (BY_SPLIT, ("data/test-0.parquet", "more/test.jsonl", "more/a/b/test.jsonl", "more/tst.jsonl"), None, "test", [0, 1, 2]),
    (BY_SPLIT, ("all/x.parquet", "x.parquet"), "all", "train", ["all/x.parquet"]),
    ("", ("b.jsonl", "a.jsonl"), None, "train", ["a.jsonl", "b.jsonl"]),
    ("", ("en/train/0000.parquet", "zh/train/0000.parquet", "en/test/0000.parquet"), "en", "train", ["en/train/0000.parquet"]),
    ("", ("sums_dev.csv", "sums_train.csv"), None, "validation", ["sums_dev.csv"]),
    ("# Sums\n", ("rows.json", "rows.txt"), None, "train", ["rows.json"]),
]


@pytest.mark.parametrize(("readme", "paths", "config", "split", "expected"), FOUND)
def test_the_files_of_a_split(readme, paths, config, split, expected):
    wanted = [paths[part] if isinstance(part, int) else part for part in expected]
    assert sorted(names(rows(files(*paths), readme, config, split))) == sorted(wanted)


NOT_FOUND = [
    (MEDICAL, ("medical_en.json",), None, "train", "has the configurations en, zh"),
    (
        MEDICAL,
        ("medical_en.json",),
        "fr",
        "train",
        r"configuration 'fr', split 'train' \(files: medical_en.json; configurations: en, zh\)",
    ),
    (MEDICAL, ("medical_en.json",), "en", "test", "split 'test'"),
    ("", ("train.jsonl",), None, "test[0:9]", r"split 'test' \(files: train.jsonl\)"),
    ("---\n: [\n---\n", ("rows.json",), None, "train", "is no YAML"),
    ("", ("loader.py",), None, "train", r"files: no \.jsonl, "),
]


@pytest.mark.parametrize(("readme", "paths", "config", "split", "words"), NOT_FOUND)
def test_says_what_is_there_where_nothing_fits(readme, paths, config, split, words):
    with pytest.raises(InvalidError, match=words):
        rows(files(*paths), readme, config, split)
