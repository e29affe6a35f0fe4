"""The explanation page: a question is asked, explained by a process of its own, shown, and seen by nobody else."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from luthier.commands.explain import explain
from luthier.commands.projects.command_process import CommandProcess
from luthier.commands.projects.explanations import ExplanationBook, parse_question
from luthier.commands.projects.models import list_project_models
from luthier.core.errors import InputError, UnknownName
from luthier.people.accounts import add_person
from luthier.studio.app import build_app
from luthier.studio.state import Studio
from studio.conftest import URL, Browser, run_in
from studio.test_models import _write_traffic
from studio.test_review import keep, trace
from tiny_models import own_cache, small_recipe

PAGE = "/projects/tickets/explain"
TEXT = "give me the money back number 3"


@pytest.fixture
def digest(made: Path, studio: Studio) -> str:
    """The project's one model."""
    return list_project_models(studio.workspace, made / "recipe.yaml")[0].digest


def ask(browser: Browser, digest: str, **fields: str) -> str:
    """Ask a question by the form; the address of its explanation."""
    answer = browser.submit(PAGE, model=digest, **fields)
    assert answer.status_code == 200, answer.text
    assert re.fullmatch(rf"{PAGE}/[0-9a-f]{{12}}", answer.url.path)
    return str(answer.url.path)


def work(book: ExplanationBook) -> None:
    """Work through the queue, as the studio does."""
    for _ in range(3000):
        book.advance()
        if all(entry.is_over for entry in book.list_of("tickets")):
            return
        time.sleep(0.05)
    raise AssertionError("never done")


def test_an_answer_is_explained_as_the_command_explains_it(
    browser: Browser, studio: Studio, made: Path, digest: str
) -> None:
    address = ask(browser, digest, text=TEXT)
    waits = browser.get(address).text
    assert "It comes next." in waits
    assert f'hx-get="{address}/now"' in waits
    work(studio.explanations)
    page = browser.get(address).text
    found = studio.explanations.get("tickets", address.rpartition("/")[2])
    model = studio.workspace.with_folder(made).open_store().open(digest)
    assert found.records == explain(model, text=TEXT).records, "the very same numbers"
    (record,) = found.records
    assert f"Why “{record.target.text}”" in page
    assert "leave_one_out" in page
    assert page.count('<mark class="heat') == len(record.units)
    assert 'hx-get="' not in page.partition('id="explanation"')[2], "it is over, and asks no more"
    for words in ("Comprehensiveness", "Sufficiency", "random orders", "does not tell whether the answer is right"):
        assert words in page
    assert f"luthier explain tickets/recipe.yaml:tune '--text={TEXT}'" in page.replace("&#39;", "'")
    saved = browser.get(f"{address}/heat.html")
    assert saved.headers["content-disposition"].startswith("attachment")
    assert "script" not in saved.headers["content-security-policy"]
    assert "<h1>Why" in saved.text
    listed = browser.get(PAGE).text
    assert TEXT in listed
    assert address in listed
    assert browser.submit(f"{address}/stop").status_code == 200
    assert browser.get(address).status_code == 404


def test_settings_rows_and_mistakes(browser: Browser, studio: Studio, made: Path, digest: str) -> None:
    choose = browser.get(PAGE, params={"model": digest[:10]}).text
    row = re.findall(r'<option value="([0-9a-f]{16})">', choose)[0]
    by_row = ask(browser, digest, row=row, method="shapley", units="words", instead="account")
    wrong = ask(browser, digest, text=TEXT, method="attnlrp")
    work(studio.explanations)
    (record,) = studio.explanations.get("tickets", by_row.rpartition("/")[2]).records
    assert (record.row, record.method, record.unit, record.target.against) == (row, "shapley", "words", "account")
    failed = browser.get(wrong).text
    assert "This could not be explained" in failed
    assert "leave_one_out" in failed, "what to do instead"
    for fields in ({}, {"text": "a", "row": "b"}, {"text": "x" * 20_001}, {"text": "a", "units": "letters"}):
        told: dict[str, str] = {"text": "", **fields}  # type: ignore[dict-item]
        answer = browser.submit(PAGE, model=digest, **told)
        assert answer.status_code == 400
        assert "This did not work" in answer.text
    assert "x" * 100 in browser.submit(PAGE, model=digest, text="x" * 20_001).text, "what was typed stays"
    assert browser.submit(PAGE, model="../../etc", text=TEXT).status_code == 404
    assert browser.submit(PAGE, model=digest, text="a", method="--help").status_code == 400
    for address in (f"{PAGE}/nothing", f"{PAGE}/..%2f..", f"{PAGE}/{'0' * 12}", f"{PAGE}/{'0' * 12}/heat.html"):
        assert browser.get(address).status_code == 404
    assert browser.get("/projects/other/explain").status_code == 404


