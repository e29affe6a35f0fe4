"""A list of attacks, tried on every address that the application has: texts that would be code are stored in every
field, and each page is read by a parser as a browser would read it.

The addresses are found in the application; a new parameter needs an entry in `find_known`, and a new stored field a
function in `FIELDS`. The long version tries every text; the short one, two of them as one text.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from luthier.annotation.comments import add_comment
from luthier.annotation.project import (
    NewItem,
    ProjectSettings,
    add_items,
    create_project,
    list_projects,
    update_guidelines,
)
from luthier.annotation.question import QuestionItem
from luthier.annotation.queue import AnnotationQueue, AnswerSubmission
from luthier.commands.projects.explanations import parse_question
from luthier.commands.projects.workspace import project_id
from luthier.commands.review.fill import fill_review_queue
from luthier.commands.review.queues import build_settings, create_review_queue
from luthier.commands.review.verdicts import submit_verdict
from luthier.core.events import RunEvent
from luthier.core.render import LogFileRenderer
from luthier.core.spreadsheet import escape_formula
from luthier.people.rights import WORKSPACE
from luthier.recipe.runner import get_run_log_path
from luthier.studio.people import Person, find_person
from luthier.studio.sessions import COOKIE, form_token
from luthier.studio.state import Studio
from studio.conftest import RECIPE, URL, Browser, run_in
from studio.test_models import _write_traffic

pytestmark = pytest.mark.usefixtures("failed_commands")
MARK = "x31337"
"""Stands in each text, as a name that no page of ours has."""
CORPUS = (
    f"<{MARK}></{MARK}><script>{MARK}()</script>",
    f'"><img src={MARK} onerror={MARK}()>',
    f"'><svg onload={MARK}()>",
    f"</textarea></title></style></script><script>{MARK}()</script>",
    f"javascript:{MARK}()",
    f'" onfocus={MARK}() autofocus {MARK}="',
    f"' hx-get=/{MARK} hx-trigger=load {MARK}='",
    f"{MARK} {{{{ 31337313373*3 }}}} ${{31337313373*3}} <%= 31337313373*3 %> {{% print(31337313373*3) %}}",
    f"--><base href=//evil.example/{MARK}><meta http-equiv=refresh content='0;//evil.example'>",
    f"<iframe srcdoc='<script>{MARK}()</script>'></iframe> {MARK}",
    f"//evil.example/{MARK}",
    f"\\u003cscript\\u003e{MARK}()\\u003c/script\\u003e &lt;script&gt; &#60;script&#62;",
)
_SHORT = f"{CORPUS[1]} {CORPUS[7]}"
"""Leaves what it stands in, and is a template: the two at once."""
_LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", "＝1+1")
INNER = (
    "http://169.254.169.254/",
    "http://127.0.0.1:1/",
    "file:///etc/passwd",
    "//localhost/",
    "gopher://127.0.0.1:25/",
)
_LINKS = frozenset({"href", "src", "action", "formaction", "hx-get", "hx-post", "data", "poster", "xlink:href"})
_OWN = ("/", "?", "#", "data:image/", f"{URL}/")
_ELSEWHERE = ("https://",)
"""Beginnings of links to other hosts that pages have on purpose: of a model's origin."""


@dataclass
class PageParser(HTMLParser):
    """What of a page would run, or lead elsewhere."""

    faults: list[str] = field(default_factory=list)
    texts: int = 0
    """Pieces of text, and values of attributes, in which the mark stands as a text."""

    def __post_init__(self) -> None:
        super().__init__()
        self._in: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name.lower(): value or "" for name, value in attrs}
        self._in = tag if tag in ("script", "style") else None
        if MARK in tag or tag in ("base", "object", "embed", "applet"):
            self.faults.append(f"an element <{tag}>")
        if tag == "script" and not values.get("src", "").startswith("/static/"):
            self.faults.append("a script of its own")
        if tag == "meta" and "http-equiv" in values:
            self.faults.append("a meta that acts")
        for name, value in values.items():
            self.texts += MARK in value
            if MARK in name or name.startswith("on") or name in ("style", "srcdoc", "hx-on"):
                self.faults.append(f"an attribute {name} of <{tag}>")
            place = value.strip().lower().lstrip("\0\t\n\r ")
            leads_out = not place.startswith(_OWN) or place.startswith(("//", "/\\"))
            if name in _LINKS and place and leads_out and not (place.startswith(_ELSEWHERE) and MARK not in place):
                self.faults.append(f"{name} of <{tag}> leads to {value[:60]}")

    handle_startendtag = handle_starttag

    def handle_data(self, data: str) -> None:
        self.texts += MARK in data
        if self._in is not None and data.strip():
            self.faults.append(f"text in <{self._in}>")
        if "94011940119" in data:
            self.faults.append("a template ran what it shows")


