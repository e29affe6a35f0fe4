"""Metrics against other people's implementations, on texts in eight languages and on labels, to 1e-9."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.component import component_of_kind
from luthier.metrics.metric import Metric

TEXT = (
    "the a cat dog sat on mat! running runs 42 3.5 it's of and to "
    "Über straße schöne où était très élève ¿dónde está el niño? "
    "привет мир кошка 你好 世界 猫が 好き です مرحبا بالعالم नमस्ते दुनिया x y z"
)
WORDS = TEXT.split()


def texts(seed: int, count: int = 150) -> tuple[list[str], list[str]]:
    """Predictions that are references with words changed, moved, lost, or nothing alike; some are empty."""
    chance = random.Random(seed)
    references = [" ".join(chance.choices(WORDS, k=chance.randint(1, 20))) for _ in range(count)]
    predictions = []
    for reference in references:
        words = [chance.choice(WORDS) if chance.random() < 0.3 else word for word in reference.split()]
        if chance.random() < 0.3:
            words = words[len(words) // 2 :] + words[: len(words) // 2]
        predictions.append(
            " ".join(words[: chance.randint(0, len(words))]) if chance.random() < 0.3 else " ".join(words)
        )
    return predictions, references


def value(kind: str, predictions: list[str], references: list[str] | list[list[str]], **more: object) -> float:
    """A metric's value."""
    return component_of_kind(Metric, kind)(kind=kind, **more).measure(predictions, references).value


@pytest.mark.parametrize("kind", ["bleu", "chrf", "ter"])
@pytest.mark.parametrize("seed", range(3))
def test_sacrebleu(kind: str, seed: int) -> None:
    import sacrebleu

    predictions, references = texts(seed)
    expected = getattr(sacrebleu, f"corpus_{kind}")(predictions, [references]).score
    assert value(kind, predictions, references) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", ["bleu", "chrf", "ter"])
def test_sacrebleu_with_several_references(kind: str) -> None:
    import sacrebleu

    predictions, first = texts(3)
    _, second = texts(4)
    both = [[one, other] if row % 2 else [one] for row, (one, other) in enumerate(zip(first, second, strict=True))]
    streams = [first, [row[1] if len(row) > 1 else None for row in both]]
    expected = getattr(sacrebleu, f"corpus_{kind}")(predictions, streams).score
    assert value(kind, predictions, both) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "settings", [{"tokenize": "zh"}, {"tokenize": "char"}, {"tokenize": "intl", "lowercase": True}]
)
def test_sacrebleu_tokenizers(settings: dict[str, object]) -> None:
    import sacrebleu

    predictions, references = texts(5)
    expected = sacrebleu.corpus_bleu(predictions, [references], **settings).score
    assert value("bleu", predictions, references, **settings) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("rows", [(["a"], ["a"]), ([""], ["a b"]), (["a b c"], ["a b c d"]), (["x"], ["a b c d e"])])
@pytest.mark.parametrize("kind", ["bleu", "chrf", "ter"])
def test_sacrebleu_on_edge_rows(kind: str, rows: tuple[list[str], list[str]]) -> None:
    import sacrebleu

    expected = getattr(sacrebleu, f"corpus_{kind}")(rows[0], [rows[1]]).score
    assert value(kind, *rows) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