def test_a_kept_request_is_explained(browser: Browser, studio: Studio, made: Path, digest: str) -> None:
    keep(made, trace(1, release=digest, answer=trace(1).answer.model_copy(update={"content": "delivery"})))  # type: ignore[union-attr]
    link = re.search(rf'href="({PAGE}\?trace=[^"]+)"', browser.get("/projects/tickets/watch/requests/chatcmpl-1").text)
    assert link
    page = browser.get(link[1].replace("&amp;", "&")).text
    assert 'name="trace" value="chatcmpl-1"' in page
    address = ask(browser, digest, trace="chatcmpl-1", units="words")
    work(studio.explanations)
    found = studio.explanations.get("tickets", address.rpartition("/")[2])
    assert [record.target.text for record in found.records] == ["delivery"], found.message


def test_it_survives_a_restart_and_waits_in_order(browser: Browser, studio: Studio, made: Path, digest: str) -> None:
    first, second = ask(browser, digest, text=TEXT), ask(browser, digest, text="where is my parcel now")
    studio.explanations.advance()
    studio.explanations.advance()
    assert [entry.state for entry in studio.explanations.list_of("tickets")] == ["queued", "running"], "one at a time"
    assert "It waits behind 1 other." in browser.get(second).text
    studio.explanations.close()
    again = ExplanationBook(studio.workspace, studio.folder.with_name("explanations"))
    try:
        assert {entry.state for entry in again.list_of("tickets")} <= {"queued", "running", "done"}
        work(again)
        assert [entry.state for entry in again.list_of("tickets")] == ["done", "done"]
        other = ExplanationBook(studio.workspace, studio.folder.with_name("explanations"))
        name = again.ask(parse_question(project="tickets", digest=digest, text="once more", asked_by="root"))
        other.advance()
        assert again.get("tickets", name).state == "queued", "the other studio has the lock"
    finally:
        again.close()
    assert browser.get(first).status_code == 200


def test_a_process_that_was_killed_says_so(browser: Browser, studio: Studio, made: Path, digest: str) -> None:
    address = ask(browser, digest, text=TEXT)
    studio.explanations.advance()
    folder = studio.folder.with_name("explanations") / address.rpartition("/")[2] / "answer"
    mark = (folder / "process").read_bytes()
    CommandProcess(folder).stop()
    (folder / "process").write_bytes(mark)
    assert "This could not be explained" in browser.get(address).text
    # a studio that was killed before it began a process: the next one begins it
    shutil.rmtree(folder)
    folder.mkdir()
    assert studio.explanations.list_of("tickets")[0].state == "queued"
    work(studio.explanations)
    assert studio.explanations.list_of("tickets")[0].state == "done"


def test_the_queue_is_bounded(studio: Studio, made: Path, digest: str) -> None:
    for number in range(20):
        studio.explanations.ask(parse_question(project="tickets", digest=digest, text=f"{number}", asked_by="root"))
    with pytest.raises(InputError, match="wait already"):
        studio.explanations.ask(parse_question(project="tickets", digest=digest, text="more", asked_by="root"))
    with pytest.raises(UnknownName):
        studio.explanations.ask(parse_question(project="other", digest=digest, text="more", asked_by="root"))


