"""Every page: empty, with a project, failed; and what each form does."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from luthier.commands.projects.queue import QueueRunner
from luthier.recipe.schema import Recipe
from luthier.studio.state import Studio
from media import picture
from studio.conftest import RECIPE, Browser, write_rows

PAGES = [
    "/", "/runs", "/new", "/projects/tickets", "/projects/tickets/plan", "/projects/tickets/recipe",
    "/projects/tickets/models", "/projects/tickets/try", "/projects/tickets/watch",
    "/projects/tickets/data", "/projects/tickets/findings", "/projects/tickets/versions",
    "/projects/tickets/watch/signals", "/judge", "/projects/tickets/judge", "/projects/tickets/arena",
]  # fmt: skip


def test_an_empty_workspace_says_what_to_bring(browser: Browser) -> None:
    page = browser.get("/")
    assert page.status_code == 200
    assert "nothing here yet" in page.text
    assert "Nothing was run yet" in browser.get("/runs").text


def test_pages_of_a_project_that_was_not_run(browser: Browser, project: Path) -> None:
    for page in PAGES:
        found = browser.get(page)
        assert found.status_code == 200, page
        assert "luthier" in found.text, page


def test_what_is_not_there_is_said_in_a_page(browser: Browser, project: Path) -> None:
    for address in ("/nothing", "/projects/nothing", "/projects/tickets/report/page", "/runs/nothing", "/new/nothing"):
        found = browser.get(address)
        assert found.status_code == 404, address
        assert 'role="alert"' in found.text
    assert "No rows are prepared" in browser.get("/projects/tickets/data").text


def test_a_recipe_with_a_mistake_is_shown_with_its_line(browser: Browser, project: Path) -> None:
    (project / "recipe.yaml").write_text(RECIPE.replace("metrics: [accuracy]", "metrics: [acuracy]"))
    page = browser.get("/projects/tickets/recipe").text
    assert "Line 12" in page
    assert "did you mean" in page
    assert "cannot be planned" in browser.get("/projects/tickets/plan").text
    (project / "recipe.yaml").write_text("luthier: 1\nsteps: [\n")
    assert "recipe has a mistake" in browser.get("/").text
    assert "Mend the recipe" in browser.get("/projects/tickets").text
    assert "The form comes back" in browser.get("/projects/tickets/recipe").text


def test_the_form_and_the_text_change_together(browser: Browser, project: Path) -> None:
    text = (project / "recipe.yaml").read_text()
    send = {"text": text, "path": "steps.data.split", "value": "{test: 0.3}"}
    panes = browser.submit("/projects/tickets/recipe/setting", **send).text
    assert "split: {test: 0.3}" in panes
    assert "# two columns" in panes
    panes = browser.submit("/projects/tickets/recipe/part", text=text, path="steps.data.ops.+", value="language").text
    assert "ops: [normalize, exact_dedup, language]" in panes
    panes = browser.submit("/projects/tickets/recipe/check", text=text.replace("plain", "plane")).text
    assert "Line 11" in panes
    assert (project / "recipe.yaml").read_text() == text, "nothing is written before it is saved"
    for path in ("steps.data.nothing", "__class__", "steps.data.source.path.x", ""):
        refused = browser.submit("/projects/tickets/recipe/setting", text=text, path=path, value="1").text
        assert "no setting" in refused


def test_a_recipe_is_saved_once_it_is_one(browser: Browser, project: Path) -> None:
    wrong = browser.submit("/projects/tickets/recipe", text=RECIPE.replace("0.2", "two"))
    assert wrong.status_code == 400
    assert "test: two" in wrong.text, "what was written is not lost"
    assert (project / "recipe.yaml").read_text() == RECIPE
    saved = browser.submit("/projects/tickets/recipe", text=RECIPE.replace("0.2", "0.25").replace("\n", "\r\n"))
    assert saved.status_code == 200
    assert "Saved" in saved.text
    assert (project / "recipe.yaml").read_text() == RECIPE.replace("0.2", "0.25")


def test_from_a_dropped_file_to_a_recipe(browser: Browser, workspace: Path) -> None:
    write_rows(workspace / "mine.csv")
    file = ("My tickets (final).csv", (workspace / "mine.csv").read_bytes())
    page = browser.submit("/new", name="support", files={"file": file})
    assert page.url.path == "/new/support"
    assert (workspace / "support/data/My_tickets__final_.csv").is_file()
    assert "Begun, without a recipe yet" in browser.get("/").text
    seen = browser.get("/new/support/proposal").text
    assert "qwen3-0.6b" in seen
    assert "whisper" not in seen, "a model that transcribes is offered for sounds alone"
    for words in ("exact_dedup", "leaves out", "A plain classifier", "luthier new support --from"):
        assert words in seen
    shown = re.search(r'name="shown" value="([^"]+)"', seen)
    assert shown
    send = {"shown": shown[1].replace("&#34;", '"'), "op": ["exact_dedup"], "technique": "plain"}
    command = browser.submit("/new/support/command", **send).text
    assert "--without" in command
    page = browser.submit("/new/support", **send)
    assert page.url.path == "/projects/support"
    recipe = Recipe.load(workspace / "support/recipe.yaml")
    assert [op.kind for op in recipe.steps["data"].ops] == ["exact_dedup"]  # type: ignore[attr-defined]  # a step `prepare`
    assert recipe.steps["tune"].technique.kind == "plain"  # type: ignore[attr-defined]  # a step `tune`
    assert browser.get("/new/support").status_code == 404


def test_what_is_only_marked_is_not_said_to_be_left_out(browser: Browser, workspace: Path) -> None:
    texts = [f"when will the card number {n % 9} that I ordered in week 3 come to me" for n in range(40)]
    rows = [f"{text},{'ab'[n % 2]}" for n, text in enumerate(texts)]
    browser.submit("/new", name="mine", pasted="text,label\n" + "\n".join(rows) + "\nso  much   space,a\n")
    seen = browser.get("/new/mine/proposal").text
    assert "they are marked and stay" in seen
    assert re.search(r"marks \d+: near duplicate", seen)
    assert not re.search(r"leaves out \d+: near duplicate", seen)


@pytest.mark.parametrize(
    ("pasted", "ending"),
    [("text,label\na b,x\n", "csv"), ('{"prompt": "a", "completion": "b"}\n', "jsonl"), ('[{"a": 1}]', "json")],
)
def test_rows_are_pasted_and_removed_again(browser: Browser, workspace: Path, pasted: str, ending: str) -> None:
    assert browser.submit("/new", name="mine", pasted=pasted).url.path == "/new/mine"
    assert (workspace / f"mine/data/pasted.{ending}").read_text() == pasted
    assert browser.get("/new/mine/proposal").status_code == 200
    browser.submit("/new/mine/discard")
    assert not (workspace / "mine").exists()


def test_pictures_come_in_a_zip(browser: Browser, workspace: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(24):
            archive.writestr(f"{('coats', 'boots')[number % 2]}/{number}.png", picture(seed=number))
    browser.submit("/new", name="shop", files={"file": ("shop.zip", packed.getvalue())})
    page = browser.get("/new/shop/proposal").text
    assert "hold a picture" in page
    assert "A tuned language model" in page
    assert "A plain classifier" not in page
    assert browser.submit("/new/shop", shown="[]", technique="lora").url.path == "/projects/shop"
    assert "eyes" in Recipe.load(workspace / "shop/recipe.yaml").steps


def test_columns_are_chosen_where_several_could_be_the_answer(browser: Browser, workspace: Path) -> None:
    """The page said which, and let nobody choose."""
    rows = [f"where is parcel {n} of mine,{'xy'[n % 2]},{'pqr'[n % 3]}" for n in range(40)]
    browser.submit("/new", name="mine", pasted="what,first,second\n" + "\n".join(rows) + "\n")
    page = browser.get("/new/mine/proposal").text
    assert "could be the answer: first, second" in page
    assert '<option value="second">' in page
    assert re.search(r'<input name="answer" list="columns" value="">', page)
    chosen = browser.get("/new/mine/proposal?prompt=what&answer=second").text
    assert 'value="second"' in chosen
    assert "What should be cleaned" in chosen
    refused = browser.get("/new/mine/proposal?prompt=what&answer=third").text
    assert "Look at them as they are" in refused


def test_rows_that_cannot_be_read_are_said(browser: Browser, workspace: Path) -> None:
    browser.submit("/new", name="mine", pasted="{not json\n")
    assert "cannot be read" in browser.get("/new/mine/proposal").text


def test_a_run_is_queued_moved_and_cancelled(browser: Browser, project: Path, studio: Studio) -> None:
    page = browser.submit("/projects/tickets/run")
    assert "It waits for its turn" in page.text
    run = studio.queue.all()[0]
    other = studio.queue.add(Path("tickets/recipe.yaml"), ["seed=1"])
    browser.submit(f"/runs/{other.id}/move", where="up")
    assert [one.id for one in studio.queue.all()] == [other.id, run.id]
    assert "waiting" in browser.get("/").text
    assert "cancelled" in browser.submit(f"/runs/{run.id}/stop").text
    again = browser.submit(f"/runs/{run.id}/again")
    assert again.url.path != f"/runs/{run.id}"


def test_a_run_is_duplicated_with_changes_once_they_are_right(browser: Browser, project: Path, studio: Studio) -> None:
    first = studio.queue.add(Path("tickets/recipe.yaml"), ["seed=1"])
    page = browser.get("/projects/tickets/run", params={"like": first.id}).text
    assert "seed=1" in page
    assert "steps.data.source.path" in page
    wrong = browser.submit("/projects/tickets/run", overrides="seed=1\nsteps.tune.epoks=<b>")
    assert wrong.status_code == 400
    assert "&lt;b&gt;" in wrong.text, "what was written is not lost"
    assert len(studio.queue.all()) == 1
    page = browser.submit("/projects/tickets/run", overrides=" seed=2 \r\n\r\nsteps.data.split.test=0.3\n")
    assert page.url.path.startswith("/runs/")
    second = studio.queue.all()[1]
    assert second.overrides == ["seed=2", "steps.data.split.test=0.3"]
    third = studio.queue.add(Path("tickets/recipe.yaml"))
    browser.submit(f"/runs/{third.id}/move", where="front")
    assert [one.id for one in studio.queue.all()] == [third.id, first.id, second.id]
    browser.submit(f"/runs/{first.id}/move", where="down")
    assert [one.id for one in studio.queue.all()] == [third.id, second.id, first.id]
    assert "Time planned" in browser.get(f"/runs/{second.id}/costs").text


def test_a_run_from_the_button_to_the_report(browser: Browser, made: Path, studio: Studio) -> None:
    """All steps are made already: the run only takes a moment."""
    page = browser.submit("/projects/tickets/run")
    run = page.url.path.removeprefix("/runs/")
    runner = QueueRunner(studio.queue, studio.workspace, studio.folder)
    studio.folder.mkdir(parents=True, exist_ok=True)
    while not studio.queue.get(run).ended:
        runner.advance()
    runner.close()
    with browser.stream("GET", f"/runs/{run}/events") as events:
        told = "".join(events.iter_text())
    assert "event: progress" in told
    assert told.rstrip().endswith("data: over")
    page = browser.get(f"/runs/{run}").text
    assert "Open the report" in page
    assert "made already" in page
    costs = browser.get(f"/runs/{run}/costs").text
    assert "Memory at its peak" in costs
    assert re.search(r'class="number">[0-9.]+ [MG]B<', costs)
    report = browser.get(f"/runs/{run}/report/page")
    assert report.status_code == 200
    assert "Luthier" in report.text
    policy = report.headers["content-security-policy"]
    assert "sandbox allow-scripts" in policy
    assert "script-src 'sha256-" in policy
    assert "unsafe" not in policy
    assert 'sandbox="allow-scripts"' in browser.get(f"/runs/{run}/report").text


def test_pages_of_a_project_that_was_made(browser: Browser, made: Path) -> None:
    assert "accuracy" in browser.get("/").text
    plan = browser.get("/projects/tickets/plan").text
    assert "planned" in plan
    assert "measured" in plan
    assert browser.get("/projects/tickets/report/page").status_code == 200


def test_rows_are_searched_filtered_and_told(browser: Browser, made: Path) -> None:
    page = browser.get("/projects/tickets/data").text
    assert "60 of 60 rows" in page
    found = browser.get("/projects/tickets/data", params={"search": "PARCEL", "split": "train"}).text
    assert "refund" not in re.sub(r"<select.*?</select>", "", found, flags=re.S)
    dropped = browser.get("/projects/tickets/data", params={"split": "dropped"}).text
    assert "exact duplicate" in dropped
    row = re.search(r'href="(/projects/tickets/data/data/rows/[0-9a-f]+)"', dropped)
    assert row
    story = browser.get(row[1]).text
    assert "Left out by exact_dedup" in story
    assert "luthier lineage" in story
    assert "No row is like that" in browser.get("/projects/tickets/data", params={"search": "zebra"}).text
    assert browser.get("/projects/tickets/data", params={"step": "nothing"}).status_code == 404
    assert browser.get("/projects/tickets/data", params={"page": 10**9}).status_code == 200


def test_a_model_is_tried(browser: Browser, made: Path, studio: Studio) -> None:
    assert "It has no base model" in browser.get("/projects/tickets/try").text
    talk = json.dumps([{"role": "user", "content": "where is my parcel <b>now</b>"}])
    assert "no such model" in browser.submit("/projects/tickets/try/ask", model="tune", messages=talk).text
    for wrong in ("", "[]", "[1]", '[{"role": "user", "content": " "}]', '[{"role": "root", "content": "x"}]'):
        assert browser.submit("/projects/tickets/try/ask", model="tune", messages=wrong).status_code == 400
    assert browser.submit("/projects/tickets/try/start", step="nothing").status_code == 404
    try:
        assert "Loading the model" in browser.submit("/projects/tickets/try/start", step="tune").text
        end = time.monotonic() + 240
        while studio.trial.state == "starting" and time.monotonic() < end:
            time.sleep(0.2)
        assert studio.trial.state == "ready", studio.trial.message
        assert "Ask it" in browser.get("/projects/tickets/try/state").text
        model = studio.trial.names[0]
        told = browser.submit("/projects/tickets/try/ask", model=model, messages=talk).text
        assert told.rstrip().rpartition("event: ")[2].startswith("end")
        piece = json.loads(told.partition("data: ")[2].partition("\n")[0])
        assert piece["text"] == "delivery"
        text, share, others = piece["tokens"][0]
        assert text == "delivery"
        assert {one for one, _ in others} == {"delivery", "refund", "account"}
        assert share == pytest.approx(max(likely for _, likely in others))
    finally:
        stopped = browser.submit("/projects/tickets/try/stop").text
    assert "Start it" in stopped


def test_what_an_earlier_run_made_is_shown_until_there_is_something_newer(browser: Browser, made: Path) -> None:
    (made / "recipe.yaml").write_text(RECIPE.replace("0.2", "0.3"))
    page = browser.get("/projects/tickets/data").text
    assert "These are the rows of run" in page
    row = re.search(r'href="(/projects/tickets/data/data/rows/[0-9a-f]+)"', page)
    assert row
    assert "Its story" in browser.get(row[1]).text
    assert "an earlier run" in browser.get("/projects/tickets/try").text
    assert browser.get("/projects/tickets/report/page").status_code == 200


def test_no_page_loads_torch(project: Path, workspace: Path) -> None:
    code = """
import sys
import time
from pathlib import Path
from studio.conftest import Browser, URL
from luthier.core.db import Ledger
from luthier.recipe.workspace import Workspace
from luthier.studio.app import build_app
from luthier.studio.state import Studio
with Ledger(Path(".luthier/ledger.db")) as ledger:
    studio = Studio(ledger=ledger, workspace=Workspace.open(Path().absolute()))
    browser = Browser(build_app(studio), base_url=URL)
    browser.get("/open?token=" + studio.sessions.create_link_token())
    for page in sys.argv[1:]:
        assert browser.get(page).status_code == 200, page
    browser.submit("/new", name="mine", pasted="text,label\\n" + "a b,x\\nc d,y\\n" * 9)
    assert browser.get("/new/mine/proposal").status_code == 200
heavy = {"torch", "transformers", "peft", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""
    here = Path(__file__).parent.parent
    path = os.pathsep.join([str(here), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code, *PAGES], env={**os.environ, "PYTHONPATH": path}, check=False, capture_output=True,
        text=True, cwd=workspace,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
