"""People in a real browser: an owner invites a labeller, who sees the items to label and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luthier.annotation.project import NewItem, ProjectSettings, add_items, create_project
from luthier.annotation.question import QuestionItem
from luthier.core.db import Ledger
from studio.conftest import start_studio

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: chromium is not installed")
_PATIENCE_MS = 90_000
PASSWORD = "four plain words here"


@pytest.fixture
def link(workspace: Path, project: Path) -> Iterator[str]:
    """A studio in a process of its own, over a project with an item to label."""
    with Ledger(workspace / ".luthier/ledger.db") as ledger:
        asked = {"questions": {"topic": {"kind": "choice", "labels": ["good", "bad"]}}}
        settings = ProjectSettings.model_validate(asked)
        labelling = create_project(ledger, "Topics", settings, project="tickets", by="olga")
        add_items(ledger, labelling.id, [NewItem("1", QuestionItem(({"role": "user", "content": "where is it"},)))])
    with start_studio(workspace) as server:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["link"]
        server.terminate()
        assert server.wait(30) == 0


@pytest.fixture
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


def _open(chromium: Any, said: list[str]) -> Any:
    page = chromium.new_context().new_page()
    page.set_default_timeout(_PATIENCE_MS)
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    return page


@pytest.mark.slow
def test_an_owner_invites_a_labeller(link: str, chromium: Any) -> None:
    said: list[str] = []
    owner = _open(chromium, said)
    owner.goto(link)
    owner.get_by_role("link", name="People").click()
    owner.get_by_label("Name to log in with").fill("olga")
    owner.get_by_label("Password", exact=True).fill(PASSWORD)
    owner.get_by_label("The same password again").fill(PASSWORD)
    owner.get_by_role("button", name="Make the owner").click()
    owner.get_by_role("heading", name="Invite somebody").wait_for()
    form = owner.locator("form[action='/people/invite']")
    form.get_by_label("Role").select_option("labeller")
    form.get_by_label("In").select_option("tickets")
    form.get_by_role("button", name="Make a link").click()
    invitation = owner.locator(".notice code").inner_text()
    labeller = _open(chromium, said)
    labeller.goto(invitation)
    labeller.get_by_text("labeller: tickets").wait_for()
    labeller.get_by_label("Name to log in with").fill("lea")
    labeller.get_by_label(re.compile("^Password")).fill(PASSWORD)
    labeller.get_by_label("The same password again").fill(PASSWORD)
    labeller.get_by_role("button", name="Make the account").click()
    labeller.wait_for_url("**/label")
    labeller.get_by_role("button", name="Log out").click()
    labeller.wait_for_url("**/login**")
    labeller.get_by_label("Name").fill("lea")
    labeller.get_by_label("Password").fill(PASSWORD)
    labeller.get_by_role("button", name="Log in").click()
    labeller.wait_for_url("**/label")
    assert labeller.get_by_role("navigation", name="Main").get_by_role("link").all_inner_texts() == ["Label", "Judge"]
    labeller.get_by_role("link", name="Topics").click()
    labeller.locator("#item .question").first.wait_for()
    labeller.keyboard.press("1")
    labeller.get_by_text("There is nothing more for you here").wait_for()
    address = re.sub(r"(//[^/]+).*", r"\1", link)
    assert not said
    for path in ("/runs", "/projects/tickets", "/people", "/audit"):
        assert labeller.request.get(f"{address}{path}").status == 403, path
    owner.get_by_role("link", name="Audit log").click()
    owner.get_by_role("link", name="Verify").click()
    owner.get_by_text("The log is whole").wait_for()
    owner.get_by_role("button", name="Deutsch").click()
    owner.locator("html[lang=de]").wait_for()
    assert not said


def test_what_was_typed_outlives_a_session_that_ended(link: str, workspace: Path, chromium: Any) -> None:
    """The answer was a page that said "Log in first", and the recipe as it was typed was gone."""
    said: list[str] = []
    page = _open(chromium, said)
    page.goto(link)
    page.wait_for_url("**/")
    address = page.url.rstrip("/")
    page.goto(f"{address}/people")
    page.get_by_label("Name to log in with").fill("olga")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("The same password again").fill(PASSWORD)
    page.get_by_role("button", name="Make the owner").click()
    page.get_by_role("heading", name="Invite somebody").wait_for()
    page.goto(f"{address}/projects/tickets/recipe")
    text = page.locator("#text")
    text.fill(f"{text.input_value()}\n# an hour of work\n")
    other = page.context.new_page()
    other.goto(f"{address}/label")
    other.get_by_role("button", name="Log out").click()
    other.wait_for_url("**/login**")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Not sent: your session ended.").wait_for()
    with page.expect_response("**/recipe/check"):  # what is typed is checked, and then stays
        text.press_sequentially("# more\n")
    assert "401" in said[0]
    other.get_by_label("Name").fill("olga")
    other.get_by_label("Password").fill(PASSWORD)
    other.get_by_role("button", name="Log in").click()
    other.wait_for_url("**/")
    with page.expect_response("**/recipe/check"):  # with the token of the former session
        text.press_sequentially("# and more\n")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved.").wait_for()
    assert "# an hour of work\n# more\n# and more\n" in (workspace / "tickets/recipe.yaml").read_text()
