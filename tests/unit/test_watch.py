# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""A watch over a real server that gets worse and better again, and the metrics page as Prometheus reads it."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest
import yaml
from loopback import completion, events, send, serve

from toolkit import metrics
from toolkit.errors import NotReadyError
from toolkit.health import Health, Question, probe
from toolkit.stages import ROOT
from toolkit.watch import Seen, Watch

THINKS, ANSWERS = {"content": None, "reasoning": "Two and two."}, {"content": "4"}
SAMPLE = re.compile(r'(thinkship_[a-z_]+)\{((?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)+)\} (\S+)')


def read(page: str) -> dict[str, float]:
    """Read the text format strictly: name (and outcome) to value; each name is introduced before its first sample."""
    found, introduced = {}, []
    for text in page.splitlines():
        if text.startswith("# "):
            introduced += re.findall(r"^# (?:HELP|TYPE) (\S+) .+$", text)
            continue
        name, labels, value = SAMPLE.fullmatch(text).groups()
        assert introduced[-2:] == [name, name], text
        outcome = re.search(r'outcome="(\w+)"', labels)
        found[f"{name} {outcome[1]}" if outcome else name] = float(value)
    return found


def watching(serve, *messages) -> Watch:
    """Watch a server that gives these messages, one a probe; None is a refusal."""
    waiting = list(messages)

    def answer(request):
        message = waiting.pop(0)
        send(request, completion(message) if message else "out of memory", 200 if message else 500)

    url = serve(answer)
    return Watch(lambda: probe(Question(url, "m")))


def test_what_changes_is_said_once_and_counted(serve, capsys):
    watch = watching(serve, THINKS, THINKS, ANSWERS, ANSWERS, None, ANSWERS, THINKS)
    for _ in range(7):
        watch.once()
    said = [re.sub(r"^\S+ \S+ UTC  ", "", text) for text in capsys.readouterr().out.splitlines()]
    assert said == [
        "m answers and thinks",
        "m STOPPED THINKING: answers without reasoning",
        "m STOPPED ANSWERING: it answers 500: out of memory",
        "m answers, but does not think",
        "m answers and thinks again, after 4 failed probes in 0 s",
    ]
    assert (dict(watch.seen.counts), watch.seen.failures) == ({"thinks": 3, "no_answer": 1, "no_thinking": 3}, 0)


def test_a_model_that_never_answered_is_not_said_to_have_stopped(serve, capsys):
    watch = watching(serve, None, THINKS)
    watch.once()
    watch.once()
    first, second = capsys.readouterr().out.splitlines()
    assert "m does not answer: it answers 500" in first and second.endswith("m answers and thinks, after 1 failed probes in 0 s")


def test_the_metrics_tell_the_last_probe_and_all_before(serve):
    watch = watching(serve, THINKS, ANSWERS, None)
    pages, began = [], time.time()
    for _ in range(3):
        watch.once()
        pages.append(read(metrics.text(watch.seen, {"endpoint": "http://h/v1"})))
    assert [page["thinkship_up"] for page in pages] == [1, 1, 0]
    assert [page["thinkship_thinks"] for page in pages] == [1, 0, 0]
    assert [page["thinkship_thinking_characters"] for page in pages] == [12, 0, 0]
    assert [page["thinkship_consecutive_failures"] for page in pages] == [0, 1, 2]
    assert [pages[-1][f"thinkship_probes_total {outcome}"] for outcome in ("thinks", "no_thinking", "no_answer")] == [1, 1, 1]
    assert began <= pages[-1]["thinkship_last_success_timestamp_seconds"] <= time.time()
    assert 0 < pages[-1]["thinkship_probe_seconds"] < 5


def test_the_first_token_of_a_stream_is_a_metric(serve):
    url = serve(lambda request: send(request, events({"reasoning": "R"}), kind="text/event-stream"))
    seen = Seen().after(probe(Question(url, "m")), 1.0)
    assert read(metrics.text(seen, {"endpoint": url}))["thinkship_first_token_seconds"] > 0


def test_what_has_no_value_yet_is_left_out():
    page = read(metrics.text(Seen(), {"endpoint": "e"}))
    assert set(page) == {"thinkship_consecutive_failures", *(f"thinkship_probes_total {name}" for name in ("thinks", "no_answer", "no_thinking"))}


