# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""`thinkship data make` against a real server: what it keeps, what it asks, how fast, and what it does when the server or the disk fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from loopback import completion, send, serve
from sum_server import SumServer, gaps, reply, rows, sums
from terminal import Done, thinkship
from typist import Typist

from toolkit.making import journal
from toolkit.stages import ROOT


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def words(url: str, folder: Path, *more: object) -> tuple[object, ...]:
    return ("data", "make", folder / "q.jsonl", "--url", url, "--model", "m", "--output", folder / "made.jsonl", "--check", "numeric", *more)


def make(url: str, folder: Path, *more: object) -> Done:
    done = thinkship(*words(url, folder, *more))
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


def test_right_answers_become_rows_with_their_origin(serve, tmp_path):
    sums(tmp_path / "q.jsonl", 6)
    done = make(serve(SumServer()), tmp_path)
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "made.jsonl")
    first = {"Question": "0 + 1", "Complex_CoT": "I add 1 to 0.", "Response": "It is 1.", "Expected": "1", "Model": "m", "Sample": 0, "Tokens": 7}
    assert len(found) == 6 and found[0] == first
    assert "6 answers: 6 kept; 6 of 6 questions have a kept one" in done.stdout and "30 prompt + 42 completion tokens" in done.stdout


@pytest.mark.parametrize(
    ("message", "finish", "why"),
    [
        ({"reasoning": "R", "content": "It is 7."}, "stop", "wrong"),
        ({"reasoning": "R", "content": "It is 1."}, "length", "truncated"),
        ({"content": "It is 1."}, "stop", "no reasoning"),
        ({"reasoning": "R", "content": " "}, "stop", "no answer"),
        ({"reasoning": "R </think> R", "content": "It is 1."}, "stop", "tag inside a text"),
    ],
)
def test_what_is_not_kept_is_counted_by_its_reason_and_no_file_is_made(serve, tmp_path, message, finish, why):
    sums(tmp_path / "q.jsonl", 1)
    done = make(serve(lambda request: send(request, completion(message, finish))), tmp_path)
    assert done.returncode == 6 and f"1 answers: 1 {why}; 0 of 1" in done.stdout, done.stdout + done.stderr
    assert "no answer was kept" in done.stderr and not (tmp_path / "made.jsonl").exists()


@pytest.mark.parametrize(
    "message", [{"reasoning_content": "R"}, {"thinking": "R"}, {"content": "<think>\nR\n</think>\n\n"}, {"content": "R\n</think>\n\n"}]
)
def test_reasoning_is_found_wherever_a_teacher_puts_it(serve, tmp_path, message):
    sums(tmp_path / "q.jsonl", 1)
    whole = {**message, "content": f"{message.get('content', '')}It is 1."}
    assert make(serve(lambda request: send(request, completion(whole))), tmp_path).returncode == 0
    assert [(row["Complex_CoT"], row["Response"]) for row in rows(tmp_path / "made.jsonl")] == [("R", "It is 1.")]


def test_a_question_is_asked_until_enough_of_its_answers_are_kept_and_no_more(serve, tmp_path):
    def first_wrong(request, question, times):
        if question == "3 + 4" and times < 2:
            send(request, completion(reply(question, off=1)))
            return True
        return False

    server = SumServer(before=first_wrong)
    sums(tmp_path / "q.jsonl", 5)
    done = make(serve(server), tmp_path, "--samples", 4)
    assert done.returncode == 0 and "7 answers: 5 kept, 2 wrong; 5 of 5" in done.stdout, done.stdout
    assert Counter(server.asked) == {"0 + 1": 1, "1 + 2": 1, "2 + 3": 1, "3 + 4": 3, "4 + 5": 1}
    assert [row["Sample"] for row in rows(tmp_path / "made.jsonl")] == [0, 0, 0, 2, 0]


