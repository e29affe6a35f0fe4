"""From artifacts to facts: every kind of artifact is read by the files that the contract lays down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from luthier.core.artifact import Artifact, Manifest
from luthier.core.store import Store
from luthier.eval.report.collect import collect_report_facts, replace_nonfinite
from luthier.eval.report.facts.data import LeftOutRow
from luthier.eval.report.facts.report import ReportFacts
from luthier.eval.report.html import render_report_page
from tests.eval.report import example

ROWS = example.rows(12)


def put(
    store: Store,
    digest: str,
    kind: str,
    makes: str,
    files: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    timing: Mapping[str, Any] | None = None,
) -> Artifact:
    """A finished artifact with these files: JSON for mappings and lists, text as it is, tables as Parquet."""
    import polars as pl

    folder, _ = store.begin(digest)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pl.DataFrame):
            content.write_parquet(path)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    manifest = Manifest(
        digest=digest,
        kind=kind,
        makes=makes,
        settings=dict(settings or {}),
        inputs=dict(inputs or {}),
        reads={"source.csv.0": "5eed"},
        code="c0de",
        seed=7,
        files=[],
    )
    return store.finish(manifest, dict(timing or {"seconds": 2.0, "peak_bytes": 1000, "measures": {}, "predicted": {}}))


def examples() -> Any:
    import polars as pl

    def said(row: Any) -> str:
        turns = [("system", "Sort it."), ("user", row.text), ("assistant", row.reference)]
        return json.dumps([{"role": role, "content": content} for role, content in turns])

    return pl.DataFrame(
        [
            {
                "id": row.id,
                "source": "csv",
                "file": "tickets.csv",
                "line": at + 2,
                "kind": "label",
                "messages": said(row),
                "label": row.reference,
                "tools": "[]",
                "meta": "{}",
                "group": None,
            }
            for at, row in enumerate(ROWS)
        ],
        schema_overrides={"group": pl.String},
    )


def dataset(store: Store) -> Artifact:
    import polars as pl

    edit = {"id": "x", "file": "tickets.csv", "line": 3, "operator": "normalize", "action": "edit", "reason": "spaces"}
    texts = [{"before": f"a  {at}", "after": f"a {at}"} for at in range(9)]
    drop = {
        **edit,
        "operator": "near_dedup",
        "action": "drop",
        "reason": "near-duplicate",
        "before": None,
        "after": None,
        "twin": "x",
        "similarity": 0.9,
        "row": 2,
        "text": "Where is it?",
    }
    summary = {
        "rows_in": 27,
        "rows": {"test": 12, "train": 12},
        "dropped": {"near-duplicate": 3},
        "edited": {"normalize": 9},
        "task": "label",
        "labels": sorted(example.LABELS),
        "sources": [{"source": "csv", "file": "tickets.csv", "rows": 27}],
    }
    files = {
        "summary.json": summary,
        "examples/train.parquet": examples(),
        "examples/test.parquet": examples(),
        "events.parquet": pl.DataFrame([*({**edit, **text} for text in texts), edit | texts[0], drop]),
    }
    return put(store, "da" * 16, "prepare", "dataset", files)


def tuned(store: Store) -> Artifact:
    import polars as pl

    card = {"name": "tiny", "licence": "Apache-2.0", "parameters": 1000}
    base = put(store, "ba" * 16, "base", "model", {"model.json": card})
    log = [{"step": at, "loss": 2.0 / at, "lr": 0.1, "tokens": 50, "grad_norm": 1.0} for at in range(1, 6)]
    log[4] |= {"held_out_loss": 0.5, "held_out_accuracy": 0.75}
    files = {
        "training.json": {
            "technique": "lora",
            "objective": {"kind": "sft"},
            "optimizer": {"kind": "muon", "momentum": 0.95},
            "steps": 5,
            "rows": 12,
            "rows_seen": 24,
            "learning_rate": 0.1,
            "learning_rate_why": "twice the usual",
            "learnt_tokens": 60,
            "trainable_parameters": 36,
        },
        "log.jsonl": "".join(json.dumps(line) + "\n" for line in log) + '{"step": 6, "loss": NaN}\n',
        "training_examples.parquet": pl.DataFrame({"id": ["a", "b"], "seen": [3, 0], "cut": [True, False]}),
        "rendered.json": {"rows": [example.facts().tunings[0].rendered[0].model_dump()]},
    }
    timing = {
        "seconds": 9.0,
        "peak_bytes": 5000,
        "measures": {"device": "cpu"},
        "predicted": {"seconds": 8.0, "peak_bytes": None, "tokens": 240},
    }
    settings = {"kind": "tune", "technique": {"kind": "lora", "r": 16}, "epochs": 1}
    inputs = {"model": base.digest, "data": "da" * 16}
    return put(store, "70" * 16, "tune", "model", files, inputs, settings, timing)


def evaluation(store: Store) -> Artifact:
    import polars as pl

    told = example.evaluation(rows=12).model_dump(mode="json", exclude={"everything"})
    predictions = [
        {"id": row.id, "model": name, "reference": row.reference, "prediction": said, "correct": row.correct[name]}
        for name in ("tuned", "base")
        for row in ROWS
        for said in [row.answers[name]]
    ]
    metrics = {
        "models": {
            "tuned": {"accuracy": {"value": 0.906, "low": 0.877, "high": 0.929, "signature": "a|rows:1", "note": "x"}}
        },
        "measures": {
            "tuned": {
                "bias.gap": {"value": 0.1, "low": 0.0, "high": 0.2, "rows": 9, "signature": "g", "detail": {"a": 1}}
            }
        },
    }
    files = {
        "summary.json": {**told, "split": "test", "subject": "tuned", "verdict_sentence": "…", "order": []},
        "metrics.json": metrics,
        "comparisons.json": [
            *({**one, "family": "main"} for one in told["comparisons"]),
            *({**one, "family": "probes"} for one in told["probed"]),
        ],
        "predictions.parquet": pl.DataFrame(predictions),
    }
    return put(store, "e7" * 16, "evaluate", "evaluation", files, {"data": "da" * 16, "model": "70" * 16})


def verdict(store: Store) -> Artifact:
    rule = {"rule": "accuracy > base", "verdict": "PASS", "value": 0.4, "low": 0.3, "high": 0.5, "against": 0.0}
    told = {"verdict": "PASS", "rules": [{**rule, "more_rows": None, "why": "because", "later": 1}]}
    return put(store, "9a" * 16, "gate", "verdict", {"gate.json": told}, {"evaluation": "e7" * 16})


@pytest.fixture
def facts(tmp_path: Path) -> ReportFacts:
    store = Store(tmp_path)
    made = {"data": dataset(store), "tune": tuned(store), "report": evaluation(store), "gate": verdict(store)}
    forecasts = {"data": {"seconds": 1.0, "peak_bytes": 10, "tokens": None, "how": "guessed"}}
    return collect_report_facts("tickets", "luthier: 1\n", made, forecasts, created="today", recipe_file="r.yaml")


def test_data(facts: ReportFacts) -> None:
    (data,) = facts.data
    assert data.rows_in == sum(data.splits.values()) + sum(data.dropped.values())
    assert list(data.splits) == ["train", "test"]
    assert sum(sum(each.rows.values()) for each in data.labels) == 24
    assert [edit.operator for edit in data.edits] == ["normalize"] * 4
    assert data.edits[0].location == "tickets.csv:3"
    (dropped,) = data.left_out
    assert dropped == LeftOutRow(
        reason="near-duplicate", location="tickets.csv:3 (row 2)", text="Where is it?", twin="tickets.csv:3 (row 2)"
    )
    assert (data.sources[0].files, data.sources[0].rows, data.sources[0].digest) == (("tickets.csv",), 27, "5eed")


def test_tuning(facts: ReportFacts) -> None:
    (tuning,) = facts.tunings
    assert (tuning.technique, tuning.objective, tuning.steps, tuning.cut_rows) == ("lora", "sft", 5, 1)
    assert (tuning.trainable_parameters, tuning.parameters, tuning.tokens) == (36, 1000, 250)
    assert tuning.rows == 24
    assert (tuning.trained_rows, tuning.training_rows) == (1, 12)
    assert tuning.left_out == {"training ended before its turn": 1, "not drawn: `max_train_samples` asks for fewer": 10}
    assert tuning.settings["technique.r"] == "16"
    assert tuning.settings["learning_rate_why"] == "twice the usual"
    assert [point.loss for point in tuning.log] == [2.0, 1.0, 2.0 / 3, 0.5, 0.4, None]
    assert tuning.optimizer == "muon"
    assert tuning.rendered == example.facts().tunings[0].rendered[:1]
    assert [point.grad_norm for point in tuning.log] == [1.0] * 5 + [None]
    assert (tuning.log[4].held_out_loss, tuning.log[4].held_out) == (0.5, {"accuracy": 0.75})


def test_evaluation(facts: ReportFacts) -> None:
    (told,) = facts.evaluations
    assert told.name == "report"
    best = told.model("tuned")
    assert best is not None
    assert best.metrics["accuracy"].signature == "a|rows:1"
    assert best.measures["bias.gap"].detail == {"a": 1.0}
    assert [(one.b, one.metric, one.lower) for one in told.probed] == [
        ("base", "bias.gap", True),
        ("base", "safety.refusal", False),
        ("tfidf", "bias.gap", True),
    ]
    assert [row.id for row in told.everything] == [row.id for row in ROWS]
    assert [row.text for row in told.everything] == [row.text for row in ROWS]
    assert told.everything[3].answers == {name: ROWS[3].answers[name] for name in ("tuned", "base")}


def test_gate_cost_and_provenance(facts: ReportFacts) -> None:
    assert facts.gates[0].rules[0].why == "because"
    costs = {cost.step: cost for cost in facts.costs}
    assert (costs["tune"].predicted_seconds, costs["tune"].seconds, costs["tune"].tokens) == (8.0, 9.0, 250)
    assert (costs["data"].predicted_seconds, costs["data"].how) == (1.0, "guessed")
    assert facts.provenance.licences == {"model tiny": "Apache-2.0"}
    assert facts.provenance.machine == {"device": "cpu"}
    assert facts.provenance.seed == 7
    assert "luthier run r.yaml" in facts.provenance.commands
    assert [made.step for made in facts.provenance.artifacts] == ["data", "tune", "report", "gate"]


def test_the_whole_can_be_drawn(facts: ReportFacts) -> None:
    assert "tickets" in render_report_page(facts)


def test_what_was_not_made_is_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    bare = collect_report_facts("tickets", "", {"data": dataset(store)})
    assert bare.verdict_sentence == "Nothing has been evaluated yet."
    assert "Where every row went" in render_report_page(bare)
    assert collect_report_facts("none", "", {}).provenance.artifacts == ()


def test_what_could_not_be_measured_is_none() -> None:
    assert replace_nonfinite({"a": [float("nan"), 1.0, {"b": float("inf")}]}) == {"a": [None, 1.0, {"b": None}]}


def test_a_validation_is_read_with_the_text_of_its_rows(tmp_path: Path) -> None:
    from luthier.artifacts.dataset import read_split_frame
    from luthier.artifacts.findings import Finding, Findings, FlaggedRow, write_findings

    store = Store(tmp_path)
    data = dataset(store)
    name = read_split_frame(data, "train")["id"][0]
    finding = Finding(name="lengths", severity="warning", title="T", sentence="S.", rows=2, hint="R.")
    folder, _ = store.begin("fe" * 16)
    marks = [FlaggedRow("lengths", name, "train", 1.0, "long"), FlaggedRow("lengths", "gone", "train")]
    write_findings(folder, Findings(rows=90, looked_at=90, findings=(finding,)), marks)
    inputs = {"data": data.digest}
    manifest = Manifest(
        digest="fe" * 16,
        kind="validate",
        makes="findings",
        settings={},
        inputs=inputs,
        reads={},
        code="",
        seed=0,
        files=[],
    )
    found = collect_report_facts("t", "", {"data": data, "checked": store.finish(manifest, {})}).validations[0]
    assert found.sentence.startswith("The data are fit to train on; 1 finding deserves a look")
    (row,) = found.findings[0].shown
    assert (row.id, row.note) == (name, "long")
    assert row.text