def read_page(text: str) -> PageParser:
    """Read a page, or a piece of one; a JSON answer is read with the pieces in it."""
    parser = PageParser()
    if text.lstrip().startswith("{"):
        item = (json.loads(text).get("item") or {}) if text.strip() else {}
        text = item.get("html", "") if isinstance(item, Mapping) else ""
    parser.feed(text)
    parser.close()
    return parser


# ---- what is stored, field by field


def store_recipe(studio: Studio, words: str) -> None:
    """The names in recipes: of a project, a file, a step, a kind; and a comment."""
    folder, quoted = studio.workspace.folder, json.dumps(words)
    text = RECIPE.replace("name: tickets", f"name: {quoted}").replace("path: rows.csv", f"path: {quoted}")
    for name, recipe in (
        ("named", text + f"# {words}\n"),
        ("odd", f"luthier: 1\nsteps: {{{quoted}: {{kind: {quoted}}}}}\n"),
    ):
        (folder / name).mkdir()
        (folder / name / "recipe.yaml").write_text(recipe)


def store_runs(studio: Studio, words: str) -> None:
    """What runs carry: overrides, messages of failures, and all that a log says."""
    for name, state in (("tickets", "failed"), ("named", "running")):
        run = studio.queue.add(Path(name) / "recipe.yaml", [f"name={words}"])
        word = f"{name}0run"
        log = get_run_log_path(studio.workspace.with_folder(studio.workspace.folder / name).open_store(), word)
        log.parent.mkdir(parents=True, exist_ok=True)
        with LogFileRenderer(log) as write:
            write(RunEvent(kind="start", step=words, text=words))
            measures: dict[str, float | str] = {"loss": 1.0, words: words, f"{words} 2": 2.0}
            for done in (1, 2):
                write(RunEvent(kind="progress", step=words, done=done, total=9, unit=words, measures=measures))
            write(RunEvent(kind="warning", step=words, text=words, details=words))
        error = {"message": words, "hint": words} if state == "failed" else None
        studio.queue.update(run.id, state=state, error=error, run=word)


