"""The report as Markdown."""

from __future__ import annotations

from luthier.eval.report.facts.report import ReportFacts
from luthier.eval.report.markdown import render_report_markdown
from tests.eval.report import example


def test_says_the_answer_and_the_numbers() -> None:
    text = render_report_markdown(example.facts())
    assert text.startswith("# support-intents\n\n**The tuned model is better")
    assert "| Accuracy | 0.906 (0.877–0.929) | 0.492 (0.448–0.536) |" in text
    assert "## gate: INCONCLUSIVE" in text
    assert "near-duplicate of a kept row | 311" in text
    assert "luthier run recipe.yaml" in text


def test_tables_are_whole() -> None:
    for block in render_report_markdown(example.facts()).split("\n\n"):
        if block.startswith("|"):
            assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


def test_hostile_text_is_plain_text() -> None:
    facts = example.facts(title=example.HOSTILE + " | a | [x](javascript:alert(1))", created="a\n\n# b")
    text = render_report_markdown(facts)
    assert "\n# b" not in text
    assert "\\<script\\>" in text
    assert "\\[x\\]" in text


def test_nothing_but_a_title() -> None:
    assert render_report_markdown(ReportFacts(title="empty", created="")).startswith(
        "# empty\n\n**Nothing has been evaluated yet.**"
    )


def test_findings_stand_with_their_remedies() -> None:
    text = render_report_markdown(example.facts())
    assert "## Fit to train on? checked" in text
    assert "### Likely label errors (serious)" in text
    assert "```yaml\nops: [{kind: exclude_ids" in text


def test_probes_stand_row_against_row() -> None:
    """A gap that shrank is better, though its difference is below zero; baselines are not told of."""
    _, _, table = render_report_markdown(example.facts()).partition("Tasks and probes, paired by row:")
    line = next(line for line in table.splitlines() if "bias.gap" in line)
    assert "| better |" in line
    assert "−0.062" in line or "-0.062" in line
    assert "TF-IDF" not in "".join(line for line in table.splitlines() if "bias.gap" in line)


def test_rows_stand_as_the_model_sees_them() -> None:
    said = render_report_markdown(example.facts())
    assert "### Rows as the model sees them" in said
    assert "    Where is it?<|im_end|>\n    ⟦delivery<|im_end|>⟧\n" in said
    assert "left out, longer than 9 tokens" in said
