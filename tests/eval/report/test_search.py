"""A search in the report: the verdict first, pictures of rungs, front, importance and cost; the same in Markdown."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from luthier.artifacts.search import (
    SEARCH,
    TRIALS,
    AimRecord,
    FinalistRecord,
    SearchComparison,
    SearchRecord,
    SearchVerdict,
    SelectionLuck,
    SettingImportance,
    TrialRow,
    write_trials,
)
from luthier.core.store import Store
from luthier.eval.report import search_charts
from luthier.eval.report.collect import collect_report_facts
from luthier.eval.report.facts.search import SearchFacts
from luthier.eval.report.html import render_report_page, report_facts_to_json
from luthier.eval.report.markdown import render_report_markdown
from tests.eval.report import example
from tests.eval.report.test_collect import put
from tests.eval.report.test_html import Page

SENTENCE = "Trial 3 is better than tune: +0.041 (+0.012 to +0.070) in Macro F1 on 400 test rows (p = 0.004)."


def trials() -> tuple[TrialRow, ...]:
    found = []
    for trial in range(9):
        settings = {} if trial == 0 else {"technique": ("lora", "ia3")[trial % 2], "learning_rate": 1e-3 / trial}
        value = 0.6 + trial / 50
        first = TrialRow(trial=trial, rung=0, share=0.25, settings=settings, work=0.25, failed=example.HOSTILE)
        if trial < 8:
            known = {"value": value, "low": value - 0.05, "high": value + 0.05, "failed": ""}
            first = first.model_copy(update=known)
        found.append(first)
        if trial in (0, 3, 7):
            more = {"rung": 1, "share": 1.0, "value": value + 0.1, "low": None, "high": None}
            found.append(first.model_copy(update=more))
    return tuple(sorted(found, key=lambda row: (row.rung, row.trial)))


def finalist(trial: int, value: float, latency: float) -> FinalistRecord:
    return FinalistRecord(
        trial=trial,
        settings={"technique": "lora", "data.ops.quality": True, "learning_rate": 0.00025, "note": example.HOSTILE},
        seeds=(1, 2),
        values=(value, value),
        value=value,
        low=value - 0.03,
        high=value + 0.03,
        parameters=134_500_000,
        aims={"macro_f1": value, "latency": latency, "memory": 3e9},
        overrides=("steps.tune.learning_rate=0.00025",),
    )


def record(**changes: object) -> SearchRecord:
    whole = {
        "of": "tune",
        "metric": "macro_f1",
        "better": "higher",
        "space": {"lora": {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}, "ia3": {}},
        "budget": 8,
        "spent": 3.0,
        "spent_finalists": 6.0,
        "trials": 9,
        "failed": 1,
        "validation_rows": 100,
        "test_rows": 400,
        "seeds": 2,
        "aims": (
            AimRecord(name="macro_f1", better="higher"),
            AimRecord(name="latency", better="lower", unit="s"),
            AimRecord(name="memory", better="lower", unit="bytes"),
        ),
        "finalists": (finalist(3, 0.84, 0.4), finalist(7, 0.83, 0.5), finalist(0, 0.8, 0.2)),
        "verdict": SearchVerdict(
            winner=3,
            best=3,
            better=True,
            sentence=SENTENCE,
            comparisons=tuple(
                SearchComparison(
                    trial=trial,
                    against="of",
                    difference=0.04,
                    low=0.01,
                    high=0.07,
                    p=0.002,
                    p_holm=0.004,
                    test="paired permutation",
                    rows=400,
                    detectable=0.04,
                )
                for trial in (3, 7)
            ),
        ),
        "importance": (
            SettingImportance(branch="", setting="technique", share=1.0, trials=8),
            SettingImportance(branch="lora", setting="learning_rate", share=0.8, trials=8),
            SettingImportance(branch="lora", setting="data.ops.quality", share=0.2, trials=8),
        ),
        "front": (3, 0),
        "luck": SelectionLuck(
            trials=9,
            rows=100,
            expected=0.03,
            observed=0.05,
            believed=False,
            sentence="Five of nine: not to be believed.",
        ),
    }
    return SearchRecord.model_validate({**whole, **changes})


def facts(**changes: object) -> SearchFacts:
    return SearchFacts(name="best", record=record(**changes), trials=trials())


def test_rungs_say_who_was_promoted_and_what_it_took() -> None:
    first, last = facts().rungs
    assert (first.trials, first.failed, first.promoted, first.share, first.best) == (9, 1, 3, 0.25, 0.74)
    assert (last.trials, last.failed, last.promoted, last.share) == (3, 0, 0, 1.0)
    assert first.work == pytest.approx(2.25)
    assert facts(better="lower").rungs[0].best == 0.6


def test_the_page_says_the_verdict_first_and_shows_the_pictures() -> None:
    page = render_report_page(example.facts(searches=(facts(),)))
    Page(page)
    section = page[page.index('<section id="search"') : page.index("</section>", page.index('<section id="search"'))]
    assert section.index("Trial 3 is better than tune") < section.index("<dl")
    assert "not to be believed" in section
    for title in ("Finalists against tune", "How far each trial came", "What was spent", "Several aims"):
        assert title in section
    assert section.count("<svg") == 2 * 6
    assert '<a href="#search">' in page
    assert "<script>alert" not in section
    assert "2.8 GiB" in section
    assert "2.25 trainings" in section


def test_a_search_of_little_is_shown_too() -> None:
    bare = {"aims": (), "finalists": (), "importance": (), "front": (), "luck": None, "spent_finalists": 0}
    stayed = SearchVerdict(winner=0, best=0, better=False, sentence="tune stays as it is: no other trial came so far.")
    alone = SearchFacts(name="best", record=record(**bare, verdict=stayed), trials=())
    page = render_report_page(example.facts(searches=(alone, facts(**bare))))
    Page(page)
    assert "tune stays as it is" in page
    assert "Several aims" not in page
    assert "tune stays as it is" in render_report_markdown(example.facts(searches=(alone,)))


def test_a_report_of_a_search_alone_opens_with_its_verdict() -> None:
    assert example.facts(evaluations=(), validations=(), searches=(facts(),)).verdict_sentence == SENTENCE


def test_markdown_says_the_same() -> None:
    text = render_report_markdown(example.facts(searches=(facts(),)))
    section = text[text.index("## Search: best") : text.index("## Tuning")]
    assert section.index("Trial 3 is better") < section.index("### Rungs") < section.index("### Finalists")
    assert "| 0, 25 % of the training | 9 | 1 | 3 | 0.740 | 2.25 trainings |" in section
    assert "| 3, taken | technique lora, data.ops.quality true, learning\\_rate 0.00025" in section
    assert "| lora | learning\\_rate | 80 % | 8 |" in section
    assert "<script>" not in section


def test_every_drawing_is_valid_and_inside_its_frame() -> None:
    shown = facts()
    drawn = [
        search_charts.rung_picture(shown),
        search_charts.difference_picture(shown),
        search_charts.importance_picture(shown),
        search_charts.spent_picture(shown),
        *search_charts.front_pictures(shown),
    ]
    for draw in drawn:
        for width in (800, 372):
            root = ElementTree.fromstring(draw(width, "x"))
            height = float(root.attrib["height"])
            for shape in root.iter():
                for name, most in (("cx", width), ("x1", width), ("x2", width), ("cy", height), ("y", height)):
                    if name in shape.attrib:
                        assert 0 <= float(shape.attrib[name]) <= most


def test_the_facts_are_read_from_the_artifact(tmp_path: Path) -> None:
    import polars as pl

    write_trials(tmp_path, trials())
    files = {SEARCH: record().model_dump(mode="json"), TRIALS: pl.read_parquet(tmp_path / TRIALS)}
    model = put(Store(tmp_path / "store"), "5ea4c4", "search", "model", files)
    found = collect_report_facts("choose", "", {"best": model})
    assert found.searches == (facts(),)
    assert found.verdict_sentence == SENTENCE
    assert re.search(r'"searches": \[', report_facts_to_json(found))
