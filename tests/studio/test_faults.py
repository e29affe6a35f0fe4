"""People go on labelling while the server is killed, the network is away, the database is away, questions change, or
two have one item: no answer is lost and none is kept twice."""

from __future__ import annotations

import http.client
import json
import random
import secrets
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from sqlalchemy import update

from luthier.annotation.project import (
    NewItem,
    ProjectSettings,
    add_items,
    create_project,
    get_project,
    update_guidelines,
)
from luthier.annotation.question import Question, QuestionItem
from luthier.annotation.queue import AnnotationQueue
from luthier.core.db import Ledger
from luthier.core.db.tables.annotation import AssignmentRow
from luthier.core.errors import InputError
from luthier.core.events import RunEvent
from luthier.core.render import LogFileRenderer
from luthier.recipe.runner import get_run_log_path
from luthier.studio.sessions import form_token
from luthier.studio.state import Studio
from studio.conftest import Browser
from studio.labelling_server import PERSON, LabellingServer, open_session
from tests import ready
from tests.conftest import Postgres

LABELS = ["billing", "login", "other"]
PEOPLE = ("ann", "ben", "cid", "dot", "eve", "fay")
SLOW = pytest.mark.slow


def make_project(ledger: Ledger, count: int, **settings: Any) -> str:
    """A labelling project of so many items."""
    asked = {"questions": {"topic": {"kind": "choice", "labels": LABELS}}, **settings}
    project = create_project(ledger, "Topics", ProjectSettings.model_validate(asked), by="owner")
    items = (
        NewItem(f"row-{at}", QuestionItem(({"role": "user", "content": f"item-{at} of many"},))) for at in range(count)
    )
    add_items(ledger, project.id, items)
    return project.id


class Labeller:
    """A browser's part without the browser: answers wait in it until the server has said that it has them."""

    def __init__(self, url: str, project: str, person: str, cookie: str) -> None:
        self.person, self._project, self._cookie = person, project, cookie
        self._address = urlsplit(url)
        self.unsent: list[dict[str, Any]] = []
        self.sent: dict[str, int] = {}
        """The item of each answer, by its id, that the server said it has."""
        self.outcomes: list[dict[str, Any]] = []
        self.failures = 0
        self.offline = threading.Event()

    def post(self, path: str, **fields: str) -> tuple[int, Any]:
        """Send a form as the page does; `OSError` or `HTTPException` where nobody answers."""
        if self.offline.is_set():
            raise ConnectionError("offline")
        connection = http.client.HTTPConnection(self._address.hostname or "", self._address.port, timeout=20)
        headers = {
            "Cookie": f"luthier_studio={self._cookie}; {PERSON}={self.person}",
            "Origin": f"http://{self._address.netloc}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        try:
            body = urlencode({"token": form_token(self._cookie), **fields})
            connection.request("POST", f"/label/{self._project}/{path}", body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        try:
            return answer.status, json.loads(content)
        except ValueError:
            return answer.status, content.decode()

    def next(self, held: list[int]) -> dict[str, Any] | None:
        """Another item; None where there is none."""
        status, found = self.post("next", held=json.dumps(held))
        if status != 200:
            raise ConnectionError(str(status))
        item: dict[str, Any] | None = found["item"]
        return item

    def answer(self, item: dict[str, Any], **more: Any) -> None:
        """Keep an answer here, to be sent."""
        self.unsent.append(
            {
                "id": secrets.token_hex(16), "item": item["id"], "kind": "answer",
                "values": {"topic": random.choice(LABELS)}, "guideline_version": item["version"], **more,
            }
        )  # fmt: skip

    def send(self) -> None:
        """Send what waits; what is answered without an error is regarded as sent."""
        while self.unsent:
            submission = self.unsent[0]
            status, outcome = self.post("submit", submission=json.dumps(submission))
            if status != 200:
                raise ConnectionError(str(status))
            self.outcomes.append(outcome)
            self.sent[submission["id"]] = submission["item"]
            del self.unsent[0]

    def work(self, over: threading.Event) -> None:
        """Answer one item after another, and go on through whatever fails, until it is over and all is sent."""
        ahead: list[dict[str, Any]] = []
        while not over.is_set() or self.unsent:
            try:
                if not over.is_set() and len(ahead) < 3:
                    held = [one["id"] for one in ahead] + [one["item"] for one in self.unsent]
                    if (item := self.next(held)) is not None and item["id"] not in held:
                        ahead.append(item)
                if ahead and not over.is_set():
                    self.answer(ahead.pop(0))
                self.send()
            except (OSError, http.client.HTTPException):
                self.failures += 1
                if ahead and not over.is_set() and len(self.unsent) < 3:
                    self.answer(ahead.pop(0))
                time.sleep(0.05)
            time.sleep(0.01)


@contextmanager
def working(labellers: list[Labeller]) -> Iterator[None]:
    """Let people work; afterwards each has sent all."""
    over = threading.Event()
    threads = [threading.Thread(target=one.work, args=(over,), daemon=True) for one in labellers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "all of them could send what waited"


def wait_for_answers(labellers: list[Labeller], *, more: int) -> None:
    """Wait until so many answers more were sent."""
    wanted, end = sum(len(one.sent) for one in labellers) + more, time.monotonic() + 60
    while sum(len(one.sent) for one in labellers) < wanted:
        assert time.monotonic() < end, "people can go on"
        time.sleep(0.02)


def kept_submissions(ledger: Ledger, project: str) -> list[tuple[str, str, int, str, bool]]:
    """Each answer that the ledger has, whatever became of it: id, person, item, state, late."""
    from sqlalchemy import select

    from luthier.core.db.tables.annotation import AnswerRow

    row = AnswerRow
    with ledger.reading() as session:
        wanted = select(row.submission, row.annotator, row.item_id, row.state, row.late)
        return [(*one,) for one in session.execute(wanted.where(row.project_id == project))]


def check_kept(ledger: Ledger, project: str, sent: dict[tuple[str, str], int], overlap: int) -> None:
    """Every answer that was sent is there once, nothing else is, and no item has too many, late ones aside."""
    rows = kept_submissions(ledger, project)
    there = Counter((person, submission) for submission, person, *_ in rows)
    assert set(there) == set(sent)
    assert set(there.values()) <= {1}
    for submission, person, item, _state, _late in rows:
        assert sent[person, submission] == item
    in_time = Counter(item for _, _, item, state, late in rows if state == "kept" and not late)
    assert max(in_time.values(), default=0) <= overlap
    by_person = Counter((item, person) for _, person, item, state, _ in rows if state == "kept")
    assert set(by_person.values()) <= {1}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=SLOW)])
