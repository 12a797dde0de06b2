from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import report_sample
from observations import TASK, observation

from toolkit.errors import InvalidError, UsageError
from toolkit.report import Files, document, drawing, facts, junit, open_report, page, terminal
from toolkit.report.plots import plots
from toolkit.verify import Finding, Reply
from toolkit.verify.judge import judge

FACTS = {
    "gguf": {
        "types": {"f16": {"bytes": 270_000_000, "bits_per_weight": 16.0}, "q4_k_m": {"bytes": 105_000_000, "bits_per_weight": 6.2, "mean_kl": 0.0123}}
    },
    "dataset": {"train": {"kept": 2000, "dropped": {"too long": 3}}, "eval": {"kept": 240}, "longest_row": 75},
}


@pytest.fixture
def small() -> dict[str, Any]:
    seen = [
        observation("vllm", "bf16"),
        observation("llamacpp", "q4_k_m", answers=("4", "6")),
        observation("llamacpp", "f16", base=True, answers=("1", "1")),
    ]
    return judge("demo", TASK, seen, FACTS, "learns to add").model_dump(mode="json", by_alias=True)


@pytest.fixture(scope="module")
def large() -> dict[str, Any]:
    return report_sample.report()


def test_the_page_needs_nothing_from_elsewhere_and_forbids_it(large):
    html = page.html(large)
    assert not re.findall(r"""(?:src|href|@import|url\()\s*=?\s*["']?(?:https?:)?//""", html)
    assert "<link" not in html and "<script src" not in html
    assert "default-src 'none'" in html


def test_the_one_script_that_may_run_is_ours(large):
    html = page.html(large)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}" in html


def test_the_page_shows_verdict_shares_divergence_and_audit(small):
    html = page.html(small)
    for text in ("verdict: pass", "learns to add", "0.01230", "dropped too long", "q1 → 5 | 6"):
        assert text in html


def test_the_reasons_of_a_failed_verdict_stand_before_everything_else(large):
    html = page.html(large)
    top = html.partition("<header")[2].partition("</header>")[0]
    assert "48 of 50 answers reason, then answer" in top and "8 of 9 prompts equal" in top and "verdict: fail" in top
    for anchor in re.findall(r'href="#(point-\d+)"', top):
        assert f'<details open id="{anchor}">' in html


def test_each_failed_check_shows_its_evidence_and_remedy_and_a_skipped_one_its_reason(large):
    html = page.html(large)
    assert "How to mend it:</b> serve with the template of modelfiles/" in html and "### Instruction:" in html
    assert "no HF checkpoint was given to compare with" in html and "Not required for the verdict." in html


def test_what_models_say_is_escaped_in_text_and_drawing(small):
    evil = "</pre></svg><script>alert(1)</script><img src=x onerror=alert(1)>"
    small["observed"]["answers"]["vllm/bf16"] = [Reply(question=evil, text=evil, reasoning=evil).model_dump()]
    small["observed"]["endpoints"][0] |= {"variant": evil, "version": evil}
    small["checks"] = [Finding(name="think", engine="vllm", variant=evil, status="fail", message=evil, evidence={evil: [evil]}).model_dump()]
    html = page.html(small)
    assert "<script>alert" not in html and "<img" not in html and "</svg><" not in html.replace("</svg></figure>", "")


def test_every_drawing_is_well_formed_and_says_its_values_in_words(large):
    drawn = plots(large)
    assert [plot.title for plot in drawn] == [
        "Right answers",
        "Length of thinking",
        "Time of an answer",
        "Tokens a second",
        "Divergence against file size",
    ]
    for plot in drawn:
        svg = ElementTree.fromstring(plot.drawing)
        assert svg.find("title").text == plot.title
        assert set(svg.get("aria-labelledby").split()) == {svg.find("title").get("id"), svg.find("desc").get("id")}
    said = [ElementTree.fromstring(plot.drawing).find("desc").text for plot in drawn]
    assert said[0].startswith("llamacpp q4_k_m: ") and "/20 → " in said[0]
    assert "vllm bnb-nf4: 0 → " in said[1] and said[3].startswith("llamacpp q4_k_m: 54.9/s → ")
    assert "q4_k_m: 105 MB, 0.0018 nats a token" in said[4]


def test_nothing_is_drawn_outside_its_picture(large):
    for plot in plots(large):
        svg = ElementTree.fromstring(plot.drawing)
        width, height = map(float, svg.get("viewBox").split()[2:])
        for part in svg:
            for name, limit in (("x", width), ("x1", width), ("x2", width), ("cx", width), ("y", height), ("y1", height), ("y2", height)):
                assert 0 <= float(part.get(name, 0)) <= limit, (plot.title, part.attrib)


