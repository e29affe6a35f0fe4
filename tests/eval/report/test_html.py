"""The page: valid, closed to the network, free of anybody's markup, small, accessible."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from luthier.eval.report.facts.report import ReportFacts
from luthier.eval.report.facts.tuning import SequenceFact, TokenSpanFact
from luthier.eval.report.html import render_report_page, report_facts_to_json
from luthier.eval.report.views import LONG_READ, LONG_TRAINED, shorten_token_spans
from tests.eval.report import example

VOID = {"meta", "link", "br", "img", "input", "hr"}
CLOSED = {"line", "rect", "circle", "path"}
"""SVG shapes that the page writes as `<x …/>`."""


class Page(HTMLParser):
    """A strict reader: every tag closed in order, every attribute once."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute: {names}"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in CLOSED, f"<{tag}/> is not a void element"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of each element of this name."""
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def html() -> str:
    return render_report_page(example.facts())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_same_facts_same_page(html: str) -> None:
    assert render_report_page(example.facts()) == html


def test_begins_with_the_answer(html: str) -> None:
    facts = example.facts()
    html = html.replace("\u00a0", " ")
    assert html.lstrip().lower().startswith("<!doctype html>")
    assert html.index(facts.verdict_sentence.replace("<", "&lt;")) < html.index("<nav")


def test_ids_are_unique_and_references_lead_somewhere(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert [name for name, times in Counter(ids).items() if times > 1] == []
    known = set(ids)
    for tag, attributes in page.tags:
        for name in ("aria-labelledby", "for", "data-rows"):
            assert set(attributes.get(name, "").split()) <= known, (tag, attributes)
        if tag == "a":
            assert attributes["href"].startswith("#")
            assert attributes["href"][1:] in known


def test_fetches_nothing(html: str, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form", "audio", "video"), tag
        assert not {"src", "srcset", "style", "xlink:href", "action"} & set(attributes), (tag, attributes)
        assert [name for name in attributes if name.startswith("on")] == []
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert "fetch(" not in html


def test_policy_names_exactly_the_style_and_the_script(html: str) -> None:
    import hashlib

    def digest(text: str) -> str:
        return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    policy = html[html.index('content="') + 9 :].partition('"')[0].replace("&#39;", "'")
    style = re.search(r"<style>(.*?)</style>", html, re.S)
    script = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert style is not None
    assert len(script) == 1
    assert "default-src 'none'" in policy
    assert f"'{digest(style[1])}'" in policy
    assert f"'{digest(script[0])}'" in policy
    assert "unsafe" not in policy


HOSTILE_FACTS = [
    ("title", example.HOSTILE),
    ("created", example.HOSTILE),
]


@pytest.mark.parametrize(("field", "value"), HOSTILE_FACTS)
def test_hostile_words_in_the_head_stay_words(field: str, value: str) -> None:
    page = Page(render_report_page(example.facts(**{field: value})))
    assert len(page.all("script")) == len(Page(render_report_page(example.facts())).all("script"))
    assert any('alert("owned")' in text for text in page.texts)


def _poisoned(value: object) -> object:
    """The facts with every free text replaced by hostile text; words with a meaning are kept."""
    kept = {"PASS", "FAIL", "INCONCLUSIVE", "label", "text", "tuned", "base", "plain", "other", "tfidf", "majority"}
    if isinstance(value, dict):
        return {key: _poisoned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_poisoned(item) for item in value]
    metrics = {"accuracy", "macro_f1", "mcc", "ece", "info", "warning", "serious"}
    if isinstance(value, str) and value not in kept | metrics:
        return example.HOSTILE
    return value


def test_hostile_text_everywhere_stays_text(html: str, page: Page) -> None:
    facts = ReportFacts.model_validate(_poisoned(example.facts().model_dump(mode="json")))
    poisoned = Page(render_report_page(facts))
    assert {tag for tag, _ in poisoned.tags} <= {tag for tag, _ in page.tags}
    assert len(poisoned.all("script")) == len(page.all("script"))
    assert all("onerror" not in attributes for _, attributes in poisoned.tags)
    assert "49" not in render_report_page(example.facts(title="{{ 7*7 }}")).split("<title>")[1].split("</title>")[0]


def test_every_picture_has_a_name_and_a_description(page: Page, html: str) -> None:
    pictures = page.all("svg")
    assert len(pictures) > 10
    for attributes in pictures:
        assert attributes["role"] == "img"
        assert len(attributes["aria-labelledby"].split()) == 2
    for name in re.findall(r'<title id="([^"]+)">([^<]*)</title>', html):
        assert name[1].strip()
    descriptions = re.findall(r"<desc [^>]*>([^<]*)</desc>", html)
    assert len(descriptions) == len(pictures)
    assert all(words.strip() for words in descriptions)


def test_there_are_tables_behind_the_pictures(page: Page) -> None:
    assert len(page.all("table")) >= 10
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))


def test_probes_are_drawn_row_against_row() -> None:
    page = render_report_page(example.facts())
    _, _, after = page.partition("Beyond the task: probes")
    assert "Row against row" in after
    assert after.count("Differences on the same rows") == 2 * 2  # two directions, each for wide and narrow screens
    bare = render_report_page(example.facts(evaluations=(example.evaluation().model_copy(update={"probed": ()}),)))
    assert "Row against row" not in bare.partition("Beyond the task: probes")[2]


def test_headings_go_down_one_step_at_a_time(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))


def test_every_control_has_a_name(page: Page) -> None:
    labelled = {attributes["for"] for attributes in page.all("label")}
    for tag in ("input", "select"):
        assert all(attributes["id"] in labelled for attributes in page.all(tag))
    for _, attributes in page.tags:
        if attributes.get("tabindex") == "0":
            assert attributes["aria-label"]


def test_sections_appear_only_with_their_facts() -> None:
    bare = Page(render_report_page(ReportFacts(title="nothing", created="today")))
    ids = {attributes["id"] for _, attributes in bare.tags if "id" in attributes}
    assert not {"gate", "findings", "data", "tuning", "cost", "evaluation1"} & ids
    text = example.evaluation(task="text", confusions=(), classes=(), reliability=(), fixed=(), broken=(), slices=())
    html = render_report_page(example.facts(evaluations=(text,)))
    for absent in ("Confusion matrix", "Label by label", "<h3>Calibration</h3>", "row by row", "For whom?"):
        assert absent not in html
    assert "Sample answers" in html


def test_several_evaluations_stand_beside_each_other() -> None:
    other = example.evaluation(name="other <b>run</b>", models=example.models(tuned=0.5))
    page = Page(render_report_page(example.facts(evaluations=(example.evaluation(), other))))
    assert {"evaluation1", "evaluation2"} <= {attributes.get("id") for _, attributes in page.tags}
    assert any("other <b>run</b>" in text for text in page.texts)


def test_an_interval_stands_with_the_numbers(html: str) -> None:
    assert "0.906 (0.877–0.929)" in html
    assert "+0.414 (+0.369 to +0.459)" in html


def test_ten_thousand_long_rows_stay_under_two_megabytes() -> None:
    rows = tuple(
        row.model_copy(update={"text": f"{row.text} {row.id} " * 30}) for row in example.rows(10_000, hostile=False)
    )
    labels = tuple(f"label number {at} with a rather long name" for at in range(150))
    facts = example.evaluation(
        rows=10_000,
        everything=rows,
        fixed=rows[:2000],
        broken=rows[2000:4000],
        samples=rows[:500],
        confusions=(example.confusion(labels), example.confusion(labels).model_copy(update={"model": "base"})),
    )
    html = render_report_page(example.facts(evaluations=(facts,)))
    Page(html)
    assert len(html.encode()) < 2_000_000


def test_rows_inside_the_page_can_be_unpacked(html: str) -> None:
    packed = re.search(r'<script type="text/plain" id="evaluation1-rows">([^<]*)</script>', html)
    assert packed is not None
    told = json.loads(gzip.decompress(base64.b64decode(packed[1])))
    assert len(told["rows"]) == 500
    assert told["rows"][0][1] == example.HOSTILE
    assert told["models"][told["tuned"]] == "Tuned model"


def test_json_says_the_same() -> None:
    told = json.loads(report_facts_to_json(example.facts()))
    assert told["verdict_sentence"] == example.facts().verdict_sentence
    del told["verdict_sentence"]
    assert ReportFacts.model_validate(told) == example.facts()


def test_findings_say_whether_the_data_are_fit(html: str, page: Page) -> None:
    head, _, rest = html.partition("<main")
    assert "The data are not fit to train on yet" in head
    for said in ("✗ serious", "! warning", "What to do.", "exclude_ids", "3.1 %", "2.4 % to 4.0 %", "answer_quality"):
        assert said in rest
    alone = render_report_page(example.facts(evaluations=()))
    assert alone.partition('class="lead">')[2].startswith("The data are not fit to train on yet")


def test_rows_that_were_left_out_are_listed_with_their_place(page: Page) -> None:
    said = " ".join(" ".join(page.texts).split())
    _, _, listed = said.partition("Rows that were left out")
    assert "311 × near-duplicate of a kept row" in listed
    assert "tickets.csv:31 (row 20)" in listed
    assert "tickets.csv:12 (row 9)" in listed
    assert "luthier show RECIPE:data --dropped" in listed


def test_rows_stand_as_the_model_sees_them(html: str) -> None:
    assert "Rows as the model sees them" in html
    assert (
        "&lt;|im_start|&gt;user\nWhere is it?&lt;|im_end|&gt;\n<mark>⟦delivery&lt;|im_end|&gt;⟧</mark>\n</div>" in html
    )
    assert "21 tokens, 3 trained on, 7 cut off" in html
    assert "Left out: longer than 9 tokens." in html
    assert re.search(r"\.rendered mark\{[^}]*text-decoration:underline", html), "told apart without colour"


def test_long_stretches_lose_their_middle() -> None:
    read, trained = (TokenSpanFact(text=f"a{'x' * 7000}z", trained=trained) for trained in (False, True))
    found = shorten_token_spans(SequenceFact(tokens=9, trained_tokens=4, stretches=(read, trained)))
    assert [len(one.text) for one in found] == [LONG_READ + 22, LONG_TRAINED + 22]
    assert found[0].text[0] + found[0].text[-1] == "az"
    assert "[…5,402 characters…]" in found[0].text
