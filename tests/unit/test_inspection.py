"""`thinkship data inspect` on the host: the page, the table, the histogram and what is refused before anything runs."""

from __future__ import annotations

import json
import re
from html import unescape

import inspection_sample
import pytest
from terminal import thinkship

from toolkit.errors import UsageError
from toolkit.inspection import page, survey, table
from toolkit.report.drawing import Bar, bars


@pytest.fixture
def found():
    return inspection_sample.found()


def test_the_page_takes_nothing_from_elsewhere_and_runs_nothing(found):
    text = page.html(found)
    assert "<script" not in text and "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert "&lt;script&gt;document.title" in text and "&lt;b&gt;clinic&lt;/b&gt;" in text


def test_the_tokens_of_a_row_make_up_its_text_and_bear_their_ids(found):
    text = page.html(found)
    (first, *_) = re.findall(r'<pre class="tokens">(.*?)</pre>', text, re.DOTALL)
    pieces = re.findall(r'<span class="(\w)" title="(\d+)">(.*?)</span>', first, re.DOTALL)
    assert re.sub(r'<span class="\w" title="\d+">.*?</span>', "", first, flags=re.DOTALL) == ""
    sample = found["samples"][0]
    wanted = [(kind, str(token)) for kind, part in (("p", "prompt"), ("t", "thinking"), ("a", "answer")) for _, token in sample[part]]
    assert [(kind, token) for kind, token, _ in pieces] == wanted
    shown = "".join(unescape(piece) for _, _, piece in pieces).replace("↵\n", "\n").replace("·", "")
    assert shown == "".join(piece for part in ("prompt", "thinking", "answer") for piece, _ in sample[part])


def test_the_page_says_what_stands_out(found):
    lines = list(table.attention(found))
    assert lines == [
        "training: 6 dropped: too long, first train.jsonl:7",
        "training: 4 dropped: unclosed tag, first train.jsonl:9",
        "1 held-out questions are trained on: the dataset stage will refuse them",
        "1 held-out questions are nearly trained on",
    ]
    text = page.html(found)
    assert all(line in text for line in lines) and "Nothing stands out" not in text


def test_a_clean_dataset_has_nothing_that_stands_out(found):
    clean = {**found, "parts": {"source": inspection_sample.part()}, "overlap": None, "samples": []}
    text = page.html(clean)
    assert "Nothing stands out" in text and "held-out questions" not in text and '<pre class="tokens">' not in text


def test_a_histogram_tells_its_values_and_the_bars_beyond_the_limit():
    drawing = bars("x", "Lengths", [Bar(0, 8, 3), Bar(8, 16, 0), Bar(16, 24, 5)], ("tokens", "rows"), (16, "max_length 16"))
    assert "above 0 up to 8: 3; above 16 up to 24: 5" in drawing
    assert drawing.count('class="bar"') == 2 and drawing.count('class="beyond"') == 1 and "max_length 16" in drawing
    heights = [float(value) for value in re.findall(r'<rect[^>]*height="([\d.]+)"', drawing)]
    assert heights[1] == 0 and heights[0] / heights[2] == pytest.approx(3 / 5, rel=1e-2)


def test_a_limit_far_beyond_the_bars_is_told_and_not_drawn():
    far, near = (bars("x", "Lengths", [Bar(0, 8, 1), Bar(8, 16, 2)], ("tokens", "rows"), (place, f"max_length {place}")) for place in (2048, 20))
    assert "max_length 2048 →" in far and 'class="limit"' not in far
    assert "max_length 20<" in near and 'class="limit"' in near
    assert "0.5" not in re.findall(r">([\d.]+)<", near), "half a row"


def test_the_page_can_be_written_where_it_is_wanted(found, tmp_path, capsys):
    survey.show(found, tmp_path / "x.html", as_json=True)
    assert (tmp_path / "x.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads(capsys.readouterr().out) == found
    with pytest.raises(UsageError, match="its folder is not there"):
        survey.show(found, tmp_path / "none" / "x.html", as_json=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere.jsonl",), "there is no such recipe or data file"),
        (("nowhere.yml",), "there is no such recipe"),
        ((__file__, "--model-dir", "nowhere"), "has no tokenizer_config.json"),
        ((__file__, "--samples", "-1"), "is not in the range"),
    ],
)
def test_what_cannot_be_looked_at_is_code_2(arguments, words, tmp_path):
    done = thinkship("data", "inspect", *arguments, "--store", tmp_path / "store")
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "store").exists()
