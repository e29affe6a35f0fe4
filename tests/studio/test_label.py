"""Answering on pages: what a person gets and what never leaves the server, attacks, and three real browsers of which
one is cut off while the server restarts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luthier.annotation.project import AnnotationProject, NewItem, ProjectSettings, add_items, create_project
from luthier.annotation.question import QuestionItem
from luthier.annotation.queue import AnnotationQueue
from luthier.annotation.results import find_items, label_items
from luthier.core.db import Ledger
from luthier.core.errors import InputError, SourceLocation
from luthier.recipe.yaml import read_yaml
from luthier.studio.state import Studio
from studio.conftest import Browser
from studio.test_attacks import BREAKS
from tests import ready

LABELS = ["delivery", "refund", "account"]
SECRETS = ("SECRET-MODEL", "SECRET-KEY", "SECRET-GOLD", "SECRET-PROPOSAL", "SECRET-OTHER")


def make_project(ledger: Ledger, items: list[NewItem], **settings: Any) -> AnnotationProject:
    asked = {"questions": {"topic": {"kind": "choice", "labels": LABELS}}, **settings}
    project = create_project(ledger, "Topics", ProjectSettings.model_validate(asked), by="owner")
    add_items(ledger, project.id, items)
    return project


def item(number: int, text: str = "", **more: Any) -> NewItem:
    return NewItem(f"row-{number}", QuestionItem(({"role": "user", "content": text or f"text {number}"},)), **more)


def fetch(browser: Browser, project: AnnotationProject, held: list[int] | None = None) -> Any:
    answer = browser.submit(f"/label/{project.id}/next", held=json.dumps(held or []))
    assert answer.status_code == 200
    return answer.json()


def send(browser: Browser, project: AnnotationProject, item_id: int, **more: Any) -> Any:
    told = {"id": f"browser-{item_id}", "item": item_id, "values": {"topic": "refund"}, **more}
    return browser.submit(f"/label/{project.id}/submit", submission=json.dumps(told))


def test_items_are_answered_undone_and_remarked(browser: Browser, studio: Studio) -> None:
    project = make_project(studio.ledger, [item(number) for number in range(3)], guidelines="Read\n\nfirst.")
    page = browser.get(f"/label/{project.id}")
    assert "Read" in page.text
    assert "3 items wait" in page.text
    assert "Topics" in browser.get("/label").text
    first = fetch(browser, project)["item"]
    assert "text 0" in first["html"]
    second = fetch(browser, project, [first["id"]])["item"]
    assert "text 1" in second["html"]
    assert send(browser, project, first["id"]).json() == {"kept": True, "late": False, "duplicate": False}
    assert send(browser, project, first["id"]).json() == {"kept": False, "late": False, "duplicate": True}
    assert send(browser, project, second["id"], values={"topic": "nonsense"}).status_code == 422
    assert send(browser, project, 12345).status_code == 422
    assert browser.submit(f"/label/{project.id}/submit", submission="{").status_code == 422
    thread = browser.submit(f"/label/{project.id}/items/{second['id']}/comments", text="what is this?")
    assert "what is this?" in thread.text
    back = browser.submit(f"/label/{project.id}/undo").json()
    assert (back["item"]["id"], back["answered"]) == (first["id"], 0)
    assert "refund" in back["item"]["html"]
    assert browser.submit(f"/label/{project.id}/release", held=json.dumps([second["id"]])).status_code == 204
    assert "Version 1" in browser.get(f"/label/{project.id}/guidelines").text


def test_an_answer_is_sent_again_when_the_database_was_away(
    browser: Browser, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(studio.ledger, [item(1)])
    leased = fetch(browser, project)["item"]

    def away(*_: Any) -> None:
        raise InputError("cannot be reached", where=SourceLocation(file="postgresql://db/team"))

    with monkeypatch.context() as patched:
        patched.setattr(AnnotationQueue, "submit", away)
        assert send(browser, project, leased["id"]).status_code == 400, "422 would be for good"
    assert send(browser, project, leased["id"]).json()["kept"]


@pytest.mark.slow
def test_no_page_loads_scipy(studio: Studio, workspace: Path) -> None:
    project = make_project(studio.ledger, [item(number) for number in range(3)], overlap=2)
    for person, label in (("ann", "refund"), ("ben", "account")):
        ids = [one.item.id for one in find_items(studio.ledger, project.id)]
        label_items(studio.ledger, project.id, ids, {"topic": label}, by=person)
    script = f"""
