"""Rows of a project: sliced, sorted, corrected, compared with earlier ones; findings and the changes that mend them."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from luthier.data.history.corrections import read_corrections
from luthier.recipe.schema import Recipe
from luthier.studio.state import Studio
from studio.conftest import RECIPE, Browser, run_in
from studio.test_attacks import BREAKS

DATA = "/projects/tickets/data"


def _run(project: Path, *overrides: str) -> None:
    run_in(project.parent, "run", "tickets/recipe.yaml", *overrides)


def _row(browser: Browser, **asked: str) -> str:
    found = re.search(rf'href="({DATA}/data/rows/[0-9a-f]+)"', browser.get(DATA, params=asked).text)
    assert found
    return found[1]


def test_rows_are_sliced_and_sorted(browser: Browser, made: Path) -> None:
    page = browser.get(DATA).text
    assert 'value="length=0-200"' in page
    assert "60 of 60 rows" in browser.get(DATA, params={"slice": ["length=0-200"]}).text
    assert "0 of 60 rows" in browser.get(DATA, params={"slice": ["length=5000-"]}).text
    assert "0 of 60 rows" in browser.get(DATA, params={"slice": ["nothing.there=x", "meta.x=y"]}).text
    longest = browser.get(DATA, params={"sort": "-length", "split": "train"}).text
    assert "I cannot log in" in longest.partition("<tbody>")[2].partition("</tr>")[0]
    labels = re.findall(r'clip3">(account|delivery|refund)<', browser.get(DATA, params={"sort": "label"}).text)
    assert labels == sorted(labels)
    assert labels
    assert browser.get(DATA, params={"sort": "nothing", "page": "x"}).status_code == 200


def test_a_label_that_is_no_class_is_asked_about(browser: Browser, made: Path) -> None:
    address = _row(browser, split="train", search="number 4")
    texts = {"messages[0].content": "it never came", "messages[1].content": "delivry"}
    page = browser.submit(address, **texts, action="edit")
    assert page.status_code == 400
    assert "is no class of" in page.text
    assert 'value="delivry"' in page.text
    assert "it never came" in page.text
    assert not (made / "corrections.jsonl").exists()
    assert "Written down" in browser.submit(address, **texts, new_class="1", action="edit").text
    assert {one.text for one in read_corrections(made / "corrections.jsonl")} >= {"delivry"}
    again = _row(browser, split="train", search="number 5")
    assert "Written down" in browser.submit(again, **{**texts, "messages[1].content": "DELIVERY"}, action="edit").text
    assert {one.text for one in read_corrections(made / "corrections.jsonl")} >= {"delivery"}


def test_a_row_is_edited_and_the_next_run_has_it(browser: Browser, made: Path) -> None:
    address = _row(browser, split="train", search="number 4")
    page = browser.submit(address, **{"messages[0].content": "it never came", "messages[1].content": "delivery"},
                          reason="what was meant", action="edit")  # fmt: skip
    assert "Written down" in page.text
    assert "it never came" in page.text
    recipe = (made / "recipe.yaml").read_text()
    assert "ops: [normalize, exact_dedup, {kind: corrections, path: corrections.jsonl}]" in recipe
    assert "# two columns" in recipe
    decided = list(read_corrections(made / "corrections.jsonl"))
    assert {one.field for one in decided} <= {"messages[0].content", "messages[1].content"}
    dropped = _row(browser, split="train", search="number 5")
    assert "leave it out" in browser.submit(dropped, action="drop").text
    assert "edited by hand" in browser.get(DATA, params={"search": "number 4"}).text
    assert "2 of 60 rows" in browser.get(DATA, params={"slice": "decided=yes"}).text
    _run(made)
    story = browser.get(address).text
    assert "corrections: corrected by hand" in story
    assert "what was meant" in story
    assert "it never came" in story
    assert "Left out by corrections: left out by hand" in browser.get(dropped).text
    versions = browser.get("/projects/tickets/versions").text
    assert "Comparing all rows" in versions
    asked = re.search(r'hx-get="([^"]+difference[^"]+)"', versions)
    assert asked
    difference = browser.get(html.unescape(asked[1])).text
    assert "1 · left out by hand" in difference
    assert "it never came" in difference
    assert "Changed" in difference
    assert browser.get("/projects/tickets/versions/difference", params={"step": "data"}).status_code == 404
    browser.submit(dropped, action="restore")
    assert "leave it out" not in browser.get(dropped).text


@pytest.mark.parametrize(
    "fields", [{"action": "edit"}, {"action": "x"}, {}, {"action": "edit", "messages[0].content": " "}]
)
def test_what_decides_nothing_is_refused(browser: Browser, made: Path, fields: dict[str, str]) -> None:
    address = _row(browser, split="train")
    page = browser.get(address).text
    text = re.search(r'name="messages\[0\].content"[^>]*>\n([^<]*)<', page)
    label = re.search(r'name="messages\[1\].content" value="([^"]*)"', page)
    assert text
    assert label
    send = {"messages[0].content": text[1], "messages[1].content": label[1], **fields}
    answer = browser.submit(address, **send)
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text
    assert not (made / "corrections.jsonl").exists()
    assert (made / "recipe.yaml").read_text() == RECIPE


def test_decisions_are_written_into_the_workspace_alone(browser: Browser, made: Path, tmp_path: Path) -> None:
    address = _row(browser, split="train")
    outside = tmp_path / "outside.jsonl"
    text = RECIPE.replace("exact_dedup]", f"exact_dedup, {{kind: corrections, path: {outside}}}]")
    (made / "recipe.yaml").write_text(text)
    answer = browser.submit(address, action="drop")
    assert answer.status_code == 400
    assert "outside the workspace" in answer.text
    assert not outside.exists()


@pytest.mark.matrix('"><img*', "{{*")
@pytest.mark.parametrize("words", BREAKS)
def test_decisions_are_shown_and_never_run(browser: Browser, made: Path, words: str) -> None:
    address = _row(browser, split="train")
    browser.submit(address, **{"messages[0].content": words, "messages[1].content": words}, reason=words, action="edit")
    named = dict.fromkeys(("before", "after", "step"), words)
    pages = [browser.get(address), browser.get(DATA, params={"search": words, "slice": f"meta.{words}={words}"}),
             browser.get(DATA, params={"sort": words, "slice": f"finding={words}"}),
             browser.get(f"/projects/tickets/findings/data/{words}"), browser.get("/compare", params={"run": words}),
             browser.get("/projects/tickets/versions", params=named)]  # fmt: skip
    for page in pages:
        for bad in ("<script>a", "<img src=x", "<svg onload", "94011940119"):
            assert bad not in page.text


VALIDATED = RECIPE.replace("  tune:", "  validate: {kind: validate, data: data}\n  tune:")


def test_a_finding_becomes_a_change_of_the_recipe(browser: Browser, made: Path) -> None:
    rows = (made / "rows.csv").read_text() + "".join(
        f"where is my parcel number {at},refund\n" for at in range(0, 45, 3)
    )
    (made / "rows.csv").write_text(rows + "a very odd row,rare\n")
    (made / "recipe.yaml").write_text(VALIDATED)
    assert "Nothing is checked yet" in browser.get("/projects/tickets/findings").text
    _run(made, "--only", "validate")
    page = browser.get("/projects/tickets/findings").text
    link = re.search(r'href="(/projects/tickets/findings/validate/imbalance.few)"', page)
    assert link, page
    shown = browser.get(link[1]).text
    assert "exclude_ids" in shown
    assert 'class="added"' in shown
    assert (made / "recipe.yaml").read_text() == VALIDATED
    before = VALIDATED.replace("\n", "\r\n")
    assert browser.submit(link[1], before="something else").status_code == 400
    assert browser.submit(link[1], before=before).url.path == "/projects/tickets/recipe"
    ops = Recipe.load(made / "recipe.yaml").steps["data"].ops  # type: ignore[attr-defined]  # a step `prepare`
    assert ops[-1].kind == "exclude_ids"
    assert "has this change already" in browser.get(link[1]).text
    assert "1 of" in browser.get(DATA, params={"slice": "finding=imbalance.few"}).text
    assert browser.get("/projects/tickets/findings/validate/nothing").status_code == 404


def test_runs_are_compared(browser: Browser, made: Path, studio: Studio) -> None:
    _run(made, "steps.tune={kind: tune, data: data, technique: {kind: plain, c: 0.0001}}")
    listed = run_in(made, "runs", "--json")
    runs = [run["id"] for run in json.loads(listed)["runs"]]
    page = browser.get("/compare", params={"run": runs}).text
    assert "Numbers" in page
    assert "steps.tune" in page
    paired = browser.get("/compare/paired", params={"runs": ",".join(runs)}).text
    assert "A minus B" in paired
    assert "accuracy" in paired
    assert list((studio.folder.parent / "comparisons").iterdir())
    assert browser.get("/compare/paired", params={"runs": ",".join(runs)}).text == paired
    for wrong, status in (([runs[0]], 400), ([*runs, "abcdef"], 404), ([], 400)):
        assert browser.get("/compare", params={"run": wrong}).status_code == status
