from __future__ import annotations

import pytest

from toolkit.errors import UsageError
from toolkit.export.place import parse


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("pvc://models/releases", {"persistentVolumeClaim": {"claimName": "models"}}),
        ("hostpath:///srv/models/", {"hostPath": {"path": "/srv/models", "type": "Directory"}}),
        ("oci://registry:5000/team/model:1", {"image": {"reference": "registry:5000/team/model:1", "pullPolicy": "IfNotPresent"}}),
        ("image", {}),
        ("hf://owner/name@0123abc", {"emptyDir": {}}),
        ("s3://bucket/prefix", {"emptyDir": {}}),
        ("https://host/models", {"emptyDir": {}}),
    ],
)
def test_a_place_becomes_the_volume_that_is_mounted(text, volume):
    assert parse(text).volume() == volume


def test_what_comes_over_a_network_is_told_from_what_is_mounted():
    assert [parse(text).remote for text in ("pvc://a", "hostpath:///a", "image", "oci://a/b:1", "hf://a/b@c", "s3://a", "http://a")] == [
        *(False, False, False, False, True, True, True)
    ]


def test_kserve_reads_one_directory_of_a_volume_and_a_whole_repository():
    assert parse("pvc://models/releases/").uri("merge-1/model") == "pvc://models/releases/merge-1/model"
    assert parse("hf://owner/name@c").uri("merge-1/model") == "hf://owner/name@c"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no place"),
        ("/srv/models", "is no place"),
        ("ftp://host/x", "is no place"),
        ("s3://", "is no place"),
        ("pvc://a b", "is no place"),
        ("hostpath://srv", "names no absolute path"),
        ("hostpath:///", "names no absolute path"),
        ("hf://owner/name", "names no commit"),
        ("pvc://Models", "cannot name a claim"),
        ("https:///path", "names no host"),
    ],
)
def test_what_is_no_place_is_refused_with_what_is(text, words):
    with pytest.raises(UsageError, match=words) as error:
        parse(text)
    assert error.value.remedy