import sys
from pathlib import Path
from luthier.core.db import Ledger
from luthier.recipe.workspace import Workspace
from luthier.studio.app import build_app
from luthier.studio.state import Studio
from studio.conftest import URL, Browser
workspace = Path({str(workspace)!r})
with Ledger(workspace / ".luthier/ledger.db") as ledger:
    studio = Studio(ledger=ledger, workspace=Workspace.open(workspace))
    browser = Browser(build_app(studio), base_url=URL)
    browser.get("/open?token=" + studio.sessions.create_link_token())
    for address in ("", "/manage?search=text", "/adjudicate"):
        assert browser.get("/label/{project.id}" + address).status_code == 200, address
    assert browser.submit("/label/{project.id}/next").status_code == 200
print([name for name in ("torch", "scipy", "sklearn") if name in sys.modules])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert told.stdout.strip() == "[]"


def test_a_person_without_items_is_told_why(browser: Browser, studio: Studio) -> None:
    empty = make_project(studio.ledger, [])
    assert fetch(browser, empty) == {"item": None, "state": "done", "waits": "0 items wait"}
    strict = make_project(studio.ledger, [item(1), item(2, gold={"topic": "refund"})], qualification=2)
    gold = fetch(browser, strict)["item"]
    send(browser, strict, gold["id"])
    assert fetch(browser, strict) == {"item": None, "state": "unqualified", "waits": "1 item waits"}