def test_the_prompt_and_the_settings_are_sent_and_nothing_that_was_not_asked_for(serve, tmp_path):
    server = SumServer(before=lambda request, question, _: bool(send(request, completion(reply("1 + 1"))) or True))
    url = serve(server)
    sums(tmp_path / "q.jsonl", 1)
    (tmp_path / "prompt").write_text("Add: {question}\nEnd with the number.", encoding="utf-8")
    make(url, tmp_path, "--system", "Be brief.", "--prompt-file", tmp_path / "prompt", "--max-tokens", 9, "--temperature", 0.6)
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add: 0 + 1\nEnd with the number."}]
    assert server.bodies[0] == {"model": "m", "messages": said, "max_tokens": 9, "temperature": 0.6}
    thinkship("data", "make", tmp_path / "q.jsonl", "--url", url, "--model", "m", "--check", "none", "--output", tmp_path / "other.jsonl")
    assert set(server.bodies[1]) == {"model", "messages"}


# --- going on after an end


def killed_in_the_middle(server: SumServer, url: str, folder: Path) -> None:
    command = (sys.executable, "-m", "toolkit.cli", *map(str, words(url, folder, "--parallel", 4, "--yes")))
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while len(server.answered) < 14 and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL, "it ended before it was killed: this proves nothing"


def test_after_a_sigkill_only_what_was_under_way_is_asked_again(serve, tmp_path):
    server = SumServer(delay=0.05)
    url = serve(server)
    sums(tmp_path / "q.jsonl", 40)
    killed_in_the_middle(server, url, tmp_path)
    time.sleep(0.2)
    before = list(server.asked)
    kept = (tmp_path / "made.jsonl.journal").read_text(encoding="utf-8").splitlines()[1:]
    assert 10 <= len(kept) < 40 and not (tmp_path / "made.jsonl").exists()
    done = make(url, tmp_path, "--parallel", 4)
    assert done.returncode == 0 and f"{len(kept)} answered already" in done.stdout, done.stdout + done.stderr
    twice = [question for question, times in Counter(server.asked).items() if times > 1]
    assert len(twice) == len(before) - len(kept) <= 4 and max(Counter(server.asked).values()) <= 2
    assert len(rows(tmp_path / "made.jsonl")) == 40
    again = len(server.asked)
    assert "40 answered already" in make(url, tmp_path).stdout and len(server.asked) == again


def test_ctrl_c_ends_it_at_once_and_keeps_what_was_answered(serve, tmp_path):
    server = SumServer(before=lambda request, question, _: len(server.asked) > 4 and bool(time.sleep(30) or True))
    sums(tmp_path / "q.jsonl", 9)
    with Typist("toolkit.cli", *words(serve(server), tmp_path, "--yes")) as person:
        person.sees("by the first 4 answers")
        deadline = time.monotonic() + 20
        while len(server.asked) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        person.types("\x03")
        assert person.ended(seconds=8) == 130
        assert "interrupted; run the same command again to go on" in person.text
    assert len((tmp_path / "made.jsonl.journal").read_text(encoding="utf-8").splitlines()) == 5


def test_a_half_written_last_line_is_dropped_and_asked_again(serve, tmp_path):
    server = SumServer()
    url = serve(server)
    sums(tmp_path / "q.jsonl", 5)
    make(url, tmp_path, "--parallel", 1)
    file = tmp_path / "made.jsonl.journal"
    file.write_bytes(file.read_bytes()[:-20])
    assert make(url, tmp_path).returncode == 0
    assert Counter(server.asked) == {"0 + 1": 1, "1 + 2": 1, "2 + 3": 1, "3 + 4": 1, "4 + 5": 2}
    assert len(rows(tmp_path / "made.jsonl")) == 5
    assert make(url, tmp_path).returncode == 0 and len(server.asked) == 6  # what was added is no half of another line


