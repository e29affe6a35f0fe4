"""Evaluations side by side: compared on the same rows, corrected together, and left alone with the reason."""

from __future__ import annotations

import pytest

from eval.evaluations import evaluation
from luthier.core.store import Store
from luthier.eval.report.collect import collect_report_facts
from luthier.eval.report.collect_findings import build_run_facts
from luthier.eval.report.html import render_report_page
from luthier.eval.report.markdown import render_report_markdown
from luthier.metrics.paired import adjust_holm


def test_each_is_compared_with_the_first_and_corrected_together(store: Store) -> None:
    told = {
        "one": evaluation(store, {"tuned": 0.9, "base": 0.5}),
        "two": evaluation(store, {"tuned": 0.6, "base": 0.5}),
        "three": evaluation(store, {"tuned": 0.89, "base": 0.5}),
    }
    first, second, third = build_run_facts(told)
    assert (first.name, first.compared, first.why) == ("one", (), "")
    assert first.scores["accuracy"].value == pytest.approx(0.9, abs=0.03)
    (worse,) = (one for one in second.compared if one.metric == "accuracy")
    assert worse.difference == pytest.approx(second.scores["accuracy"].value - first.scores["accuracy"].value)
    assert worse.high is not None
    assert worse.high < 0
    every = [one for run in (first, second, third) for one in run.compared]
    assert [one.p_holm for one in every] == adjust_holm([one.p or 1.0 for one in every])
    assert len(every) == 2 * len(first.scores)


def test_other_rows_are_not_compared_and_the_page_says_why(store: Store) -> None:
    told = {"one": evaluation(store, {"tuned": 0.9}), "two": evaluation(store, {"tuned": 0.9}, rows=60)}
    _, other = build_run_facts(told)
    assert other.compared == ()
    assert "not about the same rows" in other.why
    facts = collect_report_facts("r", "", {"one": told["one"]}, compare_with={"<b>two</b>": told["two"]})
    assert len(facts.evaluations) == 1
    assert [run.name for run in facts.runs] == ["one", "<b>two</b>"]
    page, text = render_report_page(facts), render_report_markdown(facts)
    assert 'id="runs"' in page
    assert "<b>two</b>" not in page
    assert "Not compared:" in page
    assert "## Side by side" in text
    assert "is not compared: the two evaluations" in text


def test_one_alone_has_nobody_beside_it(store: Store) -> None:
    facts = collect_report_facts("r", "", {"one": evaluation(store, {"tuned": 0.9})})
    assert facts.runs == ()
    assert "Side by side" not in render_report_page(facts) + render_report_markdown(facts)
