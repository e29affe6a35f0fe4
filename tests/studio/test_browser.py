"""The studio in a real browser: rows are dropped, a recipe is written, run and reported, without one word typed in a
terminal."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from studio.conftest import start_studio, write_rows

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: chromium is not installed")
_PATIENCE_MS = 90_000


@pytest.fixture
def link(workspace: Path) -> Iterator[str]:
    """A studio in a process of its own."""
    with start_studio(workspace) as server:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["link"]
        server.terminate()
        assert server.wait(30) == 0


@pytest.fixture
def page(link: str) -> Iterator[Any]:
    """A page that has opened the link; whatever its console says against us fails the test."""
    said: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(_PATIENCE_MS)
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(link)
        page.wait_for_url("**/")
        yield page
        browser.close()
    assert not said


def test_from_rows_to_a_report(page: Any, workspace: Path) -> None:
    write_rows(workspace / "Support tickets.csv", 120)
    page.get_by_role("link", name="Bring your rows").click()
    page.set_input_files("input[type=file]", workspace / "Support tickets.csv")
    assert page.input_value("input[name=name]") == "support-tickets"
    page.get_by_role("button", name="Look at the rows").click()
    page.get_by_text("What should be cleaned").wait_for()
    page.get_by_label("exact_dedup").set_checked(False)
    page.locator("#equal").get_by_text("--without exact_dedup").wait_for()
    page.get_by_text("A plain classifier", exact=True).click()
    page.get_by_role("button", name="Write the recipe").click()
    page.get_by_text("to make").first.wait_for()
    page.get_by_role("link", name="Recipe", exact=True).click()
    page.locator("#seed").fill("11")
    page.locator("#seed").press("Tab")
    playwright.expect(page.locator("#text")).to_have_value(re.compile("seed: 11"), timeout=_PATIENCE_MS)
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved.").wait_for()
    page.get_by_role("link", name="See what it will take").click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("link", name="Open the report").wait_for()
    page.get_by_role("link", name="Open the report").click()
    report = page.frame_locator("iframe.report")
    report.get_by_text("How it was made").first.wait_for()
    page.goto(page.url.partition("/runs/")[0] + "/projects/support-tickets/data")
    page.get_by_label("Search").fill("PARCEL")
    playwright.expect(page.locator("#rows")).to_contain_text("of 120 rows", timeout=_PATIENCE_MS)
    playwright.expect(page.locator("#rows")).not_to_contain_text("120 of 120", timeout=_PATIENCE_MS)
    page.locator("#rows tbody a").first.click()
    page.get_by_text("Its story").wait_for()


def test_a_row_is_edited_and_a_run_with_changes_is_compared(made: Path, page: Any) -> None:
    here = page.url.rstrip("/")
    page.goto(f"{here}/projects/tickets")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("link", name="Open the report").wait_for()
    page.get_by_role("link", name="Run it with changes").click()
    page.get_by_label("Changes, one a line").fill(
        "steps.tune={kind: tune, data: data, technique: {kind: plain, c: 0.0001}}"
    )
    page.get_by_role("button", name="Queue this run").click()
    page.get_by_role("link", name="Open the report").wait_for()
    page.goto(f"{here}/runs")
    for box in page.get_by_role("checkbox").all():
        box.check()
    page.get_by_role("button", name="Compare those that are ticked").click()
    page.get_by_text("A minus B").wait_for()
    page.goto(f"{here}/projects/tickets/data?split=train")
    page.locator("#rows tbody a").first.click()
    page.get_by_label("user").fill("it never came")
    page.get_by_role("button", name="Save for the next run").click()
    page.get_by_text("Written down. The next run has it.").wait_for()
    assert "it never came" in (made / "corrections.jsonl").read_text()