def test_no_answer_is_lost_or_doubled_while_the_server_is_killed(workspace: Path, kills: int) -> None:
    chance = random.Random(kills)
    with Ledger(workspace / ".luthier/ledger.db") as ledger:
        project = make_project(ledger, 20_000, overlap=2)
        cookies = {person: open_session(ledger) for person in PEOPLE}
    server = LabellingServer(workspace, popen=ready.Popen)
    server.wait()
    labellers = [Labeller(server.url, project, person, cookies[person]) for person in PEOPLE]
    with working(labellers):
        for kill in range(kills):
            wait_for_answers(labellers, more=12)
            time.sleep(chance.uniform(0, 0.3))
            if kill == kills // 3:
                labellers[-1].offline.set()
            if kill == 2 * kills // 3 + 1:
                labellers[-1].offline.clear()
            server.kill()
            time.sleep(chance.uniform(0, 0.2))
            server.start_again()
            server.wait()
    server.stop()
    assert all(one.failures and not one.unsent for one in labellers), "each noticed, and each has sent all"
    sent = {(one.person, id): item for one in labellers for id, item in one.sent.items()}
    with Ledger(workspace / ".luthier/ledger.db") as ledger:
        check_kept(ledger, project, sent, overlap=2)
        progress = AnnotationQueue(ledger, project).progress()
    assert progress.answers == len(sent) > 10 * kills


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_chromium_pages_keep_their_answers_while_the_server_is_killed(workspace: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs a browser: chromium is not installed")
    chance = random.Random(9)
    with Ledger(workspace / ".luthier/ledger.db") as ledger:
        project = make_project(ledger, 5_000)
        cookies = {person: open_session(ledger) for person in PEOPLE}
    server = LabellingServer(workspace, popen=ready.Popen)
    server.wait()
    labellers = [Labeller(server.url, project, person, cookies[person]) for person in PEOPLE[:4]]
    with playwright.sync_playwright() as driver, working(labellers):
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        pages = []
        for person in PEOPLE[4:]:
            context = browser.new_context()
            pairs = {"luthier_studio": cookies[person], PERSON: person}
            context.add_cookies([{"name": name, "value": value, "url": server.url} for name, value in pairs.items()])
            page = context.new_page()
            page.set_default_timeout(20_000)
            page.add_init_script(_RECORD)
            page.goto(f"{server.url}/label/{project}")
            page.get_by_text("item-").first.wait_for()
            pages.append(page)
        for kill in range(12):
            pages[1].context.set_offline(4 <= kill < 8)
            if not 4 <= kill < 8:
                pages[1].locator("#item").get_by_text("item-").first.wait_for()
            pages[0].locator("#item").get_by_text("item-").first.wait_for()
            for page in pages:
                for _ in range(chance.randint(1, 3)):
                    page.keyboard.press(chance.choice("123"))
                    page.wait_for_timeout(chance.uniform(20, 150))
            server.kill()
            pages[0].keyboard.press("1")
            server.start_again()
            server.wait()
        pages[1].context.set_offline(False)
        for page in pages:
            wait_until_sent(page)
        sent = {
            (person, id): item
            for person, page in zip(PEOPLE[4:], pages, strict=True)
            for id, item in json.loads(page.evaluate("sessionStorage.getItem('answers') ?? '{}'")).items()
        }
        browser.close()
    server.stop()
    assert len(sent) > 12
    sent |= {(one.person, id): item for one in labellers for id, item in one.sent.items()}
    with Ledger(workspace / ".luthier/ledger.db") as ledger:
        check_kept(ledger, project, sent, overlap=1)


def wait_until_sent(page: Any) -> None:
    """Wait until no answer waits in a page; its policy does not let it poll by itself."""
    end = time.monotonic() + 60
    while page.evaluate("Object.keys(localStorage).some((key) => key.startsWith('luthier-answer:'))"):
        assert time.monotonic() < end, "all answers can be sent"
        page.wait_for_timeout(100)


_RECORD = """
(() => {
  const write = Storage.prototype.setItem;
  Storage.prototype.setItem = function (key, value) {
    write.call(this, key, value);
    if (this !== localStorage || !key.startsWith("luthier-answer:")) return;
    const { submission } = JSON.parse(value);
    const answers = JSON.parse(sessionStorage.getItem("answers") ?? "{}");
    write.call(sessionStorage, "answers", JSON.stringify({ ...answers, [submission.id]: submission.item }));
  };
})();
"""
"""Notes every answer that the page keeps to be sent, where a page that is loaded anew still has it."""


@pytest.fixture
def served(workspace: Path) -> Iterator[tuple[Ledger, LabellingServer]]:
    """A ledger, and a studio over it in a process of its own."""
    with Ledger(workspace / ".luthier/ledger.db") as ledger:
        server = LabellingServer(workspace, popen=ready.Popen)
        server.wait()
        yield ledger, server
        server.stop()


def test_one_item_goes_to_one_person_and_a_late_answer_is_kept_and_said(
    served: tuple[Ledger, LabellingServer],
) -> None:
    ledger, server = served
    project = make_project(ledger, 1)
    people = [Labeller(server.url, project, person, open_session(ledger)) for person in PEOPLE]
    found: list[dict[str, Any] | None] = [None] * len(people)

    def ask(at: int) -> None:
        found[at] = people[at].next([])

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(len(people))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    holders = [at for at, item in enumerate(found) if item is not None]
    assert len(holders) == 1
    first = people[holders[0]]
    second = people[(holders[0] + 1) % len(people)]
    mine = found[holders[0]]
    assert mine is not None
    with ledger.writing() as session:  # its time is over
        session.execute(update(AssignmentRow).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    taken = second.next([])
    assert taken is not None
    assert taken["id"] == mine["id"]
    second.answer(taken)
    second.send()
    first.answer(mine)
    first.send()
    assert second.outcomes == [{"kept": True, "late": False, "duplicate": False}]
    assert first.outcomes == [{"kept": True, "late": True, "duplicate": False}], "the page says so"
    check_kept(ledger, project, _sent(first, second), overlap=1)


def _sent(*people: Labeller) -> dict[tuple[str, str], int]:
    return {(one.person, id): item for one in people for id, item in one.sent.items()}


def test_guidelines_and_questions_that_change_midway_lose_nothing(served: tuple[Ledger, LabellingServer]) -> None:
    ledger, server = served
    project = make_project(ledger, 10)
    ann = Labeller(server.url, project, "ann", open_session(ledger))
    first = ann.next([])
    assert first is not None
    ann.answer(first, values={"topic": "billing"})
    ann.send()
    before = ann.next([])
    assert before is not None
    update_guidelines(ledger, project, guidelines="Read all of it.", by="owner")
    more = Question.parse({"kind": "choice", "labels": [*LABELS, "spam"]})
    update_guidelines(ledger, project, questions={"topic": more}, by="owner")
    ann.answer(before, values={"topic": "login"})
    ann.send()
    after = ann.next([])
    assert after is not None
    assert (before["version"], after["version"]) == (1, 3)
    ann.answer(after, values={"topic": "spam"})
    ann.send()
    fewer = Question.parse({"kind": "choice", "labels": ["login", "spam"]})
    with pytest.raises(InputError, match="1 answer would become invalid"):
        update_guidelines(ledger, project, questions={"topic": fewer}, by="owner")
    assert get_project(ledger, project).guideline_version == 3
    answers = list(AnnotationQueue(ledger, project).answers())
    assert [(one.values["topic"], one.guideline_version) for one in answers] == [
        ("billing", 1),
        ("login", 1),
        ("spam", 3),
    ]
    kept, told = ann.post(
        "submit", submission=json.dumps({"id": "x" * 32, "item": after["id"], "values": {"topic": "?"}})
    )
    assert kept == 422, "what no question accepts is refused, and said"
    assert "topic" in told["error"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=SLOW)])