def test_more_questions_and_another_check_go_on_from_the_same_journal(serve, tmp_path):
    server = SumServer()
    url = serve(server)
    sums(tmp_path / "q.jsonl", 3)
    make(url, tmp_path)
    sums(tmp_path / "q.jsonl", 5)
    assert make(url, tmp_path).returncode == 0 and len(server.asked) == 5
    done = make(url, tmp_path, "--check", "exact")
    assert (done.returncode, len(server.asked)) == (6, 5) and "5 wrong" in done.stdout


@pytest.mark.parametrize(
    ("more", "said"),
    [(("--samples", 2), "samples 1, not 2"), (("--system", "x"), "system None, not 'x'"), (("--model", "other"), "model 'm', not 'other'")],
)
def test_a_journal_of_other_settings_is_refused(serve, tmp_path, more, said):
    server = SumServer()
    url = serve(server)
    sums(tmp_path / "q.jsonl", 1)
    make(url, tmp_path)
    done = make(url, tmp_path, *more)
    assert done.returncode == 2 and said in done.stderr and "another --output" in done.stderr and len(server.asked) == 1


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("{}\n", 3, "no journal of"),
        ("[]\n", 3, "no journal of"),
        ("mine", 3, "no journal of"),
        ('{"journal": \n', 3, "journal:1: broken JSON"),
        ('{"journal": 2}\n', 2, "was begun with journal 2, not 1"),
    ],
)
def test_a_file_that_is_no_journal_is_refused_and_left_alone(serve, tmp_path, text, code, said):
    sums(tmp_path / "q.jsonl", 1)
    (tmp_path / "made.jsonl.journal").write_text(text, encoding="utf-8")
    done = make(serve(SumServer()), tmp_path)
    assert done.returncode == code and said in done.stderr, done.stderr
    assert (tmp_path / "made.jsonl.journal").read_text(encoding="utf-8") == text


def test_a_broken_line_in_the_middle_is_named(serve, tmp_path):
    sums(tmp_path / "q.jsonl", 3)
    url = serve(SumServer())
    make(url, tmp_path)
    file = tmp_path / "made.jsonl.journal"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([*lines[:2], lines[2][:30], *lines[3:]]) + "\n", encoding="utf-8")
    done = make(url, tmp_path)
    assert done.returncode == 3 and "made.jsonl.journal:3: broken JSON" in done.stderr


def test_two_at_once_do_not_write_one_journal(serve, tmp_path):
    sums(tmp_path / "q.jsonl", 1)
    with journal.opened(tmp_path / "made.jsonl.journal", {}):
        done = make(serve(SumServer()), tmp_path)
    assert done.returncode == 4 and "another `thinkship data make` writes" in done.stderr


# --- pace and busy servers


def test_no_more_is_asked_than_the_rate_allows(serve, tmp_path):
    server = SumServer()
    sums(tmp_path / "q.jsonl", 11)
    make(serve(server), tmp_path, "--rate", 1200, "--parallel", 8)
    assert len(server.times) == 11 and max(server.times) - min(server.times) >= 10 * 0.05 * 0.95
    assert sorted(gaps(server.times))[5] > 0.03


def refusing(headers: dict[str, str], text: str = "", times: int = 1):
    left = iter(range(times))

    def before(request, question, asked):
        if next(left, None) is None:
            return False
        request.send_response(429)
        for header in {**headers, "Content-Length": str(len(text)), "Content-Type": "application/json"}.items():
            request.send_header(*header)
        request.end_headers()
        request.wfile.write(text.encode())
        return True

    return before


@pytest.mark.parametrize("headers", [{"Retry-After": "1"}, {}])
def test_a_busy_server_is_left_alone_by_everybody_for_as_long_as_it_says(serve, tmp_path, headers):
    server = SumServer(delay=0.1, before=refusing(headers))
    sums(tmp_path / "q.jsonl", 12)
    done = make(serve(server), tmp_path, "--parallel", 4)
    assert done.returncode == 0 and len(server.asked) == 13, done.stderr
    assert 0.9 < max(gaps(server.times)) < 3
    assert len(rows(tmp_path / "made.jsonl")) == 12