def test_a_report_whose_answers_all_failed_is_drawn_without_them():
    seen = observation("openai", "")
    failed = tuple(reply.model_copy(update={"error": "hung"}) for reply in seen.replies)
    found = judge("m", TASK, [type(seen)(seen.endpoint, seen.findings, failed)]).model_dump(mode="json", by_alias=True)
    assert [plot.title for plot in plots(found)] == ["Right answers", "Tokens a second"]


@pytest.mark.parametrize(
    ("end", "wanted"),
    [(1.0, [0, 0.2, 0.4, 0.6, 0.8, 1]), (86, [0, 20, 40, 60, 80]), (7.3, [0, 2, 4, 6]), (0.013, [0, 0.0025, 0.005, 0.0075, 0.01, 0.0125])],
)
def test_a_scale_has_round_numbers(end, wanted):
    assert drawing.ticks(end) == pytest.approx(wanted)


def test_a_divergence_of_nothing_lies_on_the_lower_edge_and_a_larger_one_higher():
    step = (drawing.LOWER - drawing.UPPER) / 4
    assert drawing._height(0.0, (-5, -2)) == drawing.LOWER
    assert drawing._height(1e-5, (-5, -2)) == drawing.LOWER - step
    assert drawing._height(1e-2, (-5, -2)) == drawing.UPPER


def test_base_and_tuned_stand_in_one_row_with_what_their_pair_shows(small, large):
    rows = facts.comparison(small)
    assert [(row["engine"], row["variant"], bool(row["base"])) for row in rows] == [("vllm", "bf16", False), ("llamacpp", "q4_k_m", True)]
    assert rows[0]["change"] is None and (rows[1]["change"].gained, rows[1]["change"].lost) == (1, 0)
    assert {row["change"].change() for row in facts.comparison(large)} == {"improved"}


def test_a_report_of_one_endpoint_without_a_recipe_renders():
    found = judge("m", TASK.model_copy(update={"task": None}), [observation("openai", "")]).model_dump(mode="json", by_alias=True)
    html = page.html(found)
    assert "openai" in html and "Before and after" not in html and "before the fine-tune" not in html


def test_the_terminal_gets_the_same_facts(small, capsys):
    terminal.show(small)
    shown = capsys.readouterr().out
    assert "verdict: pass" in shown and "q4_k_m" in shown and "1/2 9–91%" in shown
    assert "46 checks, 44 of them required: 44 passed, 0 failed, 2 skipped" in shown and "before, engine by engine: 1 no evidence." in shown


def test_the_terminal_recommends_a_file_and_names_a_limit_that_is_broken(large, capsys):
    terminal.show(large)
    assert "recommended: q6_k (139 MB, KL 0.00021) is the nearest to 16 bits within 140 MB" in capsys.readouterr().out
    gguf = {**large["observed"]["gguf"], "limits": {"max_kl": {"q4_k_m": 0.001}}, "size_limit": None}
    terminal.show({**large, "observed": {**large["observed"], "gguf": gguf}})
    shown = capsys.readouterr().out
    assert re.search(r"q4_k_m .* broken", shown) and "recommended: f16 (271 MB, KL 0) is the smallest file that keeps the recipe's limits" in shown


def test_what_is_skipped_for_one_reason_is_told_once(large, capsys):
    skipped = [
        {"name": "hardware", "engine": engine, "variant": "bf16", "status": "skip", "message": "the CPU is meant", "remedy": "", "required": False}
        for engine in ("vllm", "transformers")
    ]
    terminal.show({**large, "checks": skipped})
    assert "skip: hardware, vllm bf16, transformers bf16: the CPU is meant" in capsys.readouterr().out


def test_the_page_marks_the_recommended_file_in_table_and_plot(large):
    html = page.html(large)
    assert "<b>Recommended:</b> q6_k (139 MB, KL 0.00021) is the nearest to 16 bits within 140 MB." in html
    assert re.search(r'<tr class="best"><th>q6_k</th>', html)
    (plot,) = [plot for plot in plots(large) if plot.title == "Divergence against file size"]
    assert plot.drawing.count('class="best"') == 1 and plot.drawing.count('class="limit"') == 1 and "0.034 at 99 %" in plot.drawing


def test_the_gain_of_an_importance_matrix_is_told_on_page_and_terminal(large, capsys):
    words = "mportance matrix from 64 texts of 4700 tokens: q4_k_m mean KL 0.00183 instead of 0.00244 (-25%)"
    terminal.show(large)
    assert words in " ".join(capsys.readouterr().out.split()) and f"I{words}." in page.html(large)
    gguf = {**large["observed"]["gguf"], "imatrix": None}
    assert "mportance matrix" not in page.html({**large, "observed": {**large["observed"], "gguf": gguf}})


