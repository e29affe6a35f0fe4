"""The report of real evaluations by tiny models: what the evaluation writes is what the report reads."""

from __future__ import annotations

from luthier.core.artifact import Artifact
from luthier.core.store import Store
from luthier.eval.report.collect import collect_report_facts
from luthier.eval.report.html import render_report_page
from luthier.eval.report.markdown import render_report_markdown
from luthier.eval.steps.evaluate import Evaluate
from luthier.eval.steps.gate import Gate
from tests.eval.evaluations import made
from tests.eval.report.test_html import Page


def test_labels(store: Store, labels: Artifact, tuned: Artifact) -> None:
    evaluated = made(store, Evaluate(data="data", model="tune"), {"data": labels, "model": tuned})
    gate = made(store, Gate(evaluation="report", rules=("accuracy > base",)), {"evaluation": evaluated})
    steps = {"data": labels, "tune": tuned, "report": evaluated, "gate": gate}
    facts = collect_report_facts("tickets", "name: tickets\n", steps, recipe_file="some where/r.yaml")
    (told,) = facts.evaluations
    assert facts.verdict_sentence == evaluated.read_json("summary.json")["verdict_sentence"]
    assert len(told.everything) == told.rows == 30
    assert all("|rows:" in score.signature for model in told.models for score in model.metrics.values())
    assert facts.gates[0].verdict == gate.read_json("gate.json")["verdict"]
    assert "luthier run r.yaml" in facts.provenance.commands
    html = render_report_page(facts)
    Page(html)
    assert render_report_markdown(facts).startswith("# tickets")
    for heading in ("Difference on the same rows", "Label by label", "Confusion matrix", "Calibration"):
        assert heading in html


def test_texts(store: Store, texts: Artifact, tuned: Artifact) -> None:
    step = Evaluate(data="data", model="tune", max_new_tokens=4)
    evaluated = made(store, step, {"data": texts, "model": tuned})
    facts = collect_report_facts("replies", "", {"data": texts, "tune": tuned, "report": evaluated})
    html = render_report_page(facts)
    Page(html)
    assert "Sample answers" in html
    assert "ROUGE-L" in html
    assert "Confusion matrix" not in html