@pytest.mark.parametrize("seed", range(3))
def test_rouge_score(kind: str, seed: int) -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    predictions, references = texts(seed)
    predictions = [text.replace(" on ", "\n").replace(" a ", "\n\n") for text in predictions]
    references = [text.replace(" the ", "\n").replace(" 42 ", "\n") for text in references]
    scorer = rouge_scorer.RougeScorer([kind])
    expected = [
        scorer.score(reference, prediction)[kind].fmeasure
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    score = component_of_kind(Metric, kind)(kind=kind).measure(predictions, references)
    assert score.rows == pytest.approx(expected, abs=1e-12)
    assert score.value == pytest.approx(np.mean(expected), abs=1e-9)


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
@settings(max_examples=200, deadline=None)
def test_rouge_sum_with_any_ties(said: list[str], real: list[str]) -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    prediction = " ".join(said).replace("d", "\n")
    reference = " ".join(real).replace("d", "\n")
    expected = rouge_scorer.RougeScorer(["rougeLsum"]).score(reference, prediction)["rougeLsum"].fmeasure
    assert value("rougeLsum", [prediction], [reference]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_jiwer(seed: int) -> None:
    jiwer = pytest.importorskip("jiwer", reason="jiwer is not installed")
    predictions, references = texts(seed)
    assert value("wer", predictions, references) == pytest.approx(jiwer.wer(references, predictions), abs=1e-12)
    assert value("cer", predictions, references) == pytest.approx(jiwer.cer(references, predictions), abs=1e-12)


def labels(seed: int, classes: int, rows: int = 200) -> tuple[list[str], list[str]]:
    """Predictions and references of labels, some of which occur on one side only."""
    chance = random.Random(seed)
    names = [f"class {number}" for number in range(classes)]
    references = [chance.choice(names[: max(1, classes - 1)]) for _ in range(rows)]
    predictions = [label if chance.random() < 0.6 else chance.choice(names) for label in references]
    return predictions, references


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("classes", [1, 2, 3, 40])
@pytest.mark.parametrize("seed", range(3))
def test_scikit_learn_labels(seed: int, classes: int) -> None:
    from sklearn import metrics

    said, real = labels(seed, classes)
    expected = {
        "accuracy": metrics.accuracy_score(real, said),
        "macro_precision": metrics.precision_score(real, said, average="macro", zero_division=0),
        "macro_recall": metrics.recall_score(real, said, average="macro", zero_division=0),
        "macro_f1": metrics.f1_score(real, said, average="macro", zero_division=0),
        "micro_f1": metrics.f1_score(real, said, average="micro", zero_division=0),
        "weighted_f1": metrics.f1_score(real, said, average="weighted", zero_division=0),
        "mcc": metrics.matthews_corrcoef(real, said) if classes > 1 else 0.0,
    }
    for kind, known in expected.items():
        assert value(kind, said, real) == pytest.approx(known, abs=1e-9), kind


@pytest.mark.parametrize("classes", [2, 5])
def test_scikit_learn_brier(classes: int) -> None:
    from sklearn.metrics import brier_score_loss

    random_numbers = np.random.default_rng(classes)
    chances = random_numbers.dirichlet(np.ones(classes), size=100)
    names = [f"class {number}" for number in range(classes)]
    real = [names[random_numbers.choice(classes, p=row)] for row in chances]
    said = [names[row.argmax()] for row in chances]
    scores = [dict(zip(names, row.tolist(), strict=True)) for row in chances]
    found = component_of_kind(Metric, "brier")(kind="brier").measure(said, real, label_scores=scores).value
    given_chances = chances[:, 1] if classes == 2 else chances
    expected = brier_score_loss(real, given_chances, labels=names, pos_label=names[1] if classes == 2 else None)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.parametrize("classes", [2, 3, 40])
@pytest.mark.parametrize("seed", range(3))
def test_scikit_learn_averages_and_single_labels(seed: int, classes: int) -> None:
    from sklearn import metrics

    said, real = labels(seed, classes)
    assert value("balanced_accuracy", said, real) == pytest.approx(
        metrics.balanced_accuracy_score(real, said), abs=1e-9
    )
    for name in ("precision", "recall"):
        known = getattr(metrics, f"{name}_score")
        for average in ("micro", "weighted"):
            expected = known(real, said, average=average, zero_division=0)
            assert value(f"{average}_{name}", said, real) == pytest.approx(expected, abs=1e-9)
    for kind in ("precision", "recall", "f1"):
        known = getattr(metrics, f"{kind}_score")
        for label in sorted({*said, *real}):
            expected = known(real, said, labels=[label], average="macro", zero_division=0)
            assert value(kind, said, real, label=label) == pytest.approx(expected, abs=1e-9), (kind, label)
