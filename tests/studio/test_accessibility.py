"""axe-core finds nothing serious on any page, in the light and in the dark, on a desk and on a phone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from luthier.annotation.project import NewItem, ProjectSettings, add_items, create_project
from luthier.annotation.question import QuestionItem
from luthier.annotation.queue import AnnotationQueue, AnswerSubmission
from luthier.commands.projects.judging import StudyRequest, open_study
from luthier.commands.projects.workspace import list_recipe_runs
from luthier.commands.review.fill import fill_review_queue
from luthier.commands.review.queues import build_settings, create_review_queue
from luthier.commands.review.verdicts import submit_verdict
from luthier.recipe.workspace import Workspace
from luthier.studio.translation import COOKIE as LANGUAGE_COOKIE
from studio.conftest import run_in, start_studio, write_rows
from studio.test_models import WATCHED, _write_traffic

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: chromium is not installed")
PAGES = (
    "/", "/new", "/new/draft", "/runs", "/nothing",
    "/projects/tickets", "/projects/tickets/recipe", "/projects/tickets/data", "/projects/tickets/report",
    "/projects/tickets/models", "/projects/tickets/try", "/projects/tickets/release?model={model}",
    "/projects/tickets/release?did=rollback&alias=tickets@prod", "/projects/tickets/watch",
    "/projects/tickets/watch?where=wrong", "/projects/tickets/watch/requests/r1", "/projects/tickets/watch/requests/r0",
    "/projects/empty", "/projects/empty/data", "/projects/empty/models", "/projects/empty/try", "/projects/empty/watch",
    "/projects/tickets/explain", "/projects/tickets/explain?trace=r1", "/projects/empty/explain",
    "/projects/broken", "/projects/broken/recipe",
    "/account", "/people", "/audit", "/audit?verify=true", "/login",
    "/projects/tickets/findings", "/projects/empty/findings", "/projects/tickets/versions", "/compare?runs={runs}",
    "/label", "/label/new", "/label/new?project=tickets", "/label/{labelling}", "/label/{labelling}/manage",
    "/label/{labelling}/adjudicate", "/projects/tickets/judge", "/projects/empty/judge", "/projects/tickets/arena",
    "/judge", "/judge/{study}", "/judge/{study}/results", "/label/{study}",
    "/review", "/review/{review}", "/review/{review}/items", "/review/{review}/items/{item}",
    "/review/{review}/results",
)  # fmt: skip
"""Every page, in a workspace with one project that was run, released, labelled, judged and reviewed, one that was not,
and one with a mistake."""
ASKED: dict[str, Any] = {
    "topic": {"kind": "choice", "labels": ["delivery", {"name": "refund", "about": "money goes back"}]},
    "why": {"kind": "text"},
    "parts": {"kind": "spans", "labels": ["place", "time"]},
    "tone": {"kind": "rating", "scale": 5},
}
LOOKS: tuple[tuple[str, int, list[str]], ...] = (
    ("light", 1280, []),
    ("dark", 1280, ["color-contrast", "link-in-text-block"]),
    ("light", 390, ["color-contrast", "scrollable-region-focusable", "target-size"]),
)
"""Schemes and widths, with the rules of axe-core that they may break anew; none: all rules."""
LONG_WORDS = ("/judge/{study}/results", "/projects/tickets/models", "/label/{labelling}/manage")
"""Pages whose buttons are long in German."""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str], Any]]:
    """A studio in a process of its own: its address, what stands for the parameters of addresses, and the cookies of
    somebody who opened its link, which opens once."""
    work = tmp_path_factory.mktemp("pages")
    for name in ("tickets", "empty", "broken"):
        (work / name).mkdir()
        write_rows(work / name / "rows.csv")
        (work / name / "recipe.yaml").write_text(WATCHED.replace("name: tickets", f"name: {name}"))
    (work / "broken/recipe.yaml").write_text(WATCHED.replace("[accuracy]", "[acuracy]"))
    done = run_in(work, "run", "tickets/recipe.yaml", "--json")
    run_in(work, "release", "tickets@prod", "tickets/recipe.yaml:tune")
    _write_traffic(work / "tickets")
    _write_traffic(work / "tickets", 1, "x" * 5000, "y" * 5000)
    known = {"model": json.loads(done)["steps"]["tune"]["artifact"], **_ask_people(work)}
    with start_studio(work) as server:
        assert server.stdout is not None
        opened = json.loads(server.stdout.readline())["link"]
        base = opened.partition("/open")[0]
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
            page = browser.new_page()
            page.set_default_timeout(90_000)
            page.goto(opened)
            page.wait_for_url("**/")
            page.goto(f"{base}/new")
            page.locator("input[name=name]").fill("draft")
            page.get_by_text("Or paste rows").click()
            page.locator("textarea[name=pasted]").fill("text,label\n" + "where is it,a\ngive it back,b\n" * 9)
            page.get_by_role("button", name="Look at the rows").click()
            page.get_by_text("What should be cleaned").wait_for()
            cookies = page.context.storage_state()
            browser.close()
        yield base, known, cookies
        server.terminate()
        assert server.wait(30) == 0


def _ask_people(work: Path) -> dict[str, str]:
    """Let people label, judge and review: what stands for each in addresses."""
    workspace = Workspace.open(work)
    with workspace.open_ledger() as ledger:
        settings = ProjectSettings.model_validate({"questions": ASKED, "guidelines": "Read all.\n\n- then choose"})
        labelling = create_project(ledger, "Topics", settings, project="tickets", by="olga")
        texts = ("where is my parcel", "give me the money back", "x" * 5000)
        shown = [QuestionItem(({"role": "user", "content": text},), ("it comes",)) for text in texts]
        add_items(ledger, labelling.id, [NewItem(str(at), one, {}) for at, one in enumerate(shown)])
        queue = AnnotationQueue(ledger, labelling.id)
        leased = queue.next_item("lea")
        assert leased is not None
        flagged = {"id": "lea-flags-it", "item": leased.id, "values": {}, "kind": "flag", "comment": "which one?"}
        queue.submit("lea", AnswerSubmission.model_validate(flagged))
        asked = StudyRequest("report", ("tuned",), {"kind": "rating"}, rows=4)
        study = open_study(workspace, ledger, work / "tickets/recipe.yaml", asked, by="olga")
        drawn = build_settings(chance=1.0, since=datetime.now(UTC) - timedelta(days=1))
        review = create_review_queue(ledger, "Daily", drawn, project="tickets", by="olga")
        fill_review_queue(ledger, workspace, review, say=lambda _: None)
        item = AnnotationQueue(ledger, review.id).next_item("lea")
        assert item is not None
        given = AnswerSubmission(id="lea-reviews", item=item.id, values={"verdict": "right"})
        submit_verdict(ledger, workspace, review.id, given, by="lea")
        runs = list_recipe_runs(workspace.with_folder(work / "tickets"), "tickets")
        return {
            "labelling": labelling.id, "study": study.id, "review": review.id, "item": str(item.id),
            "runs": ",".join(run.id for run in runs[:2]),
        }  # fmt: skip


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_nothing_serious_is_found(studio: tuple[str, dict[str, str], Any], every: int) -> None:
    """Each page is looked at with all rules; in the dark and on a phone each of them, or every third one."""
    base, known, cookies = studio
    found: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_context(bypass_csp=True, storage_state=cookies).new_page()
        page.set_default_timeout(90_000)
        for number, address in enumerate(PAGES):
            page.set_viewport_size({"width": 1280, "height": 900})
            page.goto(base + address.format(**known))
            page.wait_for_function("!document.querySelector('.loading')")
            page.evaluate(axe.Axe().axe_script)
            for scheme, width, rules in (look for at, look in enumerate(LOOKS) if not at or (number + at) % every == 0):
                page.emulate_media(color_scheme=scheme)
                page.set_viewport_size({"width": width, "height": 900})
                found += [f"{address} in {scheme} at {width} px: {line}" for line in _look(page, rules)]
        page.context.add_cookies([{"name": LANGUAGE_COOKIE, "value": "de", "url": base}])
        for address in LONG_WORDS:
            page.goto(base + address.format(**known))
            page.wait_for_function("!document.querySelector('.loading')")
            page.evaluate(axe.Axe().axe_script)
            found += [f"{address} in German at 390 px: {line}" for line in _look(page, ["color-contrast"])]
        browser.close()
    assert not found, "\n".join(found)


def _look(page: Any, rules: list[str]) -> list[str]:
    """What axe-core calls serious or critical, and whether the page is wider than the window."""
    only = {"runOnly": rules} if rules else {}
    options = {"iframes": False, "resultTypes": ["violations"], **only}
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))")
    violations = page.evaluate("async options => (await axe.run(options)).violations", options)
    lines = [
        f"{one['id']}: {one['nodes'][0]['html'][:160]}"
        for one in violations
        if one["impact"] in ("serious", "critical")
    ]
    if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
        lines.append("it is wider than the window")
    return lines