def test_who_may_see_explanations(browser: Browser, studio: Studio, made: Path, digest: str) -> None:
    """They repeat what was asked: who may see personal data sees them, and asks for them."""
    _write_traffic(made, 3)
    address = ask(browser, digest, text="my address is 1 Main Street")
    add_person(studio.ledger, "olga", roles={"*": "owner"}, by="root")
    links = ("/projects/tickets/models", "/projects/tickets/try", "/projects/tickets/watch/requests/r1")
    for name, role, project, may in (
        ("rita", "reviewer", "tickets", True), ("ed", "editor", "tickets", True), ("vera", "viewer", "tickets", False),
        ("lena", "labeller", "tickets", False), ("otto", "owner", "other", False),
    ):  # fmt: skip
        add_person(studio.ledger, name, roles={project: role}, by="olga")
        other = Browser(build_app(studio), base_url=URL)
        other.cookies.set("luthier_studio", studio.sessions.start(name))
        for page in (PAGE, address, f"{address}/now"):
            assert other.get(page).status_code == (200 if may else 403), (name, page)
        assert other.get(f"{address}/heat.html").status_code == (404 if may else 403), "it is not made yet"
        assert other.submit(PAGE, model=digest, text="x").status_code == (200 if may else 403)
        if role in ("reviewer", "viewer"):
            for page in links:
                assert ("/explain" in other.get(page).text) == may, (name, page)
    stranger = Browser(build_app(studio), base_url=URL)
    assert stranger.get(address, follow_redirects=False).status_code in (303, 401)


def test_what_is_asked_is_no_code(browser: Browser, studio: Studio, made: Path, digest: str) -> None:
    hostile = '</mark><script>alert(1)</script> {{ 31337313373*3 }} " onfocus=alert(1) --text refund'
    address = ask(browser, digest, text=hostile, units="words")
    work(studio.explanations)
    for page in (browser.get(address).text, browser.get(PAGE).text):
        assert "<script>alert" not in page
        assert "94011940119" not in page
    record: dict[str, Any] = json.loads(
        (studio.folder.with_name("explanations") / address.rpartition("/")[2] / "answer/output").read_text()
    )["explanations"][0]
    assert "<script>" in "".join(unit["text"] for unit in record["units"])


TUNED = """\
luthier: 1
name: tickets
seed: 3
model: ./tiny-model
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
    ops: [exact_dedup]
    split: {test: 10}
  tune:
    kind: tune
    data: data
    technique: {kind: lora, r: 4}
    objective: {kind: classify, head: sequence}
    batch_size: 8
    epochs: 1
    dtype: float32
    keep_states: 2
  taught: {kind: influence, model: tune, data: data, methods: [adam], top: 3}
"""


@pytest.mark.slow
def test_the_rows_that_taught_an_answer(
    browser: Browser, studio: Studio, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step of the recipe answers with another question; its index is kept for the next one."""
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(workspace.parent))
    small_recipe(workspace / "tickets", TUNED, rows=40)
    run_in(workspace, "run", "tickets/recipe.yaml", "--only", "tune")
    model = list_project_models(studio.workspace, workspace / "tickets/recipe.yaml")[0].digest
    address = ask(browser, model, text="Where is the parcel now")
    assert browser.submit(f"{address}/influence").status_code == 400, "nothing is explained yet"
    work(studio.explanations)
    page = browser.get(address).text
    assert "attnlrp" in page
    assert "The step taught of the recipe can ask" in page
    browser.submit(f"{address}/influence")
    name = address.rpartition("/")[2]
    for _ in range(6000):
        studio.explanations.advance()
        found = studio.explanations.find_influence(studio.explanations.get("tickets", name))
        if found.state in ("done", "failed"):
            break
        time.sleep(0.1)
    assert found.state == "done", found.message
    assert found.summary is not None
    assert found.summary.digest == model
    assert found.summary.methods[0].engine == "index"
    page = browser.get(address).text
    assert "taught it" in page
    assert found.summary.proponents[0].id[:8] in page
    assert "--only taught" in page
    assert list((workspace / "tickets/.luthier/kept").glob("**/influence/*.rows")), "the next question finds it"
    by_row = parse_question(project="tickets", digest=model, row="0", asked_by="root")
    assert by_row.words(studio.workspace)[-1] == "--row=0"
