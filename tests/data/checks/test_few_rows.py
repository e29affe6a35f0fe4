"""Too few rows to train on, and classes of very few rows: each is a finding with numbers and a remedy."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from luthier.artifacts.findings import Findings
from luthier.data.checks.few_rows import FewRows
from luthier.data.checks.imbalance import ClassImbalance
from luthier.data.validate.context import CheckData
from luthier.data.validate.run import run_checks
from test_every_check import clean_rows


def test_four_rows_are_not_fit_to_train_on() -> None:
    few = CheckData(clean_rows("label", 4), task="label")
    found = run_checks([FewRows(), ClassImbalance()], few).findings
    rows = {one.name: one for one in found.findings}["few_rows"]
    assert rows.severity == "serious"
    assert rows.numbers["rows.train"].value == 3
    assert "at least 10 are needed and 50 recommended" in rows.sentence
    assert "Collect more rows" in rows.hint
    assert found.sentence.startswith("The data are not fit to train on yet; 1 serious finding: too few rows")
    alone = Findings(rows=4, looked_at=4, findings=())
    assert alone.sentence == "The data are not fit to train on yet: 4 rows, at least 10 are needed."


def test_classes_of_very_few_rows_are_one_finding_that_names_them() -> None:
    rows = [replace(row, split="train") for row in clean_rows("label", 400)]
    small = {"account": 4, "billing": 2, "product": 1}
    kept, left = [], Counter(small)
    for row in rows:
        label = row.label or ""
        if label not in small or left[label] > 0:
            kept.append(row)
            left[label] -= label in small
    found = list(ClassImbalance().look(CheckData(kept, task="label")))
    (few,) = [one for one in found if one.finding.name == "imbalance.few"]
    assert few.finding.severity == "warning"
    assert few.finding.sentence == (
        "3 of 4 classes have fewer than 5 training rows: 'product' (1), 'billing' (2), 'account' (4)."
    )
    assert few.finding.numbers["classes.few"].value == 3
    assert all(word in few.finding.hint for word in ("Merge", "collect", "leave"))
    assert len(few.marks) == few.finding.rows == 7
    assert "kind: exclude_ids" in few.finding.mend
