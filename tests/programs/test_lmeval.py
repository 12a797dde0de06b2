"""lm-evaluation-harness for real, in its own environment, against a server that answers over HTTP: what a reasoning model needs of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from toolkit.runners.environment import Environment
from toolkit.stages import IMAGES

pytestmark = pytest.mark.long  # an environment of its own; tests/e2e asks a benchmark in it
PROGRAM = IMAGES / "lmeval" / "evaluate.py"
ROWS = [{"q": f"What is {n} + {n}?", "a": str(2 * n)} for n in range(1, 9)]
YAML = """task: doubles
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
output_type: OUTPUT
test_split: test
doc_to_text: "{{q}}"
doc_to_target: TARGET
num_fewshot: 0
KIND
metric_list: [{metric: METRIC, aggregation: mean, higher_is_better: true}]
"""
GENERATED = 'generation_kwargs: {until: ["\\n\\n"], do_sample: false}'

Answer = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


@contextmanager
def answering(answer: Answer) -> Iterator[tuple[str, list[dict[str, Any]], set[str | None]]]:
    """Serve chat completions and yield the address, the bodies that were asked and the keys."""
    bodies: list[dict[str, Any]] = []
    keys: set[str | None] = set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            keys.add(self.headers.get("Authorization"))
            status, made = answer(bodies[-1])
            data = json.dumps(made).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", bodies, keys
    finally:
        server.shutdown()
        server.server_close()


def said(content: str, finish: str = "stop", **more: str) -> tuple[int, dict[str, Any]]:
    return 200, {"choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **more}}]}


def double(body: dict[str, Any]) -> int:
    return 2 * int(body["messages"][-1]["content"].split()[2])


@pytest.fixture(scope="session")
def lmeval_python() -> Path:
    return Environment("lmeval").install()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tasks over local rows: one that is generated, one that compares likelihoods."""
    place = tmp_path / "tasks"
    place.mkdir()
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    generated = YAML.replace("OUTPUT", "generate_until").replace("KIND", GENERATED).replace("METRIC", "exact_match").replace("TARGET", '"{{a}}"')
    chosen = YAML.replace("doubles", "choices").replace("OUTPUT", "multiple_choice").replace("KIND", 'doc_to_choice: ["2", "4"]')
    (place / "doubles.yaml").write_text(generated, encoding="utf-8")
    (place / "choices.yaml").write_text(chosen.replace("METRIC", "acc").replace("TARGET", "0"), encoding="utf-8")
    return place


@pytest.fixture
def asked(run_program, lmeval_python, folder, tmp_path):
    """asked(url, **changes) runs the program on the task `doubles`."""

    def run(url: str, **changes: Any):
        wanted = {"task": "doubles", "limit": None, "fewshot": None, "metric": None, "max_tokens": 99, "at_least": None, **changes}
        address = {"url": url, "model": "m", "think": {"open": "<think>", "close": "</think>"}, "parallel": 4, "timeout": 10.0}
        return run_program(lmeval_python, PROGRAM, {"folder": folder}, {"benchmark": wanted, "endpoint": address}, tmp_path)

    return run


def figures(done: Any) -> dict[str, Any]:
    assert done.code == 0, done.events[-1:] or done.log[-3000:]
    return json.loads((done.output / "results.json").read_text(encoding="utf-8"))


def test_stop_sequences_cut_the_answer_and_never_the_thinking(asked, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-held")
    with answering(lambda body: said(f"Twice.\n\nSo\n</think>\n\n{double(body)}\n\nQuestion: more")) as (url, bodies, keys):
        done = asked(url)
        found = figures(done)
    assert (found["value"], found["right"], found["questions"]) == (1.0, 8, 8) and found["counts"]["cut"] == 0
    assert all("stop" not in body and body["temperature"] == 0 and body["max_tokens"] == 99 for body in bodies) and keys == {"Bearer sk-held"}
    samples = [json.loads(line) for line in (done.output / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(samples) == 8 and samples[0]["target"] == "2" and "What is 1 + 1?" in samples[0]["asked"]
    assert "sk-held" not in done.log + "".join(path.read_text() for path in done.output.parent.rglob("*.json*"))


def test_what_is_cut_off_empty_or_not_answered_is_counted(asked):
    def answer(body):
        number = double(body)
        if number == 2:
            return 503, {"error": {"message": "busy"}}
        if number == 4:
            return said("<think>on and on", "length")
        return said(str(number), reasoning_content="Twice.")

    with answering(answer) as (url, _, _):
        found = figures(asked(url))
    assert found["right"] == 6 and found["counts"] == {"unanswered": 1, "cut": 1, "empty": 1}


def test_only_as_many_are_asked_as_are_wanted(asked):
    with answering(lambda body: said("0")) as (url, bodies, _):
        found = figures(asked(url, limit=3))
    assert len(bodies) == 3 and (found["right"], found["questions"]) == (0, 3)


@pytest.mark.parametrize(
    ("changes", "code", "words", "remedy"),
    [
        ({"task": "doubels"}, 3, "knows no task 'doubels'", "did you mean doubles"),
        ({"task": "choices"}, 3, "compares likelihoods", "generate_until"),
        ({"metric": "bleu"}, 3, "has no figure 'bleu'", "exact_match"),
        ({"task": "gsm8k"}, 4, "the data of gsm8k cannot be had", "HF_ENDPOINT"),
    ],
)
def test_what_cannot_be_asked_is_one_clear_error(asked, monkeypatch, tmp_path, changes, code, words, remedy):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with answering(lambda body: said("0")) as (url, _, _):
        done = asked(url, **changes)
    assert (done.code, words in done.error["message"], remedy in done.error["remedy"]) == (code, True, True), done.events[-1:] or done.log[-2000:]


def test_a_server_that_answers_nothing_is_no_score_of_zero(asked):
    with answering(lambda _: (500, {"error": {"message": "no slot"}})) as (url, _, _):
        done = asked(url, limit=2)
    assert done.code == 5 and "not one of 2 questions was answered: 500" in done.error["message"] and not (done.output / "results.json").exists()
