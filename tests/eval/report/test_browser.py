"""The page in a real browser: it opens offline, is dark when asked, fits a phone, and runs nobody's script."""

from __future__ import annotations

import html as markup
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest

from luthier.eval.report.html import render_report_page
from tests.eval.report import example

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=5000",
]
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: chromium is not installed")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(render_report_page(example.facts()), encoding="utf-8")
    return path


def browse(path: Path, *flags: str) -> str:
    """What the browser prints of a page."""
    assert BROWSER is not None
    command = [BROWSER, *FLAGS, f"--user-data-dir={path.parent / 'profile'}", *flags, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def first_pixel(png: Path) -> tuple[int, int, int]:
    """The colour of the upper left corner (the first pixel of the first line is never filtered)."""
    data = png.read_bytes()
    chunks, at = b"", 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            chunks += data[at + 8 : at + 8 + length]
        at += 12 + length
    line = zlib.decompress(chunks)
    return line[1], line[2], line[3]


def test_all_rows_open_inside_the_page(page: Path) -> None:
    dom = browse(page, "--dump-dom")
    table = dom[dom.index('<table class="rows stack">') :].partition("</table>")[0]
    assert table.count("<tr>") == 21
    assert "1–20 of 500" in dom
    assert "500 rows" in dom
    assert "1–5 of 18" in dom


def test_hostile_rows_make_no_elements(page: Path) -> None:
    dom = browse(page, "--dump-dom")
    assert "<img" not in dom
    assert len(re.findall(r"<script\b", dom)) == 2


@pytest.mark.parametrize(("scheme", "dark"), [("1", False), ("0", True)])
def test_follows_the_scheme_of_the_reader(page: Path, scheme: str, dark: bool) -> None:
    shot = page.with_name("shot.png")
    flags = (f"--screenshot={shot}", "--window-size=1000,600", f"--blink-settings=preferredColorScheme={scheme}")
    browse(page, *flags)
    assert (sum(first_pixel(shot)) < 200) == dark


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(page: Path, width: int) -> None:
    """The page stands in a frame of the wanted width; its policy is taken out so that the frame can be measured."""
    behind = example.facts(evaluations=(example.evaluation(advice=example.advice()),))
    page.write_text(render_report_page(behind), encoding="utf-8")
    inner = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    outer = (
        f'<!doctype html><iframe id="f" width="{width}" height="900" style="border:0" srcdoc="{markup.escape(inner)}">'
        '</iframe><p id="w"></p><script>onload=()=>setTimeout(()=>{const d=document.getElementById("f")'
        '.contentDocument;document.getElementById("w").textContent="width "+d.documentElement.scrollWidth},1000)'
        "</script>"
    )
    page.write_text(outer, encoding="utf-8")
    found = re.search(r"width (\d+)", browse(page, "--dump-dom", "--window-size=1400,1000"))
    assert found is not None
    assert int(found[1]) <= width


def test_commands_of_the_advice_are_read_whole_on_a_phone(page: Path) -> None:
    """They are wrapped, not cut, and the numbers of the list stand inside the page."""
    behind = example.facts(evaluations=(example.evaluation(advice=example.advice()),))
    inner = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", render_report_page(behind))
    measure = (
        '<script>onload=()=>setTimeout(()=>{const d=document.getElementById("f").contentDocument;'
        'const all=[...d.querySelectorAll(".advice pre")];document.getElementById("w").textContent="hidden "'
        '+Math.max(...all.map(e=>e.scrollWidth-e.clientWidth))+" of "+all.length+" at "'
        '+parseFloat(d.defaultView.getComputedStyle(d.querySelector(".advice")).paddingLeft)},1000)</script>'
    )
    frame = f'<iframe id="f" width="390" height="900" style="border:0" srcdoc="{markup.escape(inner)}"></iframe>'
    page.write_text(f'<!doctype html>{frame}<p id="w"></p>{measure}', encoding="utf-8")
    found = re.search(r"hidden (-?\d+) of (\d+) at ([\d.]+)", browse(page, "--dump-dom", "--window-size=1400,1000"))
    assert found is not None
    assert (int(found[1]), int(found[2])) == (0, 2)
    assert float(found[3]) >= 20