def test_the_memory_of_each_gpu_is_a_metric(serve, tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nprintf '0, 1024, 8192\\n1, [N/A], 8192\\n2, 5, 4096\\n'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    watch = watching(serve, THINKS)
    watch.once()
    page = metrics.text(watch.seen, {"endpoint": "e"})
    assert f'thinkship_gpu_memory_used_bytes{{endpoint="e",gpu="0"}} {float(1024 << 20)!r}\n' in page
    assert f'thinkship_gpu_memory_bytes{{endpoint="e",gpu="2"}} {float(4096 << 20)!r}\n' in page and 'gpu="1"' not in page
    read(page)


def test_labels_are_escaped():
    assert r'model="a\"b\\c\nd"' in metrics.text(Seen(), {"model": 'a"b\\c\nd'})
    read(metrics.text(Seen(), {"model": 'a"b\\c\nd'}))


def get(url: str, path: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(str(urlsplit(url).hostname), urlsplit(url).port, timeout=5)
    try:
        connection.request("GET", path)
        with connection.getresponse() as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    finally:
        connection.close()


def test_the_page_is_where_prometheus_looks_and_nowhere_else():
    with metrics.exporting("127.0.0.1", 0, lambda: "thinkship_up 1\n") as url:
        assert url.endswith("/metrics")
        assert get(url, "/metrics?x=1") == (200, metrics.CONTENT_TYPE, "thinkship_up 1\n")
        assert get(url, "/")[0] == 404


def test_the_page_can_be_read_over_ipv6():
    with metrics.exporting("::1", 0, lambda: "x 1\n") as url:
        assert url.startswith("http://[::1]:") and get(url, "/metrics")[2] == "x 1\n"


def test_a_port_that_is_taken_is_named_with_its_remedy():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(NotReadyError, match="cannot be used") as problem,
        metrics.exporting("127.0.0.1", taken.getsockname()[1], str),
    ):
        pytest.fail("a taken port must not be served at")
    assert "--port" in problem.value.remedy


def start_watch(url: str) -> subprocess.Popen[str]:
    words = ("watch", "--url", url, "--model", "m", "--port", "0", "--timeout", "15", "--every", "0.1")
    return subprocess.Popen((sys.executable, "-m", "toolkit.cli", *words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_signal_ends_the_watch_cleanly_even_while_it_waits_for_an_answer(serve):
    hanging, well = serve(lambda _: time.sleep(20)), serve(lambda request: send(request, completion(THINKS)))
    with start_watch(hanging) as first, start_watch(well) as second:  # both at once: each spends its time on imports
        try:
            for process, number in ((first, signal.SIGTERM), (second, signal.SIGINT)):
                page = re.search(r"metrics at (\S+);", process.stdout.readline())[1]
                assert "thinkship_probes_total" in get(page, "/metrics")[2]
                began = time.monotonic()
                os.kill(process.pid, number)
                out, err = process.communicate(timeout=10)
                assert (process.returncode, err) == (0, "") and time.monotonic() - began < 8
                assert re.search(r"watched \S+: \d+ thinks, \d+ no_answer, \d+ no_thinking$", out.strip())
        finally:
            first.kill()
            second.kill()


def test_the_operators_page_names_metrics_that_exist_and_its_examples_can_be_read():
    page = (ROOT / "docs" / "how-to.md").read_text(encoding="utf-8")
    section = page.partition("**From Prometheus.**")[2].partition("\n**")[0]
    scrape, rules = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", section, re.DOTALL))
    expressions = " ".join(rule["expr"] for rule in rules["groups"][0]["rules"])
    named = set(re.findall(r"thinkship_\w+", expressions))
    assert len(named) >= 3 and named <= {metric.name for metric in metrics.METRICS}
    assert scrape["scrape_configs"][0]["static_configs"][0]["targets"] == ["127.0.0.1:9177"]


def test_the_operators_page_shows_nagios_line_as_it_is():
    shown = Health(True, True, 0.31, "answers and thinks", "qwq", 0.05, 12, "reasoning").nagios("http://host:8000/v1", 2)[0]
    assert shown in (ROOT / "docs" / "how-to.md").read_text(encoding="utf-8")