def store_draft(studio: Studio, words: str) -> None:
    """Rows that were dropped: columns, texts, labels."""
    from io import BytesIO

    from luthier.commands.projects.intake import create_draft

    rows = [{words: f"{words} {at}", "label": words if at % 2 else "plain"} for at in range(8)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    create_draft(studio.workspace, "mine", "rows.jsonl", BytesIO(content))


def store_labelling(studio: Studio, words: str) -> None:
    """A labelling project: its name, guidelines, questions, labels, items, proposals, answers, remarks, people."""
    labels = [{"name": words, "about": words}, "other"]
    question = {"kind": "choice", "labels": labels, "question": words}
    settings = ProjectSettings.model_validate({"questions": {"topic": question}, "guidelines": f"{words}\n\n{words}"})
    made = create_project(
        studio.ledger, words, settings, project=project_id(studio.workspace, _recipe(studio)), by=words
    )
    turns = ({"role": "system", "content": words}, {"role": "user", "content": words})
    items = [
        NewItem(
            f"{words} {at}", QuestionItem(turns, (words,) * (at % 2)), hidden={words: words}, proposal={"topic": words}
        )
        for at in range(4)
    ]
    add_items(studio.ledger, made.id, items)
    queue = AnnotationQueue(studio.ledger, made.id)
    for at, kind in enumerate(("answer", "flag", "skip")):
        leased = queue.next_item(words)
        assert leased is not None
        values = {"topic": words} if kind == "answer" else {}
        sent = {"id": f"submission-{at}", "item": leased.id, "values": values, "kind": kind, "comment": words}
        queue.submit(words, AnswerSubmission.model_validate(sent))
        add_comment(studio.ledger, made.id, leased.id, words, words, by_reviewer=True)
    update_guidelines(studio.ledger, made.id, guidelines=words + words, by=words)


def store_review(studio: Studio, words: str) -> None:
    """Traffic, a queue that reviews it, and what a reviewer says: a name, conditions, types of failure, remarks."""
    _write_traffic(studio.workspace.folder / "tickets", 2, words, words)
    where = "" if '"' in words else f'text contains "{words}"'
    drawn = build_settings(chance=1.0, where=where, since=_LONG_AGO)
    project = project_id(studio.workspace, _recipe(studio))
    queue = create_review_queue(studio.ledger, words, drawn, project=project, by=words)
    fill_review_queue(studio.ledger, studio.workspace, queue, say=lambda _: None)
    item = AnnotationQueue(studio.ledger, queue.id).next_item(words)
    assert item is not None
    values = {"verdict": "wrong", "label": words, "correction": words, "types": [words[:100]]}
    given = AnswerSubmission(id="reviewed", item=item.id, values=values, comment=words)
    submit_verdict(studio.ledger, studio.workspace, queue.id, given, by=words, new_types=[words[:100]])


def store_study(studio: Studio, words: str) -> None:
    """A study: its name, its guidelines, what it asks, and who judged."""
    asked = {"judgment": {"kind": "text", "question": words}}
    told = {"purpose": "judging", "assignment": "0" * 64, "questions": asked, "guidelines": words}
    settings = ProjectSettings.model_validate(told)
    project = project_id(studio.workspace, _recipe(studio))
    made = create_project(studio.ledger, words, settings, project=project, by=words)
    add_items(studio.ledger, made.id, [NewItem(words, QuestionItem(({"role": "user", "content": words},), (words,)))])


def store_explanation(studio: Studio, words: str) -> None:
    """An explanation: what was asked, the answer, its parts, notes, and who asked; and one that failed."""
    scores = {"for": 1.0, "against": -0.5}
    unit = {"text": words, "message": 0, "role": words, "start": 0, "end": 1, "tokens": 1}
    record = {
        "model": words, "digest": words, "method": words, "settings": {}, "unit": "words", "value": -0.1,
        "without": -2.0, "target": {"kind": "answer", "text": words, "against": words}, "notes": [words],
        "units": [{**unit, "score": score, "start": at} for at, score in enumerate(scores.values())],
    }  # fmt: skip
    failed = {"error": {"message": words, "hint": words}}
    question = parse_question(project="tickets", digest="0" * 32, text=words, answer=words, asked_by=words)
    for name, printed in (("0" * 12, {"explanations": [record]}), ("1" * 12, failed)):
        folder = studio.folder.with_name("explanations") / name
        (folder / "answer").mkdir(parents=True)
        (folder / "request.json").write_text(question.model_dump_json())
        (folder / "answer/output").write_text(json.dumps(printed))


FIELDS: tuple[Callable[[Studio, str], None], ...] = (
    store_recipe, store_runs, store_draft, store_labelling, store_review, store_study,
    store_explanation,
)  # fmt: skip
"""Each stores a text wherever something is stored."""


def _recipe(studio: Studio) -> Path:
    return studio.workspace.folder / "tickets/recipe.yaml"


def find_known(studio: Studio, words: str) -> dict[str, list[str]]:
    """What stands for each parameter of an address: things that are there, then the text itself."""
    from sqlalchemy import func, select

    from luthier.core.db.tables.annotation import AnnotationItemRow, AnnotationProjectRow

    with studio.ledger.reading() as session:
        projects = list(session.scalars(select(AnnotationProjectRow.id)))
        first = select(func.min(AnnotationItemRow.id)).group_by(AnnotationItemRow.project_id)
        items = [str(one) for one in session.scalars(first)]
    known = {
        "name": ["tickets", "named", "odd", "mine"],
        "run": [run.id for run in studio.queue.all()],
        "step": ["data", "tune"],
        "row": ["0"],
        "project_id": projects,
        "study": [one.id for one in list_projects(studio.ledger, purpose="judging")],
        "item": items,
        "explanation": ["0" * 12, "1" * 12],
    }
    return {parameter: [*found, words] for parameter, found in known.items()}


@dataclass(frozen=True)
class Address:
    """A route of the application."""

    path: str
    methods: frozenset[str]
    parameters: tuple[str, ...]

    def fill(self, known: Mapping[str, list[str]], words: str, most: int | None = None) -> Iterator[str]:
        """The addresses that it makes with what is known: the first of all, then each other one of each; and each item
        in each project."""
        choices = [known.get(one, [words, "x"]) for one in self.parameters]
        every = [tuple(one[0] for one in choices)]
        every += [(*every[0][:at], one, *every[0][at + 1 :]) for at, rest in enumerate(choices) for one in rest[1:]]
        every += [] if self.parameters[-2:] != ("project_id", "item") else product(*choices)
        for chosen in list(dict.fromkeys(every))[:most]:
            path = self.path
            for parameter, value in zip(self.parameters, chosen, strict=True):
                path = path.replace(f"{{{parameter}}}", quote(value, safe="")).replace(
                    f"{{{parameter}:path}}", quote(value)
                )
            yield path


def find_addresses(app: Any) -> list[Address]:
    """All routes, of included routers, too."""
    from starlette.routing import compile_path

    while not hasattr(app, "routes"):
        app = app.app
    routes: list[Any] = []
    for route in app.routes:
        inner = getattr(route, "original_router", None)
        routes += list(inner.routes) if inner is not None else [route]
    return [
        Address(route.path, frozenset(route.methods), tuple(compile_path(route.path)[2]))
        for route in routes
        if hasattr(route, "methods")
    ]


_QUERIES = (
    "step",
    "split",
    "label",
    "reason",
    "search",
    "sort",
    "slice",
    "prompt",
    "answer",
    "before",
    "after",
    "alias",
)
"""Fields of addresses that pages show again."""
_NO_PAGE = (
    "/static/{name}",
    "/projects/{name}/explain/{explanation}/heat.html",
    "/open",
    "/runs/{run}/events",
    "/runs/{run}/report/page",
    "/projects/{name}/report/page",
)
"""What is no page of the studio's own: events do not end, and a report and a heat map have policies of their own."""


@pytest.fixture(scope="module")
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the whole corpus in its rows, which was run once."""
    folder = tmp_path_factory.mktemp("prepared") / "tickets"
    folder.mkdir()
    with (folder / "rows.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        table.writerows([f"{words} number {at}", words] for words in CORPUS for at in range(5))
    recipe = RECIPE.replace("ops: [normalize, exact_dedup]", "ops: [normalize]").partition("  tune:")[0]
    (folder / "recipe.yaml").write_text(recipe)
    run_in(folder.parent, "run", "tickets/recipe.yaml")
    return folder


@pytest.fixture
def prepared(_prepared: Path, workspace: Path) -> Path:
    """The same in this test's workspace."""
    shutil.copytree(_prepared, workspace / "tickets")
    return workspace / "tickets"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("words", [_SHORT, *(pytest.param(words, marks=pytest.mark.slow) for words in CORPUS)])
def test_the_list_of_texts_that_would_be_code(browser: Browser, studio: Studio, prepared: Path, words: str) -> None:
    for store in FIELDS:
        store(studio, words)
    _name_person(browser, words)
    known = find_known(studio, words)
    shown = 0
    faults: list[str] = []
    for address in find_addresses(browser.app):
        if "GET" not in address.methods or address.path in _NO_PAGE:
            continue
        for at, path in enumerate(address.fill(known, words)):
            for query in ({},) if at else ({}, dict.fromkeys(_QUERIES, words) | {"step": "data"}):
                answer = browser.get(path, params=query)
                page = read_page(answer.text) if "html" in answer.headers.get("content-type", "") else PageParser()
                shown += page.texts
                faults += [f"GET {path} {query or ''}: {fault}" for fault in page.faults]
                assert answer.status_code < 500, path
    for project in known["project_id"][:-1]:
        answer = browser.submit(f"/label/{project}/next", held="[]")
        page = read_page(answer.text)
        shown += page.texts
        faults += [f"next of {project}: {fault}" for fault in page.faults]
    assert not faults
    assert shown > 50, "it was stored, and pages show it"


def _name_person(browser: Browser, words: str) -> None:
    app: Any = browser.app
    while not hasattr(app, "dependency_overrides"):
        app = app.app
    app.dependency_overrides[find_person] = lambda: Person("owner", words, {WORKSPACE: "owner"})


def test_the_list_of_forms_without_a_token(browser: Browser, studio: Studio, prepared: Path) -> None:
    for store in FIELDS:
        store(studio, CORPUS[0])
    known = {name: found[:1] for name, found in find_known(studio, "x").items()}
    own = form_token(browser.cookies.get(COOKIE) or "")
    tried = 0
    for address in find_addresses(browser.app):
        for path in address.fill(known, "x", most=1) if "POST" in address.methods else ():
            for token, headers in (
                ("", {"origin": URL}),
                ("0" * 64, {"origin": URL}),
                (form_token("another"), {"origin": URL}),
                (own, {}),
                (own, {"origin": "https://evil.example"}),
                (own, {"origin": URL, "sec-fetch-site": "cross-site"}),
            ):
                answer = browser.post(path, data={"token": token}, headers=headers, follow_redirects=False)
                assert answer.status_code == 403, (path, token, headers)
                tried += 1
    assert tried > 100


def test_the_list_of_pages_in_frames_and_without_a_session(
    browser: Browser, stranger: Browser, studio: Studio, prepared: Path
) -> None:
    known = find_known(studio, "x")
    addresses = [
        one for one in find_addresses(browser.app) if "GET" in one.methods and one.path != "/runs/{run}/events"
    ]
    for address in addresses:
        for path in address.fill(known, "x", most=2):
            answer = browser.get(path, follow_redirects=False)
            policy = answer.headers["content-security-policy"]
            assert (
                "frame-ancestors 'none'" in policy or "frame-ancestors 'self'; sandbox" in policy or "sandbox" in policy
            ), path
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "unsafe" not in policy.partition("sandbox")[0], path
            location = answer.headers.get("location", "")
            assert not location or (location.startswith("/") and not location.startswith("//")), (path, location)


def test_the_list_of_addresses_that_lead_elsewhere(browser: Browser, studio: Studio, prepared: Path) -> None:
    fields = ("next", "to", "url", "redirect", "return", "back", "referer")
    own = form_token(browser.cookies.get(COOKIE) or "")
    known = {name: found[:1] for name, found in find_known(studio, "x").items()}
    for address in find_addresses(browser.app):
        if address.path in ("/runs/{run}/events", "/close"):
            continue
        for path in address.fill(known, "x", most=1):
            for place in ("//evil.example", "https://evil.example", "/\\evil.example", *INNER):
                sent = dict.fromkeys(fields, place)
                answers = [browser.get(path, params=sent, follow_redirects=False)] if "GET" in address.methods else []
                if "POST" in address.methods and place == "//evil.example":
                    headers = {"origin": URL, "referer": "https://evil.example/"}
                    body = {"token": own, **sent}
                    answers.append(browser.post(path, data=body, headers=headers, follow_redirects=False))
                for answer in answers:
                    location = answer.headers.get("location", "/")
                    assert location.startswith("/"), (path, location)
                    assert not location.startswith(("//", "/\\")), (path, location)


def test_the_list_of_formulas() -> None:
    """What tables for spreadsheets do with a cell; the writers' own tests show that they do it."""
    for formula in FORMULAS:
        assert escape_formula(formula) == f"'{formula}"


def test_a_session_that_was_planted_is_never_taken_over(studio: Studio, stranger: Browser) -> None:
    planted = "planted" * 6
    token = studio.sessions.create_link_token()
    opened = stranger.get(f"/open?token={token}", headers={"cookie": f"{COOKIE}={planted}"})
    assert opened.status_code == 200
    assert planted not in opened.headers.get("set-cookie", "")
    stranger.cookies.clear()
    assert stranger.get("/", headers={"cookie": f"{COOKIE}={planted}"}).status_code == 401
