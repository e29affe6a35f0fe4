"""Two people judge one study in real browsers, by keys, and its results follow."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from studio.conftest import start_studio
from studio.test_judging import made, workspace  # noqa: F401  # fixtures

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: chromium is not installed")
_PATIENCE_MS = 20_000
SHOTS = os.environ.get("LUTHIER_SHOTS")


@contextmanager
def _studio_of(name: str, workspace: Path) -> Iterator[str]:  # noqa: F811
    """A studio over the same workspace, as somebody of this name starts it."""
    with start_studio(workspace, LOGNAME=name) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())["link"]
        finally:
            server.terminate()
            server.wait(30)


def _shoot(page: Any, name: str) -> None:
    """Keep pictures of a page where they are asked for: light and dark, wide and narrow."""
    if SHOTS is None:
        return
    for scheme in ("light", "dark"):
        for width in (1280, 390):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 900})
            page.screenshot(path=f"{SHOTS}/{name}-{scheme}-{width}.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 900})


def test_two_people_judge_and_the_results_follow(workspace: Path) -> None:  # noqa: F811
    said: list[str] = []
    with ExitStack() as stack:
        driver = stack.enter_context(playwright.sync_playwright())
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        pages = {}
        for name in ("anna", "ben"):
            page = pages[name] = browser.new_context().new_page()
            page.set_default_timeout(_PATIENCE_MS)
            page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: said.append(str(error)))
            page.goto(stack.enter_context(_studio_of(name, workspace)))
            page.wait_for_url("**/")
        anna, ben = pages.values()
        anna.get_by_role("link", name="Judge").click()
        _shoot(anna, "judge-empty")
        anna.goto(re.sub(r"(//[^/]+)/.*", r"\1/projects/tickets", anna.url))
        anna.get_by_role("link", name="Ask people").click()
        _shoot(anna, "judge-new")
        anna.get_by_label("Rows").fill("6")
        anna.get_by_label("People for each item").fill("2")
        anna.get_by_label("Items with a known answer").fill("0")
        anna.get_by_role("button", name="Begin the study").click()
        anna.get_by_role("link", name="Begin to judge").wait_for()
        study = anna.url.rsplit("/", 1)[1]
        _shoot(anna, "judge-study")
        results = browser.contexts[0].new_page()
        results.set_default_timeout(4 * _PATIENCE_MS)  # it looks again by itself, later on a busy machine
        results.goto(f"{anna.url}/results")
        results.get_by_text("Nobody has judged yet").wait_for()
        _shoot(results, "judge-results-empty")
        anna.get_by_role("link", name="Begin to judge").click()
        ben.goto(re.sub(r"(//[^/]+)/.*", rf"\1/label/{study}", ben.url))
        for page in (anna, ben):
            for number in range(6):
                page.locator("#item .answer").first.wait_for()
                if number == 0:
                    _shoot(page, "judge-item")
                assert "tuned" not in page.content()
                page.keyboard.press("a")
                page.locator(f"#mine[data-count='{number + 1}']").wait_for()
            page.get_by_text("There is nothing more for you here").wait_for()
        results.get_by_role("row", name=re.compile("ben")).wait_for()
        results.get_by_role("row", name=re.compile(r"tuned against base|base against tuned")).wait_for()
        _shoot(results, "judge-results")
        browser.close()
    assert not said
