"""Group fairness equal to fairlearn's on the same answers."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from eval.evaluations import dataset, example
from eval.probing import Said, bench_of
from luthier.core.store import Store
from luthier.eval.probe import Probe

fairlearn = pytest.importorskip("fairlearn.metrics", reason="needs fairlearn (test group)")


@pytest.mark.parametrize(
    ("labels", "groups"), [(("no", "yes"), ("a", "b")), (("no", "perhaps", "yes"), ("a", "b", "c"))]
)
def test_group_fairness_is_fairlearns(tmp_path: Path, labels: tuple[str, ...], groups: tuple[str, ...]) -> None:
    chance = Random(len(labels))
    rows = [
        example(f"row {number}", label, label, number, group=chance.choice(groups))
        for number in range(400)
        for label in [chance.choice(labels)]
    ]
    noise = {f"row {number}": chance.choice(labels) for number in range(400)}
    real = {f"row {number}": row.label or "" for number, row in enumerate(rows)}
    where = {f"row {number}": row.meta["group"] for number, row in enumerate(rows)}

    def says(text: str) -> str:
        return real[text] if int(text[4:]) % 10 < (8 if where[text] == "a" else 5) else noise[text]

    bench = bench_of(dataset(Store(tmp_path / "store"), rows[:5], rows), tmp_path, Said("model", says))
    probe = Probe.parse({"kind": "fairness", "column": "group", "positive": "yes"})
    found = {one.name: one for one in probe.measure(bench)}
    texts = [row.messages[1].content for row in bench.task.examples]
    true, said = np.array([real[t] == "yes" for t in texts]), np.array([says(t) == "yes" for t in texts])
    told = {"sensitive_features": np.array([where[t] for t in texts])}
    expected = {
        "bias.demographic_parity": fairlearn.demographic_parity_difference(true, said, **told),
        "bias.demographic_parity_ratio": fairlearn.demographic_parity_ratio(true, said, **told),
        "bias.equal_opportunity": fairlearn.equal_opportunity_difference(true, said, **told),
        "bias.equalised_odds": fairlearn.equalized_odds_difference(true, said, **told),
    }
    assert {name: found[name].value for name in expected} == pytest.approx(expected, abs=1e-12)
    frame = fairlearn.MetricFrame(
        metrics=lambda y, p: float(np.mean(y == p)),
        y_true=np.array([real[t] for t in texts]),
        y_pred=np.array([says(t) for t in texts]),
        **told,
    )
    assert found["bias.worst_group"].value == pytest.approx(frame.group_min(), abs=1e-12)
    for one in found.values():
        assert one.low <= one.value <= one.high
