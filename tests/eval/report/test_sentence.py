"""The sentence that opens the report: what is better, by how much, how sure; a plain baseline that wins comes first."""

from __future__ import annotations

import pytest

from luthier.core.component import components_by_kind
from luthier.eval.report.facts.fact import ScoreFact
from luthier.eval.report.facts.models import LOWER_IS_BETTER, ComparisonFact, ModelFacts
from luthier.eval.report.formatting import (
    HUNDRED,
    OPEN,
    classify_comparison,
    format_points,
    rows_per_hundred,
    verdict_sentence,
)
from luthier.eval.report.views import key_figures
from luthier.metrics.metric import Metric
from tests.eval.report import example


def of(metric: str, difference: float, half: float, p: float | None = 0.001) -> ComparisonFact:
    return ComparisonFact(
        a="tuned", b="base", metric=metric, difference=difference, low=difference - half, high=difference + half, p=p
    )


def test_better_than_both() -> None:
    assert verdict_sentence(example.evaluation()) == (
        "The tuned model is better than the base model by 41.4 points of accuracy (95 % interval 36.9 to 45.9, "
        "p < 0.001) on 500 held-out rows. It beats the plain classifier, TF-IDF with logistic regression, by "
        "4.2 points (95 % interval 1.2 to 7.2, p = 0.016)."
    )


def test_a_plain_baseline_that_wins_comes_first() -> None:
    facts = example.evaluation(
        models=example.models(plain=0.95),
        comparisons=(example.comparison("base", 0.414, 0.045, 1e-9), example.comparison("tfidf", -0.044, 0.02, 0.001)),
    )
    said = verdict_sentence(facts)
    assert said.startswith(
        "A plain classifier wins: TF-IDF with logistic regression beats the tuned model by 4.4 points of accuracy"
    )
    assert "The tuned model is better than the base model by 41.4 points" in said


def test_a_plain_baseline_that_does_as_well_comes_first() -> None:
    facts = example.evaluation(
        models=example.models(plain=0.91),
        comparisons=(example.comparison("base", 0.414, 0.045, 1e-9), example.comparison("tfidf", -0.004, 0.02, 0.6)),
    )
    said = verdict_sentence(facts)
    assert said.startswith("A plain classifier does as well: TF-IDF with logistic regression scores 0.910")
    assert "within chance" in said


def test_equal_scores_are_said_to_be_equal() -> None:
    facts = example.evaluation(
        models=example.models(tuned=1.0, base=1.0, plain=1.0),
        comparisons=(example.comparison("base", 0.0, 0.0, 1.0), example.comparison("tfidf", 0.0, 0.0, 1.0)),
    )
    assert verdict_sentence(facts) == (
        "A plain classifier does as well: TF-IDF with logistic regression and the tuned model both score 1.000. "
        "The tuned model scores the same as the base model, 1.000 in accuracy, on 500 held-out rows."
    )
    unsure = example.evaluation(comparisons=(example.comparison("base", 0.0, 0.02, 1.0),))
    assert verdict_sentence(unsure).startswith(
        "The tuned model scores the same as the base model, 0.906 in accuracy: they differ by 0.0 points (95 % interval"
    )


def test_ahead_of_the_plain_baseline_by_chance() -> None:
    comparisons = (example.comparison("base", 0.414, 0.045, 1e-9), example.comparison("tfidf", 0.006, 0.02, 0.6))
    said = verdict_sentence(example.evaluation(comparisons=comparisons))
    assert "0.6 points ahead of the plain classifier" in said
    assert said.endswith("which is within chance.")


@pytest.mark.parametrize(("difference", "words"), [(-0.1, "is worse than"), (0.001, "No clear difference between")])
def test_worse_and_unclear(difference: float, words: str) -> None:
    comparisons = (example.comparison("base", difference, 0.03, 0.001 if difference < 0 else 0.9),)
    assert words in verdict_sentence(example.evaluation(comparisons=comparisons))


def test_without_a_tuned_model_or_without_anything() -> None:
    models = tuple(model for model in example.models() if model.role != "tuned")
    assert verdict_sentence(example.evaluation(models=models)).startswith("No tuned model was measured. Accuracy")
    empty = example.evaluation(models=(ModelFacts(name="base", title="b", role="base", metrics={}),))
    assert verdict_sentence(empty) == "Nothing could be measured on the 500 held-out rows."