def test_a_server_that_asks_for_an_hour_is_not_waited_for(serve, tmp_path):
    sums(tmp_path / "q.jsonl", 6)
    done = make(serve(SumServer(before=refusing({"Retry-After": "3600"}, times=99))), tmp_path)
    assert done.returncode == 4 and "wants 3600 waited for" in done.stderr and "the same command again to go on" in done.stderr


def test_an_account_without_money_is_no_busy_server(serve, tmp_path):
    text = json.dumps({"error": {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"}})
    server = SumServer(before=refusing({}, text, times=99))
    sums(tmp_path / "q.jsonl", 6)
    began = time.monotonic()
    done = make(serve(server), tmp_path, "--parallel", 1)
    assert done.returncode == 4 and "exceeded your current quota" in done.stderr and "account" in done.stderr
    assert len(server.asked) == 1 and time.monotonic() - began < 5


# --- failures


def failing_after(count: int, status: int, until: list[bool]):
    served = iter(range(count))

    def before(request, question, asked):
        if until or next(served, None) is not None:
            return False
        send(request, '{"error": {"message": "out of memory"}}', status)
        return True

    return before


@pytest.mark.parametrize(("status", "code", "said"), [(401, 4, "refuses us with 401"), (500, 5, "10 questions in a row failed")])
def test_an_endpoint_that_breaks_down_ends_the_run_and_the_next_goes_on(serve, tmp_path, status, code, said):
    well: list[bool] = []
    server = SumServer(before=failing_after(8, status, well))
    url = serve(server)
    sums(tmp_path / "q.jsonl", 40)
    done = make(url, tmp_path)
    assert done.returncode == code and said in done.stderr and "the same command again" in done.stderr, done.stderr
    assert len(server.asked) < 25 and not (tmp_path / "made.jsonl").exists()
    well.append(True)
    assert make(url, tmp_path).returncode == 0
    assert Counter(server.answered) == Counter(dict.fromkeys((f"{n} + {n + 1}" for n in range(40)), 1))


def test_single_failures_are_counted_by_kind_and_asked_again_the_next_time(serve, tmp_path):
    def sometimes(request, question, times):
        if question in ("5 + 6", "9 + 10") and not times:
            send(request, '{"error": {"message": "out of memory"}}', 500)
            return True
        return False

    server = SumServer(before=sometimes)
    url = serve(server)
    sums(tmp_path / "q.jsonl", 12)
    done = make(url, tmp_path)
    assert (
        done.returncode == 0 and "2 failed: " in done.stdout and "out of memory" in done.stdout and "asks those that failed once more" in done.stdout
    )
    assert len(rows(tmp_path / "made.jsonl")) == 10
    assert make(url, tmp_path).returncode == 0 and len(rows(tmp_path / "made.jsonl")) == 12 and len(server.asked) == 14


def test_a_server_that_answers_nothing_is_told_before_everything_is_asked(serve, tmp_path):
    server = SumServer(before=lambda request, *_: bool(send(request, "{}", 500) or True))
    sums(tmp_path / "q.jsonl", 40)
    done = make(serve(server), tmp_path)
    assert done.returncode == 5 and "not one of the first questions was answered" in done.stderr and len(server.asked) == 4
    assert list(tmp_path.iterdir()) == [tmp_path / "q.jsonl"]


def test_nothing_that_listens_leaves_nothing_behind(tmp_path):
    sums(tmp_path / "q.jsonl", 4)
    done = make("http://127.0.0.1:9/v1", tmp_path)
    assert done.returncode == 4 and "cannot be reached" in done.stderr and list(tmp_path.iterdir()) == [tmp_path / "q.jsonl"]


def test_a_disk_without_room_is_told_and_what_was_answered_stays(serve, tmp_path):
    server = SumServer()
    url = serve(server)
    sums(tmp_path / "q.jsonl", 40)
    command = (sys.executable, "-m", "toolkit.cli", *map(str, words(url, tmp_path, "--parallel", 1)))
    limited = ("bash", "-c", 'ulimit -f 4; exec "$@"', "bash", *command)  # 4 KiB a file
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 4 and "made.jsonl.journal cannot be written: File too large" in done.stderr, done.stderr
    kept = len((tmp_path / "made.jsonl.journal").read_bytes().split(b"\n")[1:-1])
    assert 5 < kept < 40 and make(url, tmp_path).returncode == 0
    assert len(rows(tmp_path / "made.jsonl")) == 40 and len(server.asked) == 41  # the one whose line was cut is asked again


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (("--check", "none", "--samples", 3, "--temperature", 0), 2, "the same answer"),
        (("--keep", 2), 2, "--keep 2 of --samples 1"),
        (("--output", "/nowhere/x.jsonl"), 2, "there is no such folder"),
        (("--prompt-file", "/nowhere/x"), 2, "the prompt cannot be read"),
        (("--api-key-file", "/nowhere/x"), 2, "the API key cannot be read"),
        (("--url", "ftp://x"), 2, "is no address"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is(serve, tmp_path, more, code, said):
    server = SumServer()
    sums(tmp_path / "q.jsonl", 2)
    done = make(serve(server), tmp_path, *more)
    assert done.returncode == code and said in done.stderr and not server.asked, done.stderr


def test_a_file_that_was_not_made_here_is_not_written_over(serve, tmp_path):
    sums(tmp_path / "q.jsonl", 2)
    (tmp_path / "made.jsonl").write_text("mine", encoding="utf-8")
    done = make(serve(SumServer()), tmp_path)
    assert done.returncode == 2 and "is there already" in done.stderr and (tmp_path / "made.jsonl").read_text(encoding="utf-8") == "mine"


def test_expected_answers_want_a_check_and_a_check_wants_expected_answers(serve, tmp_path):
    url = serve(SumServer())
    sums(tmp_path / "q.jsonl", 2)
    unsaid = thinkship("data", "make", tmp_path / "q.jsonl", "--url", url, "--output", tmp_path / "made.jsonl")
    assert unsaid.returncode == 2 and "--check exact|numeric|choice|none" in unsaid.stderr
    (tmp_path / "q.jsonl").write_text('{"question": "1 + 1"}\n', encoding="utf-8")
    assert make(url, tmp_path).returncode == 3
    free = thinkship("data", "make", tmp_path / "q.jsonl", "--url", url, "--output", tmp_path / "made.jsonl")
    assert free.returncode == 0 and "Expected" not in rows(tmp_path / "made.jsonl")[0]


# --- the estimate


def test_the_estimate_alone_asks_the_first_few_and_reckons_tokens_time_and_cost(serve, tmp_path):
    server = SumServer(delay=0.05)
    url = serve(server)
    sums(tmp_path / "q.jsonl", 1004)
    done = make(url, tmp_path, "--estimate", "--price-in", 2, "--price-out", 10, "--rate", 600)
    assert done.returncode == 0 and len(server.asked) == 4 and not (tmp_path / "made.jsonl").exists()
    assert "at most 1,000 more requests: about 5,000 prompt + 7,000 completion tokens, cost 0.0800, 100 s" in done.stdout, done.stdout
    assert "4 answered already" in make(url, tmp_path, "--estimate").stdout and len(server.asked) == 4


@pytest.mark.parametrize(("typed", "asked", "made"), [("n\r", 4, False), ("y\r", 9, True), ("\x04", 4, False)])
def test_a_person_is_asked_before_the_rest_is(serve, tmp_path, typed, asked, made):
    server = SumServer()
    sums(tmp_path / "q.jsonl", 9)
    with Typist("toolkit.cli", *words(serve(server), tmp_path)) as person:
        person.sees("ask them?")
        assert len(server.asked) == 4
        person.types(typed)
        assert person.ended() == 0
    assert len(server.asked) == asked and (tmp_path / "made.jsonl").exists() is made
