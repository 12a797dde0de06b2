"""Every quantisation, with an importance matrix and without, against the real llama-quantize; the matrix against what may be wrong with one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
from skips import skip_or_fail

from toolkit.gguf_files import BLIND, GgufType
from toolkit.runners.tools import lacking_for_ollama, ollama
from toolkit.stages import IMAGES

KINDS = tuple(kind for kind in get_args(GgufType) if kind not in ("f16", "bf16"))
SHAPES = tuple(os.environ.get("THINKSHIP_TEST_SHAPES", "odd").split())
"""Of `shared`, `apart` and `odd`: a minute or two each. `odd` has every fallback; all three are due when mixes.py changes."""


@pytest.fixture(scope="session")
def llama_quantize() -> Path:
    if lacking_for_ollama():
        skip_or_fail(f"llama-quantize comes with Ollama, which needs {', '.join(lacking_for_ollama())}")
    program = ollama().resolve().parent.parent / "lib" / "ollama" / "llama-quantize"
    if not program.is_file():
        skip_or_fail("the Ollama on PATH has no llama-quantize beside it")
    return program


@dataclass(frozen=True)
class Made:
    """A folder of make_layers.py."""

    folder: Path
    shape: str
    guided: bool


WAYS = [
    pytest.param((shape, guided), id=f"{shape}-{'guided' if guided else 'plain'}", marks=[pytest.mark.long] * guided)
    for shape in SHAPES
    for guided in (False, True)
]


@pytest.fixture(scope="module", params=WAYS)
def made(request, convert_python, tmp_path_factory) -> Made:
    shape, guided = request.param
    folder = tmp_path_factory.mktemp(shape)
    script = Path(__file__).with_name("make_layers.py")
    argv = (str(convert_python), str(script), str(folder), shape, "guided" if guided else "plain", *KINDS)
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return Made(folder, shape, guided)


def inside(python: Path, *files: Path) -> list[dict[str, list[str]]]:
    """Return type and SHA-256 of each tensor, and of the metadata, of several files; the order in a file is llama-quantize's own affair."""
    code = """if True:
        import hashlib, json, sys
        from sources import gguf
        def seen(path):
            reader = gguf.GGUFReader(path)
            found = {t.name: [t.tensor_type.name, hashlib.sha256(t.data.tobytes()).hexdigest()] for t in reader.tensors}
            meta = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
            return found | {"metadata": ["", json.dumps(meta, sort_keys=True)]}
        print(json.dumps([seen(path) for path in sys.argv[1:]]))"""
    env = {**os.environ, "PYTHONPATH": str(IMAGES / "convert")}
    done = subprocess.run([str(python), "-c", code, *map(str, files)], check=True, capture_output=True, text=True, env=env)
    return json.loads(done.stdout)


def test_every_tensor_is_byte_equal_to_llama_quantizes(made, convert_python, llama_quantize):
    ours, theirs = [], []
    for kind in KINDS:
        target = made.folder / f"theirs-{kind}.gguf"
        argv = [str(llama_quantize), *(["--imatrix", "imatrix.gguf"] if made.guided else []), "f16.gguf", target.name, kind, "2"]
        done = subprocess.run(argv, cwd=made.folder, capture_output=True, text=True)
        mine = made.folder / f"{kind}.gguf"
        assert mine.is_file() == (done.returncode == 0), f"{kind}: one of both refuses it: {done.stderr[-500:]}"
        if mine.is_file():
            ours.append(mine)
            theirs.append(target)
    spared = {"iq3_xs", "iq3_xxs"} if made.shape == "odd" else set()  # rows of 288 spare them the blind types
    refused = set() if made.guided else set(BLIND) - spared
    assert {path.stem for path in ours} == set(KINDS) - refused
    found = inside(convert_python, *ours, *theirs)
    for path in theirs:
        path.unlink()
    for path, mine, other in zip(ours, found[: len(ours)], found[len(ours) :], strict=True):
        different = {name: (mine.get(name), other.get(name)) for name in mine.keys() | other.keys() if mine.get(name) != other.get(name)}
        assert not different, f"{path.name}: {different}"


def refusal(python: Path, code: str, *given: Path) -> list[str]:
    """Run lines that must raise ProgramError; return its message and remedy."""
    whole = "import sys\nfrom pathlib import Path\nimport imatrix, quantize\nfrom program import ProgramError\n"
    whole += f"try:\n    {code}\nexcept ProgramError as error:\n    print(error.message)\n    print(error.remedy)"
    env = {**os.environ, "PYTHONPATH": str(IMAGES / "convert")}
    done = subprocess.run([str(python), "-c", whole, *map(str, given)], check=True, capture_output=True, text=True, env=env)
    return done.stdout.splitlines()


