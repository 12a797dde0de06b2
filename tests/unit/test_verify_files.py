# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""What a verification leaves beside its verdict: by the stage of a run, and by the command for an endpoint that runs."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from conftest import DEMO
from loopback import completion, send, serve
from observations import TASK, observation
from test_cli import thinkship

from toolkit import contracts, host, runs
from toolkit.errors import BrokenError
from toolkit.pipeline import Task
from toolkit.report import Files, document
from toolkit.verify.judge import judge


def no_place(*_):
    raise AssertionError("the verify stage starts no server")


def test_the_verify_stage_leaves_json_page_and_junit_and_keeps_its_contract(tmp_path):
    seen, dataset, output = (tmp_path / name for name in ("serve", "dataset", "output"))
    for folder in (seen, dataset, output):
        folder.mkdir()
    (dataset / "stats.json").write_text('{"longest_row": 9}')
    served = observation(answers=("4",) * 10)
    (seen / "endpoint.json").write_text(served.endpoint.model_dump_json())
    (seen / "findings.json").write_text(json.dumps([finding.model_dump() for finding in served.findings]))
    (seen / "answers.jsonl").write_text("".join(reply.model_dump_json() + "\n" for reply in served.replies))
    recipe = {"name": "demo", "description": "", "verify": TASK.model_dump()}
    task = Task({"serve-llamacpp-f16": seen, "dataset": dataset}, output, tmp_path, tmp_path / "log")
    host.verify(recipe, task, no_place)
    contracts.check("verify", output, recipe)
    assert sorted(path.name for path in output.iterdir()) == ["report.html", "report.json", "report.xml"]
    assert document.load(output)["verdict"] == "pass"
    assert ElementTree.parse(output / "report.xml").getroot().get("failures") == "0"


def test_a_report_without_its_page_or_its_xml_is_not_sealed(tmp_path):
    (tmp_path / "report.json").write_text('{"verdict": "pass"}')
    with pytest.raises(BrokenError, match=r"report\.html: is missing\n.*report\.xml: is missing"):
        contracts.check("verify", tmp_path, {})


def test_a_run_writes_its_report_elsewhere_too_whatever_the_verdict(tmp_path):
    judge("demo", TASK, [observation(without="think")]).write(tmp_path / "report.json")
    files = Files(tmp_path / "r.json", tmp_path / "r.html", tmp_path / "r.xml")
    with pytest.raises(BrokenError, match="the verdict is fail: think"):
        runs.conclude(tmp_path, files)
    assert all(path.is_file() for path in (files.json, files.html, files.junit))


def test_an_endpoints_verification_is_written_in_all_forms_though_it_fails(serve, tmp_path):
    def answer(request):
        if request.path.endswith("/chat/completions"):
            send(request, completion({"content": "The answer is 4."}))
        else:
            send(request, json.dumps({"error": "no such path"}), 404)

    files = {option: tmp_path / f"r.{option}" for option in ("json", "html", "junit")}
    options = [word for option, path in files.items() for word in (f"--{option}", path)]
    done = thinkship("verify", "--url", serve(answer), "--model", "m", "--engine", "vllm", *options, "--store", tmp_path / "store")
    assert done.returncode == 6 and "verdict: fail" in done.stdout, done.stderr
    assert document.load(files["json"])["verdict"] == "fail" and "verdict: fail" in files["html"].read_text()
    failure = ElementTree.parse(files["junit"]).find("testsuite[@name='vllm']/testcase[@name='think']/failure")
    assert "reasoning parser" in failure.text


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_made(tmp_path):
    done = thinkship("verify", DEMO, "--junit", tmp_path / "nowhere" / "r.xml", "--store", tmp_path / "store")
    assert done.returncode == 2 and "its folder is not there" in done.stderr and not (tmp_path / "store").exists()


def test_a_soak_is_for_one_endpoint_and_stands_in_a_recipe_otherwise(tmp_path):
    done = thinkship("verify", DEMO, "--soak", "100", "--store", tmp_path / "store")
    assert done.returncode == 2 and "verify.soak" in done.stderr and not (tmp_path / "store").exists()


def test_an_endpoint_is_soaked_where_that_is_asked_for(serve, tmp_path):
    url = serve(lambda request: send(request, completion({"reasoning": "R", "content": "4"})))
    file = tmp_path / "r.json"
    thinkship("verify", "--url", url, "--model", "m", "--engine", "vllm", "--soak", "50", "--json", file, "--store", tmp_path / "store")
    (found,) = [check for check in json.loads(file.read_text())["checks"] if check["name"] == "memory"]
    assert found["evidence"]["requests"] == 50 and len(found["evidence"]["MiB"]) == 6


def test_a_size_limit_is_asked_of_one_report(tmp_path):
    done = thinkship("report", "--compare", tmp_path, tmp_path, "--size-limit", "100")
    assert done.returncode == 2 and "one report, not of two" in done.stderr
