"""The page of `data inspect` in a real browser: laid out in both schemes, nothing sticks out, and the tokens are told apart by colour."""

from __future__ import annotations

import re
from pathlib import Path

import inspection_sample
import pytest
from test_report_page import PHONE, browse, chromium, pixels

from toolkit.inspection import page as room

__all__ = ["browse", "chromium"]


@pytest.fixture
def page(tmp_path) -> Path:
    path = tmp_path / "inspection.html"
    path.write_text(room.html(inspection_sample.found()), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_painted_in_both_schemes(browse, page, tmp_path, scheme):
    browse(
        page.as_uri(),
        "--window-size=1000,700",
        f"--screenshot={tmp_path / 'shot.png'}",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
    )
    (width, height), rows = pixels(tmp_path / "shot.png")
    assert len({pixel for row in rows[::7] for pixel in row[::7]}) > 40, "the page is blank or nearly so"
    assert (max(rows[0][0]) < 60) is (scheme == "dark")
    assert (width, height) == (1000, 700)


def probed(browse, page: Path, tmp_path: Path, expression: str) -> str:
    """Return what a script of ours finds in the page; the page's policy would forbid it, so that it goes into a copy without the policy."""
    text = page.read_text(encoding="utf-8").replace("<details", "<details open")
    probe = f'<script>document.body.style.width = "360px"; document.title = {expression};</script></body>'
    copy = tmp_path / "probe.html"
    copy.write_text(re.sub(r"<meta http-equiv=[^>]*>", "", text).replace("</body>", probe), encoding="utf-8")
    (found,) = re.findall(r"<title>(.*?)</title>", browse(copy.as_uri(), "--dump-dom", f"--window-size={PHONE[0]},{PHONE[1]}"))
    return found


def test_nothing_sticks_out_on_a_phone(browse, page, tmp_path):
    measured = '[...document.querySelectorAll("main *")].filter((part) => !part.parentElement.closest(".scroll"))'
    edges = f"Math.ceil(Math.max(...{measured}.map((part) => part.getBoundingClientRect().right)))"
    assert 300 < int(probed(browse, page, tmp_path, edges)) <= 360


def test_supervised_tokens_have_colours_of_their_own(browse, page, tmp_path):
    colours = '["p", "t", "a"].map((kind) => [...document.querySelectorAll(".tokens ." + kind)].map((one) => getComputedStyle(one).backgroundColor))'
    parts = [set(part.split("|")) for part in probed(browse, page, tmp_path, f'{colours}.map((part) => part.join("|")).join("#")').split("#")]
    assert len(parts) == 3 and not (parts[0] & parts[1] or parts[1] & parts[2] or parts[0] & parts[2])
    assert all(len(part) == 2 for part in parts), "neighbouring tokens cannot be told apart"
