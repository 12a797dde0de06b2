"""Cards by name, by memory, and as nvidia-smi shows them."""

from __future__ import annotations

import pytest

from toolkit import recipe_file
from toolkit.errors import InvalidError, UsageError
from toolkit.fit.card import DRIVER, named, present


@pytest.mark.parametrize(
    ("text", "name", "gib"),
    [
        ("RTX 4090", "RTX 4090", 23.99),
        ("NVIDIA GeForce RTX 4090", "RTX 4090", 23.99),
        ("NVIDIA H100 80GB HBM3", "H100 80GB", 79.65),
        ("h100", "H100 80GB", 79.65),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB", 40.0),
        ("A10G", "A10G", 22.49),
        ("A10", "A10", 22.49),
        ("24GiB", "card of 24 GiB", 24.0),
        ("16 GB", "card of 16 GiB", 16.0),
    ],
)
def test_a_card_is_found(text, name, gib):
    assert named(text).name == name and named(text).memory / 2**30 == pytest.approx(gib, abs=0.01)


@pytest.mark.parametrize(("text", "hint"), [("RTX 4091", "did you mean RTX 4090"), ("A100", "A100 40GB, A100 80GB"), ("banana", "24GiB")])
def test_a_card_that_is_not_known_or_is_two_is_refused(text, hint):
    with pytest.raises(UsageError) as caught:
        named(text)
    assert hint in caught.value.remedy


def test_a_laptops_card_is_not_taken_for_its_namesake():
    with pytest.raises(UsageError):
        named("RTX 4090 Laptop GPU")


def test_a_recipe_names_an_unknown_card_with_its_place(demo_text):
    with pytest.raises(InvalidError, match=r"serve/vllm/card: no card is known as 'RTX 4091'"):
        recipe_file.parse(demo_text.replace("vllm: {variants:", "vllm: {card: RTX 4091, variants:"), "x.yml")


def smi(folder, monkeypatch, line, code=0):
    """Put a program in front of PATH that answers as nvidia-smi does."""
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\necho '{line}'\nexit {code}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_the_machines_card_is_read_with_what_is_known_of_it(tmp_path, monkeypatch):
    smi(tmp_path, monkeypatch, "NVIDIA L40S, 46068, 8.9, 570.86.15")
    (card,) = present()
    assert (card.memory, card.capability, card.bandwidth) == (46068 << 20, 8.9, 864e9)
    assert card.driver_too_old and DRIVER == 580


def test_a_card_nobody_has_heard_of_has_its_memory_all_the_same(tmp_path, monkeypatch):
    smi(tmp_path, monkeypatch, "NVIDIA Unheard-of, 40000, 9.9, 600.1")
    (card,) = present()
    assert (card.memory, card.bandwidth, card.driver_too_old) == (40000 << 20, None, False)


def test_a_failing_nvidia_smi_is_no_card(tmp_path, monkeypatch):
    smi(tmp_path, monkeypatch, "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver", 9)
    assert present() == ()
