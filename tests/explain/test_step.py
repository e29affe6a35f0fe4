"""The step `explain`: methods over rows in pairs, the report and gates that read them, and the command."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from explain.planted import ask, planted, swap_answers, teach
from luthier.artifacts.explanation import MEASURES, ExplanationSummary, read_explanations
from luthier.chat.messages import Message
from luthier.cli.app import run_command
from luthier.core.artifact import Artifact
from luthier.core.errors import RecipeError
from luthier.core.expressions import ExpressionError
from luthier.eval.gate import evaluate_explanation_rule
from luthier.eval.gate_vocabulary import parse_rule
from luthier.eval.report.technical_record import TO_WRITE
from luthier.explain.compare import summarize_methods
from luthier.explain.heat_map import render_heat_map
from luthier.models.export.model_card import ModelScores, render_history_sections
from luthier.recipe.locate import CommandTarget, find_artifact
from luthier.recipe.workspace import Workspace
from luthier.traces.feedback import append_redacted_records
from luthier.traces.record import Trace
from tiny_models import write_csv

RECIPE = """luthier: 1
name: why
model: {model}
steps:
  data:
    kind: prepare
    source: {{kind: csv, path: rows.csv, prompt: text, answer: label}}
    split: {{test: 0.3}}
  why:
    kind: explain
    data: data
    limit: 8
    orders: 9
    methods: [leave_one_out, gradient_x_input]
  gate:
    kind: gate
    explanation: why
    rules:
      - explain.gain_over_random > 0
      - explain.random.gain_over_random > 0.5
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which the recipe was run."""
    folder = tmp_path_factory.mktemp("why")
    model = teach(folder / "taught")
    draw = random.Random(3)
    write_csv(folder / "rows.csv", [dict(zip(("text", "label"), planted(draw)[:2], strict=True)) for _ in range(40)])
    (folder / "recipe.yaml").write_text(RECIPE.format(model=model))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LUTHIER_CACHE", str(folder / "cache"))
        assert run_command(["run", "recipe.yaml"]) == 1  # the second rule fails
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LUTHIER_CACHE", str(folder / "cache"))


@pytest.fixture
def artifact(folder: Path) -> Artifact:
    return find_artifact(CommandTarget(Workspace.open_current(), "recipe.yaml:why")).artifact


def test_the_best_method_is_named_and_random_is_the_floor(artifact: Artifact) -> None:
    summary = ExplanationSummary.read(artifact)
    assert summary.rows == 8
    assert summary.best == "leave_one_out"
    assert summary.sentence.startswith("Explain this model by leave_one_out")
    assert {one.method for one in summary.methods} == {"leave_one_out", "gradient_x_input", "random"}
    assert len(summary.comparisons) == 3
    for pair in summary.comparisons:
        assert pair.p <= pair.p_holm <= 1
        assert pair.low <= pair.difference <= pair.high
    records = list(read_explanations(artifact))
    assert len(records) == 24
    assert {record.unit for record in records} == {"words"}
    assert all(record.row for record in records)
    again = summarize_methods(
        {kind: [one for one in records if one.method == kind] for kind in ("leave_one_out", "random")}, {}, 0
    )
    assert again.best == "leave_one_out"
    assert summary.measure("random.sufficiency") == next(
        one.sufficiency for one in summary.methods if one.method == "random"
    )
    assert summary.measure("nonsense") is None


def test_a_gate_rules_on_it(artifact: Artifact, folder: Path) -> None:
    rule = parse_rule("explain.comprehensiveness > 0.05", explanation=True)
    assert evaluate_explanation_rule("x", rule, artifact).verdict == "PASS"
    with pytest.raises(RecipeError, match="was not measured"):
        evaluate_explanation_rule("x", parse_rule("explain.shapley.sufficiency < 1", explanation=True), artifact)
    with pytest.raises(ExpressionError, match="nothing was explained"):
        parse_rule("explain.sufficiency < 1")
    for measure in MEASURES:
        assert parse_rule(f"explain.{measure} > 0", explanation=True).name == f"explain.{measure}"
    text = (folder / "recipe.yaml").read_text()
    (folder / "other.yaml").write_text(text.replace("explain.random.gain", "explain.shapley.gain"))
    assert run_command(["plan", "other.yaml"]) == 2


def test_the_report_shows_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (folder / ".luthier" / "reports" / "why.html").read_text()
    assert "Why it answers so" in page
    assert "Explain this model by leave_one_out" in page
    assert 'class="unit for heat' in page
    assert run_command(["report", "recipe.yaml", "--format", "markdown", "--json"]) in (0, 2)
    capsys.readouterr()
    assert run_command(["show", "recipe.yaml:why"]) == 0
    assert "comprehensiveness" in capsys.readouterr().out


def explained(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert run_command(["explain", "taught", *words, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out or "{}")
    return found


def test_the_command_explains_a_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "the order was late and the parcel today"
    (record,) = explained(capsys, "--text", text, "--units", "words", "--orders", "3")["explanations"]
    assert (record["method"], record["unit"]) == ("attnlrp", "words")
    assert max(record["units"], key=lambda unit: unit["score"])["text"].strip() == "parcel"
    assert record["faithfulness"]["orders"] == 3
    capsys.readouterr()
    words = ["--text", text, "-m", "leave_one_out", "-m", "random", "--units", "words", "--orders", "0"]
    assert run_command(["explain", "taught", *words, "--answer", "delivery", "--to", "heat.html"]) == 0
    told = capsys.readouterr().out
    assert "[+parcel]" in told
    assert "wrote heat.html" in told
    page = (folder / "heat.html").read_text()
    assert page.count("<section>") == 2
    assert 'tabindex="0"' in page
    assert "<script" not in page


def test_the_command_compares_models_and_refuses_nonsense(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teach(folder / "untaught", steps=1)
    words = ["--text", "the parcel was late again", "--orders", "0", "--units", "words"]
    found = explained(capsys, *words, "--against", "untaught", "--instead", "billing")
    (own,), (other,) = found["explanations"], found["against"]
    assert own["target"] == other["target"]
    assert own["value"] > other["value"]
    assert own["target"]["kind"] == "contrast"
    capsys.readouterr()
    assert run_command(["explain", "taught", *words, "--against", "untaught"]) == 0
    assert "its scores stand second" in capsys.readouterr().out
    for wrong in (
        [],
        ["--text", "a", "--row", "b"],
        ["--text", "the parcel was", "--to", "heat.pdf"],
        ["--text", "the parcel was", "-m", "nonsense"],
        ["--row", "0123"],
        ["--text", "parcel", "--units", "turns"],
        ["--show", "changes", "--to", "heat.html"],
        ["--show", "label-sets", "--text", "the parcel was", "--method", "shapley"],
        ["--text", "the parcel was", "-m", "shapley:orders=-3"],
    ):
        assert run_command(["explain", "taught", *wrong]) == 2
    told = capsys.readouterr().err
    assert told.count("→") == 9
    assert "error: --to: means nothing with `--show changes`" in told
    assert "error: --method: means nothing with `--show label-sets`" in told
    assert "error: explainer: shapley:orders=-3" in told


def test_why_one_model_answers_so_and_another_does_not(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swap_answers(teach(folder / "other"))
    words = ["--text", "the parcel was late again", "--orders", "0", "--units", "words", "--against", "other"]
    found = explained(capsys, *words)
    (own,), (rival,) = found["explanations"], found["against"]
    assert found["answers"][0] != found["answers"][1]
    assert own["target"] == rival["target"]
    assert (own["target"]["text"], own["target"]["against"]) == tuple(found["answers"])
    assert own["value"] > 0 > rival["value"]
    capsys.readouterr()
    assert run_command(["explain", "taught", *words]) == 0
    assert "; other answers" in capsys.readouterr().out


def test_a_kept_request_is_explained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talk = ask("the order was late and the parcel today")
    trace = Trace(
        id="chatcmpl-1", timestamp=datetime(2026, 11, 20, tzinfo=UTC), model="taught", messages=talk,
        answer=Message(role="assistant", content="delivery"),
    )  # fmt: skip
    append_redacted_records(folder / "traffic", [trace, trace.model_copy(update={"id": "chatcmpl-2", "answer": None})])
    place = ["--in", "traffic", "--orders", "0", "--units", "words"]
    (record,) = explained(capsys, "--trace", "chatcmpl-1", *place)["explanations"]
    assert record["target"]["text"] == "delivery"
    assert max(record["units"], key=lambda unit: unit["score"])["text"].strip() == "parcel"
    explained(capsys, "--trace", "chatcmpl-2", *place, code=2)
    explained(capsys, "--trace", "chatcmpl-3", *place, code=2)


def test_the_strongest_sentences_are_cut_into_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "The order was late. We need help today. Where is the parcel now? Please and thanks."
    words = ["--text", text, "--units", "sentences", "--refine", "words", "--orders", "3", "--answer", "delivery"]
    for method in ("leave_one_out", "attnlrp"):
        (record,) = explained(capsys, *words, "-m", method, "--instead", "billing")["explanations"]
        refined = [unit for unit in record["units"] if unit["parts"]]
        assert 1 <= len(refined) <= 3
        best = max(record["units"], key=lambda unit: unit["score"])
        assert "parcel" in best["text"]
        assert "".join(part["text"] for part in best["parts"]) == best["text"]
        assert max(best["parts"], key=lambda part: part["score"])["text"].strip() == "parcel"
        assert record["part_faithfulness"] is not None
    assert run_command(["explain", "taught", *words, "--to", "heat.html"]) == 0
    page = (folder / "heat.html").read_text()
    assert 'class="part for"' in page
    for rule in ("border-bottom-style:dashed", "@media print", ":focus{outline"):
        assert rule in page
    explained(capsys, "--text", text, "--units", "words", "--refine", "words", code=2)


def test_a_row_s_lineage_and_the_model_card_tell_of_explanations(
    artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    record = next(read_explanations(artifact))
    capsys.readouterr()
    assert run_command(["lineage", record.row, "--recipe", "recipe.yaml", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["explanations"]
    assert told["step"] == "why"
    assert told["method"] == "leave_one_out"
    assert run_command(["lineage", record.row, "--recipe", "recipe.yaml"]) == 0
    assert "by leave_one_out, for '" in capsys.readouterr().out
    summary = ExplanationSummary.read(artifact)
    card = "".join(render_history_sections(artifact.parent("model"), ModelScores({}, explanation=summary)))
    assert "## Explanations" in card
    assert summary.sentence in card


def test_the_technical_record_says_what_a_person_must_write(folder: Path) -> None:
    assert run_command(["export", "recipe.yaml", "--format", "record", "--to", "record"]) == 0
    text = (folder / "record" / "record.md").read_text()
    for number in ("1.a", "1.h", "2.d", "2.g", "3.b", "5", "9"):
        assert f"\n### {number} " in text
    assert "rows.csv" in text
    assert "Explain this model by leave" in text.replace("\\", "")
    assert "FAIL" in text
    assert text.count(TO_WRITE) > 15
    assert "no statement of conformity" in text


def test_what_users_wrote_is_text_in_a_heat_map(artifact: Artifact) -> None:
    record = next(read_explanations(artifact))
    unit = record.units[0].model_copy(update={"text": '<script>alert("x")</script>'})
    page = render_heat_map([record.model_copy(update={"units": (unit, *record.units[1:])})], "<b>")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<h1>&lt;b&gt;</h1>" in page