def test_while_postgresql_is_away_pages_say_it_and_nothing_is_lost(
    workspace: Path, own_postgres: Postgres, seconds: int
) -> None:
    with Ledger(own_postgres.url) as ledger:
        project = make_project(ledger, 5_000)
        cookies = {person: open_session(ledger) for person in PEOPLE}
    server = LabellingServer(workspace, environment={"LUTHIER_LEDGER": own_postgres.url}, popen=ready.Popen)
    server.wait()
    labellers = [Labeller(server.url, project, person, cookies[person]) for person in PEOPLE]
    with working(labellers):
        wait_for_answers(labellers, more=12)
        own_postgres.stop()
        time.sleep(1)
        status, page = labellers[0].post("next", held="[]")
        assert status == 503
        assert "cannot be reached" in str(page), "the page says what is away"
        time.sleep(seconds)
        own_postgres.start()
        wait_for_answers(labellers, more=12)
    server.stop()
    with Ledger(own_postgres.url) as ledger:
        check_kept(ledger, project, _sent(*labellers), overlap=1)


def test_a_log_that_grows_is_shown_to_many_at_once(
    browser: Browser, studio: Studio, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.studio.state._EVERY_S", 0.0)
    run = studio.queue.add(Path("tickets/recipe.yaml"))
    studio.queue.update(run.id, state="running", started_at=datetime.now(UTC), run="word")
    log = get_run_log_path(studio.workspace.with_folder(project).open_store(), "word")
    log.parent.mkdir(parents=True)
    found: list[int] = []
    watchers = [
        threading.Thread(
            target=lambda: found.extend(browser.get(f"/runs/{run.id}/progress").status_code for _ in range(15))
        )
        for _ in range(4)
    ]
    with LogFileRenderer(log) as write:
        write(RunEvent(kind="start", step="tune", text="tune"))
        for watcher in watchers:
            watcher.start()
        while any(watcher.is_alive() for watcher in watchers):
            write(RunEvent(kind="note", step="tune", text="one more"))
    assert found == [200] * 60


def test_an_answer_is_on_the_disk_when_it_is_said_to_be_kept(workspace: Path) -> None:
    """The setting of the very connection, and that the log of writes was synced between the request and its answer."""
    from sqlalchemy import event

    with Ledger(workspace / ".luthier/ledger.db") as ledger:
        queue = AnnotationQueue(ledger, make_project(ledger, 3))
        leased = queue.next_item("ann")
        assert leased is not None
        seen: list[int] = []

        def look(connection: Any) -> None:
            seen.append(connection.exec_driver_sql("PRAGMA synchronous").scalar())

        engine = ledger._engine
        event.listen(engine, "commit", look)
        submission = {"id": "s" * 32, "item": leased.id, "values": {"topic": "login"}}
        from luthier.annotation.queue import AnswerSubmission

        queue.submit("ann", AnswerSubmission.model_validate(submission))
        event.remove(engine, "commit", look)
    assert seen == [2], "2 is FULL"


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_log_of_writes_is_synced_with_each_answer(served: tuple[Ledger, LabellingServer], tmp_path: Path) -> None:
    ledger, server = served
    project = make_project(ledger, 20)
    ann = Labeller(server.url, project, "ann", open_session(ledger))
    items = [item for item in [ann.next([])] if item is not None]
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-e", "trace=fsync,fdatasync", "-o", str(trace), "-p", str(server.process.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        if "attached" not in tracer.stderr.readline():
            pytest.skip("strace may not look at processes here")
        ann.answer(items[0])
        ann.send()
        tracer.terminate()
    assert "ledger.db-wal" in trace.read_text()
