"""What a task's scores say of a model that was tuned: what it lost, in which direction, and in which scale."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.eval.evaluator import EvaluationResults, _notes
from luthier.eval.task import AskModel, BenchmarkTask, TaskResult
from luthier.metrics.columns import CorpusScores, RowScores, WeightedColumn
from luthier.metrics.kinds.translation import Bleu


@dataclass(frozen=True, kw_only=True)
class _Asked(BenchmarkTask):
    """An exam that was graded already."""

    def run(self, ask: AskModel) -> TaskResult:
        raise NotImplementedError


def sitting(name: str, tuned: RowScores, base: RowScores) -> EvaluationResults:
    grades = {
        model: {"sums": TaskResult(columns={name: scores}, predictions=[""] * len(scores))}
        for model, scores in (("tuned", tuned), ("base", base))
    }
    return EvaluationResults(benchmarks=(_Asked(name="sums", items=()),), grades=grades, seed=1)


def test_a_lower_brier_score_is_no_loss() -> None:
    good, poor = (WeightedColumn.of("brier", row * 30) for row in ([0.1, 0.2], [0.7, 0.9]))
    found = sitting("brier_score", good, poor)
    assert found.losses() == {}
    (measure, _) = found.measures()
    assert measure.against["base"].lower_is_better
    assert (measure.against["base"].fixed, measure.against["base"].broken) == (60, 0)


def test_a_brier_score_runs_to_two() -> None:
    found = WeightedColumn.of("brier", [2.0] * 10).measured(1)
    assert (found.value, found.high) == (2.0, 2.0)
    assert found.low < 1.5


def test_what_was_lost_is_told_in_points_of_its_scale() -> None:
    wanted = [f"the parcel number {at} is on its way to the depot today" for at in range(20)]
    said = [text.replace("on its way", "sent") for text in wanted]
    bleu = sitting("bleu", CorpusScores.of(Bleu(), said, wanted), CorpusScores.of(Bleu(), wanted, wanted))
    lost = bleu.losses()["sums.bleu"].difference
    assert 10 < lost < 100
    assert f"is {lost:.1f} points lower" in next(iter(_notes(bleu)))
    acc = sitting("acc", WeightedColumn.of("share", [0.0] * 30), WeightedColumn.of("share", [1.0] * 30))
    assert "is 100.0 points lower" in next(iter(_notes(acc)))