MAKE = "quantize.Source(Path(sys.argv[1])).quantize(Path(sys.argv[3]), '{}', imatrix.read(Path(sys.argv[2])))"


@pytest.fixture(scope="session")
def pair(convert_python, tmp_path_factory) -> list[Path]:
    """Two models of unlike shapes, each with its matrix."""
    folders = [tmp_path_factory.mktemp(shape) for shape in ("shared", "odd")]
    for folder, shape in zip(folders, ("shared", "odd"), strict=True):
        script = Path(__file__).with_name("make_layers.py")
        subprocess.run([str(convert_python), str(script), str(folder), shape], check=True, capture_output=True)
    return folders


def test_another_models_matrix_is_refused_before_anything_is_written(pair, convert_python, tmp_path):
    said = refusal(convert_python, MAKE.format("q4_k_m"), pair[0] / "f16.gguf", pair[1] / "imatrix.gguf", tmp_path / "x.gguf")
    assert said[0].startswith("imatrix.gguf is another model's importance matrix: blk.") and "columns there and 256 here" in said[0]
    assert not (tmp_path / "x.gguf").exists()


def test_a_matrix_that_is_cut_off_or_no_matrix_is_refused(pair, convert_python, tmp_path):
    whole = (pair[0] / "imatrix.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "old.dat").write_bytes(b"\x02\0\0\0 anything")
    shutil.copy(pair[0] / "f16.gguf", tmp_path / "model.gguf")
    for name in ("cut.gguf", "old.dat", "model.gguf"):
        said = refusal(convert_python, MAKE.format("q4_k_m"), pair[0] / "f16.gguf", tmp_path / name, tmp_path / "x.gguf")
        assert said[0].startswith(f"{name} is no importance matrix: ") and "llama-imatrix --in-file" in said[1], said


def test_a_type_that_does_not_exist_is_refused_with_the_nearest(pair, convert_python, tmp_path):
    said = refusal(convert_python, MAKE.format("q4_km"), pair[0] / "f16.gguf", pair[0] / "imatrix.gguf", tmp_path / "x.gguf")
    assert said == ["q4_km is no type of a GGUF file", "did you mean q4_k_m?"]


def test_a_type_that_is_garbage_without_a_matrix_is_refused(pair, convert_python, tmp_path):
    code = "quantize.Source(Path(sys.argv[1])).quantize(Path(sys.argv[2]), 'iq2_m')"
    said = refusal(convert_python, code, pair[0] / "f16.gguf", tmp_path / "x.gguf")
    assert "IQ2_S, which is garbage without an importance matrix" in said[0] and "gguf.imatrix" in said[1]
    assert not (tmp_path / "x.gguf").exists()


def test_the_matrix_is_the_mean_square_of_what_the_weights_are_multiplied_with(pair, convert_python):
    # the inputs of the first layer's attention are the normalised embeddings: known without llama.cpp
    code = """if True:
        import sys
        import numpy as np
        sys.path.insert(0, sys.argv[2])
        from pathlib import Path
        import imatrix, torch
        from safetensors.torch import load_file
        folder = Path(sys.argv[1])
        chance = torch.Generator().manual_seed(3407)
        rows = [torch.randint(3, 260, (length,), generator=chance) for length in (40, 17, 5)]
        table = load_file(folder / "model" / "model.safetensors")["model.embed_tokens.weight"].half().float()
        seen = table[torch.cat(rows)]
        wanted = (seen / (seen.square().mean(1, keepdim=True) + 1e-6).sqrt()).square().mean(0).numpy()
        found = imatrix.read(folder / "imatrix.gguf")
        assert found.counts["blk.0.attn_q.weight"] == 62 and len(found.sums) == 17 * 7
        np.testing.assert_allclose(found.weights("blk.0.attn_q.weight"), wanted, rtol=1e-4)"""
    subprocess.run([str(convert_python), "-c", code, str(pair[0]), str(IMAGES / "convert")], check=True)


def test_rows_together_alone_and_in_pieces_give_one_matrix(pair, convert_python):
    code = """if True:
        import sys
        import numpy as np
        sys.path.insert(0, sys.argv[2])
        from pathlib import Path
        import imatrix, libllama, random
        chance = random.Random(7)
        rows = [[chance.randrange(3, 260) for _ in range(length)] for length in (90, 30, 60, 7)]
        seen = []
        for libllama.BATCH in (512, 90, 40):
            seen.append(imatrix.collect(Path(sys.argv[1]) / "f16.gguf", rows, "x", lambda done, total: None))
        for other in seen[1:]:
            assert other.counts == seen[0].counts
            for name, sums in seen[0].sums.items():
                np.testing.assert_allclose(other.sums[name], sums, rtol=0.01, err_msg=name)"""
    subprocess.run([str(convert_python), "-c", code, str(pair[0]), str(IMAGES / "convert")], check=True)