def test_a_score_that_could_not_be_measured() -> None:
    models = tuple(
        model.model_copy(update={"metrics": {"accuracy": ScoreFact(value=None)}}) if model.role == "tuned" else model
        for model in example.models()
    )
    said = verdict_sentence(example.evaluation(models=models, comparisons=()))
    assert "nothing" not in said.lower() or said
    assert "None" not in said


def test_standing_follows_interval_test_and_direction() -> None:
    assert classify_comparison(of("accuracy", 0.1, 0.05)) == "better"
    assert classify_comparison(of("accuracy", 0.1, 0.2)) == "unclear"
    assert classify_comparison(of("accuracy", 0.1, 0.05, p=0.2)) == "unclear"
    assert classify_comparison(of("perplexity", -1.0, 0.5)) == "better"
    assert classify_comparison(of("wer", 0.1, 0.05)) == "worse"
    assert classify_comparison(of("accuracy", 0.1, 0.05).model_copy(update={"p_holm": 0.06})) == "unclear"
    assert classify_comparison(ComparisonFact(a="a", b="b", metric="accuracy", difference=0.1)) == "unclear"


def test_points_are_said_in_the_metrics_own_scale() -> None:
    assert format_points(0.041, "accuracy") == "4.1 points of accuracy"
    assert format_points(-0.01, "macro_f1") == "1.0 point of macro F1"
    assert format_points(3.25, "bleu") == "3.2 points of BLEU"
    assert format_points(1.5, "perplexity") == "1.50 of perplexity"
    assert format_points(0.02, "rougeL") == "2.0 points of ROUGE-L"


def test_what_it_means_to_people() -> None:
    assert rows_per_hundred(of("accuracy", 0.414, 0.04)) == "about 41 more rows right in every 100"
    assert rows_per_hundred(of("accuracy", -0.004, 0.04)) == "fewer than 1 fewer rows right in every 100"
    assert rows_per_hundred(of("macro_f1", 0.4, 0.04)) == ""


def test_directions_and_scales_are_those_of_the_metrics() -> None:
    known = components_by_kind(Metric)
    assert {kind for kind, metric in known.items() if metric.better == "lower"} == LOWER_IS_BETTER
    assert {kind for kind, metric in known.items() if metric.whole() == 100} == HUNDRED
    assert {kind for kind, metric in known.items() if metric.bounds[1] > 2} == HUNDRED | OPEN | {"wer", "cer"}


def test_less_risk_than_the_plain_baselines_is_better() -> None:
    scores = {"tuned": 0.02, "base": 0.3, "tfidf": 0.2, "majority": 0.25}
    models = tuple(
        model.model_copy(update={"metrics": {"aurc": ScoreFact(value=scores[model.name])}})
        for model in example.models()
        if model.name in scores
    )
    against = [of("aurc", -0.28, 0.02), of("aurc", -0.18, 0.02).model_copy(update={"b": "tfidf"})]
    said = verdict_sentence(example.evaluation(main_metric="aurc", models=models, comparisons=tuple(against)))
    assert said.startswith("The tuned model is better than the base model by 28.0 points of aurc")
    assert "It beats the plain classifier, TF-IDF with logistic regression, by 18.0 points" in said


def test_what_is_surely_better_is_better_by_something() -> None:
    facts = example.evaluation(comparisons=(example.comparison("base", 0.0004, 0.0003, 1e-4),))
    assert "better than the base model by 0.04 points of accuracy (95 % interval 0.01 to 0.07, p <" in verdict_sentence(
        facts
    )
    facts = example.evaluation(comparisons=(example.comparison("base", 0.03, 0.0297, 0.02),))
    assert "by 3.0 points of accuracy (95 % interval 0.03 to 5.97, p = 0.040)" in verdict_sentence(facts)
    assert format_points(0.0, "accuracy") == "0.0 points of accuracy"
    assert format_points(0.0004, "perplexity") == "0.0004 of perplexity"


def test_a_model_that_is_named_takes_the_place_of_the_base_model() -> None:
    """`compare_with: STEP`, as `new --from traces` writes it: what was served before is what has to be beaten."""
    named = [
        model.model_copy(update={"role": "other", "title": "the model that was served"})
        if model.role == "base"
        else model
        for model in example.models()
    ]
    facts = example.evaluation(models=tuple(named))
    said = verdict_sentence(facts)
    assert said.startswith("The tuned model is better than the model that was served by 41.4 points of accuracy")
    figures = key_figures(facts)
    assert [one.name for one in figures[:2]] == ["Tuned model", "Model that was served"]
    assert figures[-1].note == "by the tuning, against the model that was served"
