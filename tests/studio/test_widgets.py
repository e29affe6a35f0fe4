"""The pieces of pages that ask questions: nothing of an item is taken for markup, and each question can be answered by
keyboard alone, with the value that its `check` keeps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

import pytest

from luthier.annotation.question import Question, QuestionItem
from luthier.core.component import components_by_kind
from luthier.studio.pages import _environment, static_file
from luthier.studio.security import POLICY
from test_every_question import KINDS, item_for, make, said

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGE = """<!doctype html><html lang="en"><title>Questions</title>
<link rel="stylesheet" href="/static/studio.css"><script type="module" src="/page.js"></script><main>{}</main></html>"""
SCRIPT = """
import { bindKeys, readValue, showValue } from "/static/widgets.js"
window.root = document.querySelector("[data-question]")
window.answered = []
window.changes = 0
window.readValue = readValue
window.showValue = showValue
window.root.addEventListener("change", () => window.changes++)
window.release = bindKeys(window.root, (value) => window.answered.push(value))
"""
ATTACK = "</script><script>x()</script>\"'><img src=x onerror=x()> {{ 7*7 }} <!-- \u2028"


def render(question: Question, item: QuestionItem, value: Any = None) -> str:
    """An item with one question about it, as a page shows them."""
    facts = {"name": "asked", "question": question, "item": item, "questions": {"asked": question}}
    if value is not None:
        facts["values"] = {"asked": value}
    return "".join(
        _environment().get_template(f"widgets/{name}.html.jinja").render(facts) for name in ("item", "question")
    )


class Elements(HTMLParser):
    """The elements of a piece, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_item_says_is_no_markup_and_nothing_is_inline(kind: str) -> None:
    hostile: dict[str, Any] = {"question": f"Is this {ATTACK}?"}
    if "labels" in components_by_kind(Question)[kind].model_fields:
        hostile["labels"] = [{"name": ATTACK.strip(), "about": ATTACK}, "Other / Same"]
    if kind == "spans":
        hostile["relations"] = [ATTACK]
    if kind == "json":
        field = {"type": "string", "title": ATTACK, "description": ATTACK}
        hostile["obeys"] = {"type": "object", "properties": {ATTACK: field, "one": {"enum": [ATTACK]}}}
    question = make(kind, **hostile)
    item = QuestionItem(({"role": ATTACK, "content": ATTACK}, {"role": "user", "content": ATTACK}), (ATTACK, ATTACK))
    text = render(question, item, ATTACK)
    elements = Elements(text).found
    assert not {"script", "img", "style", "iframe"} & {tag for tag, _ in elements}
    for tag, attributes in elements:
        assert not any(name.startswith(("on", "hx-", "style", "src", "href")) for name in attributes), tag
    (root,) = [attributes for tag, attributes in elements if "data-question" in attributes]
    assert (root["data-question"], root["data-kind"]) == ("asked", kind)
    assert json.loads(root["data-value"] or "") == ATTACK
    assert "49" not in text


