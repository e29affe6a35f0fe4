"""A conversation with a small language model beside its base, in a real browser: it streams, and tokens are looked at
by keys alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from studio.conftest import run_in, start_studio
from tests.tiny_models import RECIPE, small_recipe

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: chromium is not installed")
_PATIENCE_MS = 60_000
TEXTS = RECIPE.partition("  report:")[0].replace(
    "prompt: message, answer: category}", "prompt: category, answer: message}"
)


@pytest.fixture
def page(workspace: Path) -> Iterator[Any]:
    """A page of a studio in a process of its own, over a project with a model."""
    (workspace / "tickets").mkdir()
    small_recipe(workspace / "tickets", TEXTS.replace("    split:", "    task: text\n    split:"), 60)
    run_in(workspace, "run", "tickets/recipe.yaml")
    said: list[str] = []
    with (
        start_studio(workspace) as server,
        playwright.sync_playwright() as driver,
    ):
        assert server.stdout is not None
        link = json.loads(server.stdout.readline())["link"]
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(_PATIENCE_MS)
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(link)
        page.wait_for_url("**/")
        yield page
        browser.close()
        server.terminate()
        assert server.wait(30) == 0
    assert not said


def test_a_model_answers_beside_its_base(page: Any) -> None:
    page.goto(page.url + "projects/tickets/models")
    page.get_by_role("button", name="Try it").click()
    question = page.get_by_label("Ask something")
    question.wait_for()
    page.get_by_label("Show tokens").focus()
    page.keyboard.press("Space")
    question.fill("billing <b>now</b>")
    page.keyboard.press("Control+Enter")
    answers = page.locator("#answers section")
    assert answers.count() == 2
    page.locator("#halt").wait_for(state="hidden")
    playwright.expect(answers.nth(0).locator("[data-status]")).to_contain_text(" s")
    playwright.expect(answers.nth(1).locator("[data-status]")).to_contain_text(" s")
    tokens = answers.nth(0).locator(".token")
    assert tokens.count() > 1
    assert "<b>now</b>" in page.locator("[data-said]").inner_text()
    tokens.nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement === document.querySelectorAll('.token')[1]")
    rows = answers.nth(0).locator(".alternatives tbody tr")
    assert rows.count() in (5, 6)
    shares = [float(text.rstrip(" %")) for text in rows.locator("td").all_inner_texts()]
    assert all(0 <= share <= 100 for share in shares)
    assert rows.locator("xpath=self::*[@class='chosen']").count() == 1
    sent: list[str] = []

    def hang(route: Any) -> None:
        sent.append(route.request.post_data)

    page.route("**/try/ask", hang)
    question.fill("and then?")
    page.get_by_role("button", name="Ask both").click()
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_text("stopped").first.wait_for()
    assert all("assistant" in body and "and+then" in body for body in sent), "what was said before goes with it"
    page.unroute("**/try/ask")
    page.get_by_role("button", name="New conversation").click()
    assert answers.count() == 0
    page.get_by_role("button", name="Stop the model").click()
    page.get_by_role("button", name="Start it").wait_for()
