"""Review in a real browser: traffic, a queue, verdicts and a correction, an interval, and the next recipe."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from luthier.cli.app import run_command
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from luthier.traces.feedback import append_redacted_records
from luthier.traces.store import read_feedback
from studio.conftest import RECIPE, write_rows
from studio.test_browser import link, page  # noqa: F401  # fixtures
from studio.test_review import trace

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: chromium is not installed")


@pytest.fixture
def served(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose model is made and answered some requests; it comes before the page that shows it."""
    monkeypatch.setenv("LUTHIER_PII_KEY", "for tests")
    monkeypatch.delenv("LUTHIER_TRAFFIC", raising=False)
    folder = workspace / "tickets"
    folder.mkdir()
    write_rows(folder / "rows.csv", 60)
    (folder / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(workspace)
    assert run_command(["run", "tickets"]) == 0
    own = Workspace.open(folder)
    release = build_recipe_plan(Recipe.load(folder / "recipe.yaml", (), own), costs_of=())["tune"].digest
    scores = {"delivery": 0.7, "refund": 0.2, "account": 0.1}
    asked = [
        trace(at, operation="label", model="tickets:tune", release=release, scores=scores,
              timestamp=datetime.now(UTC) - timedelta(minutes=90 - at))
        for at in range(8)
    ]  # fmt: skip
    append_redacted_records(folder / ".luthier/traffic", asked)
    return folder


def test_from_traffic_to_the_next_recipe(served: Path, page: Any) -> None:  # noqa: F811
    page.set_default_timeout(20_000)
    page.get_by_role("link", name="Review", exact=True).click()
    page.get_by_label("By chance").fill("100")
    page.get_by_role("button", name="Create and fill").click()
    page.wait_for_url(lambda url: "/review/" in url)  # else the first look cuts the answer off
    for _ in range(30):
        if page.get_by_text("Is the answer right?").count():
            break
        page.wait_for_timeout(500)
        page.reload()
    page.locator("a[href*='/data/data/rows/']").first.wait_for()
    page.get_by_label("right", exact=True).check()
    page.keyboard.press("Enter")
    page.get_by_text("7 waiting, 1 reviewed").wait_for()
    for label in ("refund", "account"):
        page.get_by_label("wrong", exact=True).check()
        page.get_by_label("The right class").fill(label)
        page.get_by_label("Another type").fill("wrong queue")
        page.get_by_role("button", name="Save and next").click()
        page.get_by_label("wrong queue").wait_for()
    page.get_by_role("link", name="Results").click()
    playwright.expect(page.locator(".figures")).to_contain_text("95 % interval")
    playwright.expect(page.locator("main")).to_contain_text("wrong queue")
    page.get_by_role("button", name="Next round").click()
    page.get_by_text("Rows that are trained on").wait_for()
    assert (served / "tickets-2.yaml").is_file()
    page.get_by_role("button", name="Run it").click()
    page.wait_for_url("**/runs/*")
    said = list(read_feedback(served / ".luthier/traffic"))
    assert sorted(one.label or "" for one in said) == ["", "account", "refund"]
    assert all(one.role == "reviewer" and one.probability == 1 for one in said)
