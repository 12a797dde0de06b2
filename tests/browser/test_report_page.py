"""report.html in a real browser without a screen: it is laid out, its script runs, nothing sticks out, and it reads without scripts too."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
import report_sample
from skips import skip_or_fail

from toolkit.report import Files

WIDE, PHONE = (1000, 700), (500, 900)
"""Windows in pixels; Chromium makes none narrower than 500, and reading a picture takes this test's own Python 3 s a million pixels."""


@pytest.fixture(scope="session")
def chromium() -> str:
    return shutil.which("chromium") or skip_or_fail("chromium is not on PATH (apt-get install chromium)")


@pytest.fixture(scope="session")
def page(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    Files(html=path).write(report_sample.report())
    return path


@pytest.fixture
def browse(chromium, tmp_path):
    """browse(address, flags...) opens a page in a fresh profile and returns what Chromium prints."""

    def run(address: str, *flags: str) -> str:
        # --no-sandbox: the tests may run as root, under which Chromium's own sandbox does not start; the page is ours
        usual = (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
        )
        done = subprocess.run((chromium, *usual, *flags, address), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "CONSOLE" not in done.stderr, done.stderr  # a script's error, or something that the page's policy forbids
        return done.stdout

    return run


def shown(dom: str) -> list[str]:
    """Return the questions that are not hidden."""
    talks = dom.partition('id="talks"')[2]
    return re.findall(r'<details(?: open="")?>\s*<summary><span class="seen">(.*?)</span>', talks)


def test_the_script_shows_the_filter_and_counts_all_questions(browse, page):
    dom = browse(page.as_uri(), "--dump-dom")
    assert re.search(r'<div class="filter" id="filter">', dom) and ">50 of 50 questions</output>" in dom
    assert len(shown(dom)) == 50


def test_wrong_only_leaves_the_questions_that_a_tuned_endpoint_got_wrong(browse, page):
    answers = report_sample.report()["observed"]["answers"]
    wrong = {reply["question"] for label, replies in answers.items() if not label.endswith("/base") for reply in replies if not reply["right"]}
    dom = browse(f"{page.as_uri()}#wrong", "--dump-dom")
    assert 0 < len(wrong) < 50 and f">{len(wrong)} of 50 questions</output>" in dom
    assert set(shown(dom)) == wrong


def test_without_scripts_everything_stands_in_the_page_and_no_dead_control(page):
    text = page.read_text(encoding="utf-8")
    assert 'id="filter" hidden' in text and len(shown(text)) == 50


@pytest.mark.parametrize("window", [WIDE, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_painted_in_both_schemes(browse, page, tmp_path, window, scheme):
    size = f"--window-size={window[0]},{window[1]}"
    browse(page.as_uri(), size, f"--screenshot={tmp_path / 'shot.png'}", f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}")
    (width, height), rows = pixels(tmp_path / "shot.png")
    assert (width, height) == window
    colours = {pixel for row in rows[::7] for pixel in row[::7]}
    assert len(colours) > 40, "the page is blank or nearly so"
    assert (max(rows[0][0]) < 60) is (scheme == "dark"), "the paper has the other scheme's colour"
    empty = sum(len(set(row)) == 1 for row in rows) / height
    assert empty < 0.6, f"{empty:.0%} of the rows are of one colour"


def test_nothing_sticks_out_on_a_phone(browse, page, tmp_path):
    """A probe of our own measures the page at 360 pixels; the page's policy would forbid it, so that it goes into a copy without the policy."""
    # a wide table scrolls within its own frame, whose inside is therefore not measured
    measured = '[...document.querySelectorAll("main *")].filter((part) => !part.parentElement.closest(".scroll"))'
    edges = f"{measured}.map((part) => part.getBoundingClientRect().right)"
    probe = f'<script>document.body.style.width = "360px"; document.title = Math.ceil(Math.max(...{edges}));</script></body>'
    text = page.read_text(encoding="utf-8").replace("<details", "<details open").replace("</body>", probe)
    copy = tmp_path / "probe.html"
    copy.write_text(re.sub(r"<meta http-equiv=[^>]*>", "", text), encoding="utf-8")
    (edge,) = re.findall(r"<title>(\d+)</title>", browse(copy.as_uri(), "--dump-dom", f"--window-size={PHONE[0]},{PHONE[1]}"))
    assert 300 < int(edge) <= 360


def test_on_paper_the_questions_that_nobody_opened_are_left_out(browse, page, tmp_path):
    text = page.read_text(encoding="utf-8")
    without = re.sub(r'<section class="talks">.*?</section>', "", text, flags=re.DOTALL)
    before, mark, after = text.partition('id="talks"')
    opened = before + mark + after.replace("<details>", "<details open>")
    pages = {}
    for name, content in (("closed", text), ("without", without), ("opened", opened)):
        (tmp_path / f"{name}.html").write_text(re.sub(r"<script>.*?</script>", "", content, flags=re.DOTALL), encoding="utf-8")
        browse((tmp_path / f"{name}.html").as_uri(), f"--print-to-pdf={tmp_path / 'report.pdf'}")
        pages[name] = len(re.findall(rb"/Type\s*/Page\b(?!s)", (tmp_path / "report.pdf").read_bytes()))
    assert 2 <= pages["closed"] == pages["without"] < pages["opened"]


Pixel = tuple[int, ...]


def pixels(path: Path) -> tuple[tuple[int, int], list[list[Pixel]]]:
    """Read a PNG of 8 bits a channel without interlacing, as Chromium writes it (ISO/IEC 15948): its size and its rows of pixels."""
    data = path.read_bytes()
    width, height, depth, kind, *_, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    assert data.startswith(b"\x89PNG") and (depth, interlaced) == (8, 0)
    channels = {2: 3, 6: 4}[kind]
    packed, place = b"", 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        packed += data[place + 8 : place + 8 + length] if data[place + 4 : place + 8] == b"IDAT" else b""
        place += length + 12
    raw, line = zlib.decompress(packed), width * channels
    rows, above = [], bytearray(line)
    for start in range(0, height * (line + 1), line + 1):
        above = unfiltered(raw[start], bytearray(raw[start + 1 : start + 1 + line]), above, channels)
        rows.append([tuple(above[x : x + 3]) for x in range(0, line, channels)])
    return (width, height), rows


def unfiltered(kind: int, row: bytearray, above: bytearray, channels: int) -> bytearray:
    """Undo a row's filter: each byte was written as its difference from its neighbours."""
    if kind == 0:
        return row
    for x in range(len(row)):
        left = row[x - channels] if x >= channels else 0
        corner = above[x - channels] if x >= channels else 0
        row[x] = (row[x] + (0, left, above[x], (left + above[x]) // 2, paeth(left, above[x], corner))[kind]) & 255
    return row


def paeth(left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    return min((left, above, corner), key=lambda neighbour: abs(guess - neighbour))
