"""One-minute probes: the plain classifier out of fold at several sizes, and the base model without tuning."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.auto.advice.evidence import EvidenceRecord
from luthier.auto.advice.predict import BASE
from luthier.auto.advice.profile import AdviceProfile
from luthier.core.errors import DataError
from luthier.data.suggest.separability import LabelSeparability

MOST_ROWS = 2000
_FOLDS = 5
_SHARES = (0.25, 0.5)
_FEWEST = 20


def probe_plain_classifier(texts: Sequence[str], labels: Sequence[str]) -> LabelSeparability | None:
    """The plain classifier's accuracy on rows that it was not trained on; None where rows or classes are too few."""
    import numpy as np

    from luthier.models.text_classifier import TextClassifier

    order = np.random.default_rng(0).permutation(len(texts))[:MOST_ROWS].tolist()
    texts, labels = [texts[index] for index in order], [labels[index] for index in order]
    if len(texts) < _FEWEST or len(set(labels)) < 2:
        return None
    predicted = [""] * len(texts)
    accuracy: dict[int, list[float]] = {}
    for fold in range(_FOLDS):
        test_rows = list(range(fold, len(texts), _FOLDS))
        learn = [index for index in range(len(texts)) if index % _FOLDS != fold]
        for share in (*_SHARES, 1.0):
            used = learn[: round(share * len(learn))]
            try:
                model = TextClassifier.fit([texts[index] for index in used], [labels[index] for index in used])
            except DataError:  # one class alone among so few rows
                continue
            found = model.probabilities([texts[index] for index in test_rows]).argmax(axis=1)
            names = [model.classes[index] for index in found.tolist()]
            right = [name == labels[index] for name, index in zip(names, test_rows, strict=True)]
            accuracy.setdefault(len(used), []).append(sum(right) / len(right))
            if share == 1.0:
                for name, index in zip(names, test_rows, strict=True):
                    predicted[index] = name
    return LabelSeparability(
        rows=len(texts),
        accuracy={size: round(sum(values) / len(values), 4) for size, values in sorted(accuracy.items())},
        macro_f1=round(_macro_f1(labels, predicted), 4),
    )


def _macro_f1(labels: Sequence[str], predicted: Sequence[str]) -> float:
    found = []
    for name in sorted(set(labels)):
        hits = sum(label == other == name for label, other in zip(labels, predicted, strict=True))
        found.append(2 * hits / (labels.count(name) + predicted.count(name)))
    return sum(found) / len(found)


def read_base_probe(profile: AdviceProfile, metric: str, value: float, rows: int, model: str) -> EvidenceRecord:
    """Return the base model's result on some of these rows."""
    return EvidenceRecord(
        kind="probe",
        set="these rows",
        task=profile.task,
        technique=BASE,
        metric=metric,
        value=min(1.0, max(0.0, value)),
        rows=rows,
        train_rows=profile.rows,
        classes=profile.classes,
        source=f"{model}, asked just now",
    )