def test_nothing_that_is_hidden_leaves_the_server(
    browser: Browser, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known answers, hidden proposals, models, keys and others' answers stand at no address of the person's."""
    monkeypatch.setattr("luthier.annotation.queue.random.random", lambda: 0.0)  # gold comes as soon as it may
    hidden = {"model": SECRETS[0]}
    items = [
        NewItem(SECRETS[1], QuestionItem(({"role": "user", "content": "one"},), ("an answer",)), hidden),
        item(2, hidden=hidden, gold={"answer": SECRETS[2]}),
        item(3, hidden=hidden, proposal={"answer": SECRETS[3]}),
    ]
    project = make_project(
        studio.ledger,
        items,
        questions={"answer": {"kind": "text"}},
        hidden_proposal_share=1.0,
        overlap=2,
        gold_share=0.5,
    )
    other = AnnotationQueue(studio.ledger, project.id)
    from luthier.annotation.comments import add_comment
    from luthier.annotation.queue import AnswerSubmission

    for _ in range(3):
        leased = other.next_item("somebody else")
        assert leased is not None
        told = AnswerSubmission(
            id=f"other-{leased.id}", item=leased.id, values={"answer": SECRETS[4]}, comment=SECRETS[4]
        )
        other.submit("somebody else", told)
        add_comment(studio.ledger, project.id, leased.id, "somebody else", SECRETS[4])
    seen: list[str] = [browser.get("/label").text, browser.get(f"/label/{project.id}").text]
    held: list[int] = []
    while (found := fetch(browser, project, held))["item"] is not None:
        held.append(found["item"]["id"])
        seen.append(json.dumps(found))
        seen.append(browser.submit(f"/label/{project.id}/items/{held[-1]}/comments", text="mine").text)
    assert len(held) == 3
    assert not [secret for secret in SECRETS for text in seen if secret in text]


def test_text_of_items_labels_guidelines_and_remarks_is_no_markup(browser: Browser, studio: Studio) -> None:
    for attack in BREAKS:
        labels = [{"name": f"a {attack.strip()} b", "about": attack}, "other"]
        settings = {"questions": {attack[:40]: {"kind": "choice", "question": attack, "labels": labels}}}
        project = make_project(studio.ledger, [item(1, attack)], guidelines=attack, **settings)
        found = fetch(browser, project)["item"]
        thread = browser.submit(f"/label/{project.id}/items/{found['id']}/comments", text=attack).text
        for text in (browser.get("/label").text, browser.get(f"/label/{project.id}").text, found["html"], thread):
            assert "<img src=x" not in text
            assert "<svg onload" not in text
            assert "<script>alert" not in text
            assert "</textarea><script" not in text
            assert "94011940119" not in text


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs a browser: chromium is not installed")
_PATIENCE_MS = 20_000


# A studio in which a browser says who uses it, by a cookie.
SERVER = """
import sys
from starlette.requests import Request
from luthier.studio import app, people, server
def find_person(request: Request) -> people.Person:
    name = request.cookies.get("who", "owner")
    return people.Person(name, name, {"*": "owner"})
build = app.build_app
def build_app(*args, **more):
    made = build(*args, **more)
    made.dependency_overrides[people.find_person] = find_person
    return made
app.build_app = build_app
if hasattr(server, "build_app"):
    server.build_app = build_app
from luthier.cli import main
sys.argv[0] = "luthier"
main()
"""


class StudioServer:
    """A studio in a process of its own, on a port that stays its own when it is started again."""

    def __init__(self, workspace: Path) -> None:
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            self.port = chosen.getsockname()[1]
        self._command = [
            sys.executable, "-c", SERVER, "studio", str(workspace), "--port", str(self.port), "--json"
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        """Begin to answer."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = ready.Popen(self._command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self._process.stdout is not None
        self.link: str = json.loads(self._process.stdout.readline())["link"]

    def kill(self) -> None:
        """Answer no more, at once."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def server(workspace: Path) -> Iterator[StudioServer]:
    """A studio that a test may kill and start again."""
    started = StudioServer(workspace)
    yield started
    started.kill()


@pytest.fixture
def chromium() -> Iterator[Any]:
    """A real browser."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(context: Any, address: str) -> Any:
    page = context.new_page()
    page.set_default_timeout(_PATIENCE_MS)
    page.goto(address)
    page.locator("#item .question").first.wait_for()
    return page


def shown(page: Any) -> str:
    return str(page.locator("#item .message p").first.inner_text())


@needs_browser
def test_three_browsers_one_cut_off_and_a_killed_server_keep_each_answer_once(
    server: StudioServer, workspace: Path, chromium: Any
) -> None:
    with Ledger(workspace / ".luthier/ledger.db") as ledger:
        project = make_project(ledger, [item(number) for number in range(30)])
        context = chromium.new_context()
        opener = context.new_page()
        opener.goto(server.link)
        opener.wait_for_url("**/")
        address = f"http://127.0.0.1:{server.port}/label/{project.id}"
        contexts = [chromium.new_context() for _ in range(3)]
        for number, one in enumerate(contexts):
            who = {"name": "who", "value": f"person-{number}", "domain": "127.0.0.1", "path": "/"}
            one.add_cookies([*context.cookies(), who])
        pages = [open_page(one, address) for one in contexts]
        for number in range(2):
            for page in pages:
                page.keyboard.press("123"[number])
        contexts[0].set_offline(True)
        for _ in range(2):
            pages[0].keyboard.press("2")
            pages[0].wait_for_timeout(50)
        pages[0].get_by_text("No connection").wait_for()
        pages[1].keyboard.press("1")
        server.kill()
        pages[1].keyboard.press("2")
        pages[2].keyboard.press("3")
        pages[1].get_by_text("No connection").wait_for()
        server.start()
        contexts[0].set_offline(False)
        for page in pages:
            page.locator("#link-state").get_by_text("saved", exact=True).wait_for()
        for _ in range(30):
            for page in pages:
                if page.locator("#item .question").is_visible():
                    page.keyboard.press("1")
                    page.wait_for_timeout(30)
        for page in pages:
            page.locator("#done").wait_for()
            page.locator("#link-state").get_by_text("saved", exact=True).wait_for()
        pages[0].reload()  # others had items when its last answer was sent
        pages[0].locator("#waits").get_by_text("0 items wait").wait_for()
        queue = AnnotationQueue(ledger, project.id)
        assert queue.progress()[:2] == (0, 30)
        answers = list(queue.answers())
        assert set(Counter(one.item for one in answers).values()) == {1}
        assert {one.annotator for one in answers} == {"person-0", "person-1", "person-2"}
        assert not any(one.late for one in answers)


@needs_browser
def test_by_keyboard_alone(server: StudioServer, workspace: Path, chromium: Any) -> None:
    with Ledger(workspace / ".luthier/ledger.db") as ledger:
        questions = {
            "topic": {"kind": "choice", "labels": LABELS},
            "tone": {"kind": "rating", "question": "How friendly is it?"},
        }
        project = make_project(ledger, [item(number) for number in range(5)], questions=questions)
        said: list[str] = []
        context = chromium.new_context()
        opener = context.new_page()
        opener.goto(server.link)
        opener.wait_for_url("**/")
        page = open_page(context, f"http://127.0.0.1:{server.port}/label/{project.id}")
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        assert shown(page) == "text 0"
        page.wait_for_load_state("networkidle")  # the next items are there
        page.keyboard.press("Enter")
        page.get_by_text("There is no answer yet to: Which label fits?").wait_for()
        for key in ("2", "4", "Enter"):
            page.keyboard.press(key)
        page.get_by_text("text 1").wait_for()
        page.keyboard.press("s")
        page.get_by_text("text 2").wait_for()
        page.keyboard.press("u")
        page.get_by_text("text 1").wait_for()
        page.keyboard.press("f")
        page.keyboard.type("what is this?")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.get_by_text("text 2").wait_for()
        page.locator("#link-state").get_by_text("saved", exact=True).wait_for()
        answers = list(AnnotationQueue(ledger, project.id).answers())
        assert [(one.kind, one.values) for one in answers] == [("answer", {"topic": "refund", "tone": 4}), ("flag", {})]
        assert answers[1].comment == "what is this?"
        started = time.perf_counter()
        page.keyboard.press("q")
        page.wait_for_url("**/label")
        assert time.perf_counter() - started < 20
        assert not said


def csv(rows: int = 12) -> bytes:
    lines = [f"r{number},text number {number},{LABELS[number % 3] if number < 3 else ''}" for number in range(rows)]
    return ("id,text,known\n" + "\n".join(lines) + "\n").encode()


def test_a_project_is_made_managed_decided_and_trained(browser: Browser, studio: Studio, workspace: Path) -> None:
    fields = {"name": "Tickets", "kind": "choice", "labels": "\n".join(LABELS), "overlap": "2", "gold": "known"}
    made = browser.submit("/label/new", **fields, files={"file": ("rows.csv", csv())})
    assert made.status_code == 200
    address = made.url.path.removesuffix("/manage")
    project_id = address.rpartition("/")[2]
    assert "0 of 9 items done" in made.text
    assert "3 with a known answer" in made.text
    for person, label in (("ann", "refund"), ("ben", "account")):
        ids = [one.item.id for one in find_items(studio.ledger, project_id, search="number")]
        label_items(studio.ledger, project_id, ids[3:6], {"answer": label}, by=person)
    page = browser.get(f"{address}/manage?search=number").text
    assert "ann" in page
    assert "text number 5" in page
    disputed = browser.get(f"{address}/adjudicate").text
    assert disputed.count("This one") == 6
    first = find_items(studio.ledger, project_id, search="number 3")[0].item.id
    after = browser.submit(f"{address}/adjudicate/{first}", values='{"answer": "delivery"}', gold="1").text
    assert after.count("This one") == 4
    assert browser.submit(f"{address}/adjudicate/{first}", values='{"answer": "nonsense"}').status_code == 400
    chosen = [str(one.item.id) for one in find_items(studio.ledger, project_id, search="number")[6:10]]
    given = browser.submit(f"{address}/bulk", item=chosen, value="refund", search="number").text
    assert "4 items got this answer" in given
    changed = browser.submit(f"{address}/guidelines", guidelines="Read twice.", questions="")
    assert "version 2" in changed.text
    narrower = json.dumps([{"kind": "choice", "labels": ["refund", "delivery"]}])
    refused = browser.submit(f"{address}/guidelines", guidelines="Read twice.", questions=narrower)
    assert refused.status_code == 400
    assert "would become invalid" in refused.text
    assert browser.submit(f"{address}/settings", overlap="1", gold_share="0.2", state="closed").status_code == 200
    assert browser.submit(f"{address}/settings", overlap="nonsense").status_code == 400
    assert "alpha" in browser.get(f"{address}/measures").text
    trained = browser.submit(f"{address}/train", name="from-labels")
    assert trained.status_code == 200
    recipe = read_yaml(workspace / "from-labels" / "recipe.yaml").data
    assert recipe["steps"]["data"]["source"]["project"] == project_id


def test_a_project_of_a_data_set_that_is_not_made_is_refused(browser: Browser, project: Path) -> None:
    assert "What is asked" in browser.get("/label/new?project=tickets").text
    refused = browser.submit("/label/new", name="Rows", kind="choice", labels="a\nb", project="tickets")
    assert refused.status_code == 400
    assert "run the project first" in refused.text
    assert browser.submit("/label/new", name="Rows", kind="choice", labels="a").status_code == 400