def test_another_size_limit_is_asked_of_a_report_that_is_there(large, tmp_path, capsys):
    (tmp_path / "report.json").write_text(json.dumps(large), encoding="utf-8")
    open_report(tmp_path, None, Files(html=tmp_path / "r.html"), False, 120.0)
    words = "q4_k_m (105 MB, KL 0.0018) is the nearest to 16 bits within 120 MB"
    assert words in capsys.readouterr().out and words in (tmp_path / "r.html").read_text(encoding="utf-8")
    large = {**large, "observed": {**large["observed"], "gguf": None}}
    (tmp_path / "report.json").write_text(json.dumps(large), encoding="utf-8")
    with pytest.raises(UsageError, match="knows no GGUF files"):
        open_report(tmp_path, None, Files(), False, 120.0)


def test_nested_facts_become_lines():
    assert facts.flat({"a": {"b_c": 1.23456}, "d": "x"}) == [("a b c", "1.235"), ("d", "x")]


def test_training_and_held_out_rows_stand_side_by_side():
    lines = facts.audit(FACTS["dataset"])
    assert lines == [("kept", "2000", "240"), ("dropped too long", "3", "–"), ("longest row", "75", "")]


def test_junit_counts_what_the_report_counts(large):
    root = ElementTree.fromstring(junit.xml(large))
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == [*facts.grid(large["checks"]), "verdict"]
    count = {status: sum(check["status"] == status for check in large["checks"]) for status in ("fail", "skip")}
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == (
        str(len(large["checks"]) + 1),
        str(count["fail"] + 1),
        str(count["skip"]),
    )
    for suite in root:
        found = [str(len(suite.findall(path))) for path in ("testcase", "testcase/failure", "testcase/skipped")]
        assert found == [suite.get("tests"), suite.get("failures"), suite.get("skipped")]


def test_junit_carries_message_remedy_evidence_and_the_reason_of_a_skip(large):
    root = ElementTree.fromstring(junit.xml(large))
    failure = root.find("testsuite[@name='ollama/q4_k_m']/testcase[@name='prompt']/failure")
    assert "8 of 9 prompts" in failure.get("message") and failure.get("type") == "required"
    assert "fix: serve with the template" in failure.text and "### Instruction:" in failure.text
    skipped = root.find("testsuite[@name='transformers/bf16']/testcase[@name='prompt']/skipped")
    assert skipped.get("message") == "no HF checkpoint was given to compare with"


def test_a_required_check_that_was_skipped_fails_the_junit_verdict(small):
    small["checks"][0] |= {"status": "skip", "message": "not asked"}
    small["verdict"] = "fail"
    case = ElementTree.fromstring(junit.xml(small)).find("testsuite[@name='verdict']/testcase/failure")
    assert "think of vllm/bf16: not asked" in case.text


def test_characters_that_xml_cannot_hold_are_written_as_their_code(small):
    small["checks"][0] |= {"status": "fail", "message": "a\x00b\x1b[1m\ufffe", "evidence": {"said": "\x07 <&> 你好"}}
    failure = ElementTree.fromstring(junit.xml(small)).find(".//failure")
    assert failure.get("message") == "a\\u0000b\\u001b[1m\\ufffe" and "你好" in failure.text


def test_a_report_keeps_its_published_schema(large, small):
    for found in (large, small):
        document.Published.model_validate(found)
    published = json.loads(document.schema())
    assert published["$schema"] and {"schema", "verdict", "checks", "observed"} <= set(published["properties"])
    assert published["$defs"]["Finding"]["properties"]["status"]["enum"] == ["pass", "fail", "skip"]


def test_a_report_is_found_in_its_store_in_its_folder_and_by_its_name(tmp_path: Path, small):
    for number, name in enumerate(("verify-1", "verify-2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps({**small, "name": name}))
        os.utime(tmp_path / name / "report.json", (100 - number, 100 - number))
    assert document.load(tmp_path)["name"] == "verify-1"
    assert document.load(tmp_path / "verify-2")["name"] == "verify-2" == document.load(tmp_path / "verify-2" / "report.json")["name"]


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 2}', "\x00", '{"schema": 1, "verdict": "maybe"}'])
def test_a_file_that_is_no_report_is_named_with_what_is_wrong(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(InvalidError, match=r"report\.json: "):
        document.load(tmp_path)


def test_a_place_without_a_report_is_named(tmp_path):
    with pytest.raises(UsageError, match="there is no report"):
        document.load(tmp_path)


@pytest.mark.parametrize("field", ["json", "html", "junit"])
def test_a_file_that_cannot_be_written_is_said_before_the_work(tmp_path, field):
    for path, words in ((tmp_path / "nowhere" / "x", "its folder is not there"), (tmp_path, "it is a folder")):
        with pytest.raises(UsageError, match=words):
            Files(**{field: path}).require()


def test_what_was_asked_for_is_written(tmp_path, small):
    files = Files(tmp_path / "r.json", tmp_path / "r.html", tmp_path / "r.xml")
    files.require()
    files.write(small)
    assert json.loads((tmp_path / "r.json").read_text())["name"] == "demo"
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>") and (tmp_path / "r.xml").read_text().startswith("<?xml")
