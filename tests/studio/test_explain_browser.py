"""A person asks why a model answers so, in a real browser, and reads the answer by keys."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from studio.conftest import start_studio

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: chromium is not installed")
_PATIENCE_MS = 120_000
SHOTS = os.environ.get("LUTHIER_SHOTS")


@pytest.fixture
def page(made: Path) -> Iterator[Any]:
    """A page of a studio over a project that was run; what its console says against us fails the test."""
    said: list[str] = []
    with start_studio(made.parent) as server, playwright.sync_playwright() as driver:
        assert server.stdout is not None
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(_PATIENCE_MS)
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(json.loads(server.stdout.readline())["link"])
        page.wait_for_url("**/")
        yield page
        browser.close()
        server.terminate()
        assert server.wait(30) == 0
    assert not said


def _shoot(page: Any, name: str) -> None:
    if SHOTS is None:
        return
    for scheme in ("light", "dark"):
        for width in (1280, 390):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 900})
            page.screenshot(path=f"{SHOTS}/{name}-{scheme}-{width}.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 900})


def test_why_this_answer(page: Any) -> None:
    page.goto(page.url.rstrip("/") + "/projects/tickets/models")
    page.get_by_role("link", name="Why this answer?").click()
    page.get_by_label("What the model is asked").fill("give me the money back number 3")
    _shoot(page, "explain-ask")
    page.get_by_role("button", name="Explain the answer").click()
    page.wait_for_url(re.compile(r"/explain/[0-9a-f]{12}$"))
    page.get_by_role("heading", name=re.compile("Why “refund”")).wait_for()
    heat = page.get_by_role("group", name="The question in heat")
    marks = heat.locator("mark")
    assert " ".join("".join(re.sub(r"\d+[+−](\s*)$", r"\1", text) for text in marks.all_text_contents()).split()) == (
        "give me the money back number 3"
    )
    marks.first.focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("me: ")
    assert page.get_by_role("row", name=re.compile("Comprehensiveness")).count() == 1
    widest = marks.evaluate_all(
        "marks => Math.max(...marks.map(one => parseFloat(getComputedStyle(one).borderBottomWidth)))"
    )
    assert widest == 4, "the policy lets the heat be seen"
    page.get_by_text("What an explanation can tell, and what not").wait_for()
    _shoot(page, "explain-answer")
    page.set_viewport_size({"width": 390, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    with page.expect_download() as download:
        page.get_by_role("link", name="Save the heat map").click()
    assert "Why " in Path(download.value.path()).read_text()
