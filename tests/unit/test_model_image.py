from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolkit import model_image
from toolkit.engines import Target
from toolkit.errors import InvalidError, UsageError


@pytest.fixture
def target(tmp_path: Path) -> Target:
    for name in ("merge-1/model", "gguf-2", "modelfile-3"):
        (tmp_path / name).mkdir(parents=True)
    gguf, modelfile = tmp_path / "gguf-2" / "model-q8_0.gguf", tmp_path / "modelfile-3" / "Modelfile"
    return Target("demo", 1024, 4, "qwq", "q8_0", tmp_path / "merge-1" / "model", gguf, modelfile)


def command(text: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith("CMD "))
    return json.loads(line.removeprefix("CMD "))


def test_llamacpp_carries_its_gguf_and_serves_it_by_its_flags(target):
    text = model_image.dockerfile("llamacpp", "thinkship/llamacpp:1", target)
    assert text.splitlines()[2:4] == [
        "FROM thinkship/llamacpp:1",
        "COPY --link --chmod=0444 --from=gguf model-q8_0.gguf /models/model-q8_0.gguf",
    ]
    assert command(text)[:4] == ["--model", "/models/model-q8_0.gguf", "--alias", "demo"] and "0.0.0.0" in command(text)


def test_vllm_carries_its_checkpoint_and_the_tutorials_flags(target):
    words = command(model_image.dockerfile("vllm", "x", Target(**{**vars(target), "variant": "bnb-nf4"})))
    assert words[:2] == ["--model", "/models/model"] and " ".join(words).count("--quantization bitsandbytes --load-format bitsandbytes") == 1


def test_ollamas_model_is_made_beside_its_modelfile_as_the_store_has_them(target):
    text = model_image.dockerfile("ollama", "x", target)
    assert "from=gguf,source=model-q8_0.gguf,target=/models/source/gguf-2/model-q8_0.gguf " in text  # the other quantisations are not sent
    assert "from=modelfile,target=/models/source/modelfile-3 " in text
    assert "MODELFILE=/models/source/modelfile-3/Modelfile" in text and "MODEL_NAME=demo" in text


def test_what_no_image_can_hold_or_be_called_is_refused(target):
    with pytest.raises(UsageError, match="for transformers"):
        model_image.build("transformers", target)
    with pytest.raises(InvalidError, match="'My Model' cannot name an image"):
        model_image.build("vllm", Target(**{**vars(target), "served_name": "My Model"}))
