from __future__ import annotations

from dataclasses import replace

import pytest

from toolkit.errors import InvalidError
from toolkit.export.place import parse
from toolkit.export.served import File
from toolkit.export.values import startup_seconds, values


def sized(one, size):
    return replace(one, files=(File("a/b", size, "0" * 64, "b"),))


def test_a_start_may_take_longer_the_more_bytes_go_by(exported):
    vllm, ollama, llamacpp = exported("vllm"), exported("ollama"), exported("llamacpp")
    large = 65_500_000_000
    assert startup_seconds(sized(replace(vllm, variant="bf16"), large)) == 764, "QwQ-32B took 200 s and more"
    assert startup_seconds(sized(vllm, large)) == 1288, "bitsandbytes quantises what was read"
    assert startup_seconds(sized(ollama, 20_000_000_000)) == 520, "Ollama copies and hashes before it loads"
    assert startup_seconds(sized(llamacpp, 20_000_000_000)) == 190
    assert startup_seconds(sized(llamacpp, 1)) == 60


def test_a_start_may_never_be_shorter_than_the_drain_is_long_by_accident(exported):
    found = values([exported("vllm")], parse("pvc://m"), "", "key")["engines"]["vllm"]
    words = found["args"]
    assert int(words[words.index("--shutdown-timeout") + 1]) <= found["drainSeconds"]


def test_several_engines_share_what_they_both_read(exported):
    found = values([exported("ollama"), exported("llamacpp")], parse("pvc://m/releases"), "", "key")
    assert [file["path"].partition("/")[2] for file in found["model"]["files"]] == ["model-q8_0.gguf", "Modelfile"]
    assert found["model"]["subPath"] == "releases" and "load" not in found["model"]


def test_a_hubs_repository_has_paths_of_its_own(exported):
    (first, *_) = values([exported("vllm")], parse("hf://a/b@c"), "", "key")["model"]["files"]
    assert first["from"] == "config.json" and first["path"].startswith("merge-") and first["path"].endswith("/model/config.json")


def test_a_model_in_the_image_needs_no_volume_no_files_and_no_flags(exported):
    found = values([exported("llamacpp", registry="r.example")], parse("image"), "r.example", "")
    assert found["model"] == {"volume": {}, "files": []} and found["apiKey"] == {"none": True}
    assert found["engines"]["llamacpp"]["image"] == "r.example/thinkship/smollm2-demo-llamacpp:TAG" and "args" not in found["engines"]["llamacpp"]


def test_more_files_than_a_pod_can_be_told_of_are_refused(exported):
    many = tuple(File(f"a/{number}", 1, "0" * 64, "b") for number in range(1001))
    with pytest.raises(InvalidError, match="1001 files"):
        values([replace(exported("llamacpp"), files=many)], parse("pvc://m"), "", "key")