def served(body: str) -> Callable[[Any], None]:
    """An answer to each request of a page whose body is this; nothing is asked of any other host."""

    def answer(route: Any) -> None:
        path = urlsplit(route.request.url).path
        if path.startswith("/static/"):
            found = static_file(path.removeprefix("/static/"))
            route.fulfill(status=found.status_code, body=bytes(found.body), content_type=found.media_type)
        elif path == "/page.js":
            route.fulfill(body=SCRIPT, content_type="text/javascript")
        else:
            headers = {"content-security-policy": POLICY, "content-type": "text/html; charset=utf-8"}
            route.fulfill(body=PAGE.format(body), headers=headers)

    return answer


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """A browser for all questions."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if BROWSER is None:
        pytest.skip("needs a browser: chromium is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tab(driver: Any) -> tuple[Any, list[str]]:
    """One page that shows all questions, one after another, and what its console said against us."""
    page, said_against = driver.new_page(), list[str]()
    page.set_default_timeout(20_000)
    page.on("console", lambda message: said_against.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said_against.append(str(error)))
    return page, said_against


@pytest.fixture
def open_page(tab: tuple[Any, list[str]]) -> Iterator[Callable[..., Any]]:
    """Loads a question in the page; whatever its console says against us fails the test."""
    page, said_against = tab
    said_against.clear()

    def show(question: Question, item: QuestionItem, value: Any = None) -> Any:
        page.unroute_all()
        page.route("**/*", served(render(question, item, value)))
        page.goto("http://studio.test/")
        page.wait_for_function("window.release !== undefined")
        return page

    yield show
    assert said_against == []


TEXT = "Ana 🎉 met Bob in Bonn."
KEYS: dict[str, tuple[list[str], Any]] = {
    "choice": (["2"], "Other"),
    "choices": (["d", "1"], ["Billing", "Delivery"]),
    "tree": (["/", *"refu", "Enter"], "Billing / Refund"),
    "pair": (["="], "tie"),
    "rating": (["4"], 4),
    "rubric": (["2", "3", "0"], {"correct": 2, "complete": 3, "clear": 0}),
    "ranking": (["c", "a", "b"], ["C", "A", "B"]),
    "text": (["Tab", *"It is.", "Enter", *"So."], "It is.\nSo."),
    "correction": (["Tab", "ArrowUp", "Tab", "Control+a", *"Where?"], {"turn": 0, "text": "Where?"}),
    "json": (["Tab", *"Tu", "Tab", *"12"], {"day": "Tuesday", "parcels": 12}),
    "spans": (
        ["Tab", "Tab", "Tab", "1", "End", "ArrowLeft", "2", "Tab", "Tab", "Tab", "Tab", "Tab", "Tab", "Enter"],
        {
            "spans": [
                {"start": 0, "end": 3, "text": "Ana", "label": "thing"},
                {"start": 17, "end": 21, "text": "Bonn", "label": "day"},
            ],
            "relations": [{"from": 0, "to": 1, "label": "arrives"}],
        },
    ),
    "faults": (
        ["Tab", "Tab", "Tab", "Shift+ArrowRight", "Shift+ArrowRight", "2", "Tab", *"bad"],
        [{"start": 0, "end": 9, "text": "Ana 🎉 met", "severity": "major", "comment": "bad"}],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_is_answered_by_keyboard_alone(open_page: Callable[..., Any], kind: str) -> None:
    question, (keys, wanted) = make(kind), KEYS[kind]
    item = item_for(question)
    if question.widget in ("spans", "faults"):
        item = QuestionItem((), (TEXT,))
    page = open_page(question, item)
    for key in keys:
        page.keyboard.press("Space" if key == " " else key)
    value = page.evaluate("readValue(root)")
    assert value == wanted
    assert question.check(value, item) == value
    assert page.evaluate("answered") == ([wanted] if kind in ("choice", "pair", "rating") else [])
    assert page.evaluate("changes") > 0 or kind in ("text", "correction", "json", "faults")


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_shown_and_read_back(open_page: Callable[..., Any], kind: str) -> None:
    question = make(kind)
    item = item_for(question)
    first, *others = said(question)
    page = open_page(question, item, first)
    assert page.evaluate("readValue(root)") == first
    for value in others:
        assert page.evaluate("(value) => { showValue(root, value); return readValue(root) }", value) == value
    page.evaluate("showValue(root, null)")
    page.evaluate("release()")
    page.keyboard.press("1")
    assert page.evaluate("answered") == []


def test_places_are_selected_with_the_mouse_and_counted_as_python_does(open_page: Callable[..., Any]) -> None:
    question, item = make("spans"), QuestionItem((), (TEXT,))
    page = open_page(question, item)
    box = page.evaluate("""() => {
        const range = document.createRange(), text = document.querySelector(".surface").firstChild.firstChild
        range.setStart(text, text.data.indexOf("met")); range.setEnd(text, text.data.indexOf(" in"))
        return range.getBoundingClientRect().toJSON()
    }""")
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 1, middle)
    page.mouse.down()
    page.mouse.move(box["right"] - 1, middle, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="day").click()
    value = page.evaluate("readValue(root)")
    assert value["spans"] == [{"start": 6, "end": 13, "text": "met Bob", "label": "day"}]
    assert question.check(value, item) == value
    page.get_by_role("button", name="Remove: day, met Bob").click()
    assert page.evaluate("readValue(root)") == {"spans": [], "relations": []}


def test_what_is_no_answer_yet_is_null(open_page: Callable[..., Any]) -> None:
    asked = [make("choices", min=2), *map(make, ("choice", "tree", "rating", "rubric", "text", "correction", "json"))]
    for question in asked:
        page = open_page(question, item_for(question))
        assert page.evaluate("readValue(root)") is None
    page = open_page(asked[0], item_for(asked[0]))
    page.keyboard.press("1")
    assert page.evaluate("readValue(root)") is None
    page.keyboard.press("d")
    assert page.evaluate("readValue(root)") == ["Billing", "Delivery"]


def test_answers_are_ordered_with_buttons_and_arrow_keys(open_page: Callable[..., Any]) -> None:
    question = make("ranking")
    page = open_page(question, item_for(question))
    page.get_by_role("button", name="Move answer C up").click()
    assert page.evaluate("readValue(root)") == ["A", "C", "B"]
    page.keyboard.press("ArrowUp")
    assert page.evaluate("readValue(root)") == ["C", "A", "B"]
    page.get_by_role("button", name="Move answer C down").focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("readValue(root)") == ["A", "C", "B"]
    assert page.evaluate("changes") == 3
