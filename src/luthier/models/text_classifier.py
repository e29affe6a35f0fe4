"""TF-IDF of words with logistic regression: the plain classifier, learned, kept without pickle and opened again.

A folder holds `classifier.json` (settings, classes and the vocabulary) and `classifier.safetensors` (`idf`, `coef` and
`intercept` in float64); `open_classifier` makes the scikit-learn pipeline of it that was fitted, to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.core.errors import DataError, ModelError, Where
from luthier.models.open_classifier import FORMAT, SETTINGS_FILE, WEIGHTS_FILE, open_pipeline

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

C = 10.0
"""Inverse strength of regularization; 10 does well on short texts."""
WORDS = 2
"""Longest run of words that is a feature."""
MIN_DF = 1
"""Texts that a run of words stands in at least, to be a feature."""
MAX_ITER = 2000
"""Steps of the solver (L-BFGS) at most; it stops by its tolerance long before."""
_LEAST = 1e-12
"""The smallest probability that is told of a class."""


class Settings(NamedTuple):
    """How the classifier is learned."""

    c: float = C
    words: int = WORDS
    min_df: int = MIN_DF


USUAL = Settings()


class TextClassifier:
    """A fitted pipeline of scikit-learn's `TfidfVectorizer` and `LogisticRegression`."""

    def __init__(self, pipeline: Any, settings: Settings) -> None:
        self._pipeline, self.settings = pipeline, settings

    @classmethod
    def fit(cls, texts: Sequence[str], labels: Sequence[str], settings: Settings = USUAL) -> TextClassifier:
        """Learn from texts and their classes; `DataError` where there is nothing to tell apart."""
        from sklearn.pipeline import make_pipeline

        if len(set(labels)) < 2:
            what = f"all {len(labels)} rows have one class" if labels else "there are no rows with a class"
            raise DataError(f"{what}: a classifier needs at least two", remedy="give rows of another class")
        pipeline = make_pipeline(_vectorizer(settings), _regression(settings))
        try:
            pipeline.fit(texts, labels)
        except ValueError as error:
            what = f"no word is left to learn from ({str(error).split(';', 1)[0]})"
            raise DataError(what, remedy="lower min_df, or give rows that have words") from error
        return cls(pipeline, settings)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The classes, in alphabetical order."""
        return tuple(str(name) for name in self._pipeline.classes_)

    @property
    def numbers(self) -> int:
        """How many numbers were learned: a weight for each feature and class, and an offset for each class."""
        regression = self._pipeline[-1]
        return int(regression.coef_.size + regression.intercept_.size)

    @property
    def features(self) -> int:
        """How many runs of words are features."""
        return len(self._pipeline[0].vocabulary_)

    @property
    def iterations(self) -> int:
        """Steps that the solver took."""
        return int(max(self._pipeline[-1].n_iter_))

    def words(self, text: str) -> int:
        """How many words of a text are read, known or not."""
        return len(self._pipeline[0].build_tokenizer()(text.lower()))

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(texts, classes): they sum to 1 in each row."""
        found: NDArray[np.float64] = self._pipeline.predict_proba(list(texts))
        return found

    def scores(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> list[dict[str, float]]:
        """The natural log-probability of each class for each text; the least one for `labels` that are no class."""
        import numpy as np

        least = round(float(np.log(_LEAST)), 6)
        unseen = dict.fromkeys(labels or (), least)
        logs = np.log(np.maximum(self.probabilities(texts), _LEAST)).round(6)
        return [{**unseen, **dict(zip(self.classes, row.tolist(), strict=True))} for row in logs]

    def save(self, folder: Path) -> None:
        """Write both files; the same classifier makes the same bytes."""
        import numpy as np
        from safetensors.numpy import save_file

        vectorizer, regression = self._pipeline[0], self._pipeline[-1]
        terms = sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__)
        told = {
            "format": FORMAT,
            "vectorizer": {"ngram_range": [1, self.settings.words], "sublinear_tf": True},
            "min_df": self.settings.min_df,
            "classifier": {"C": self.settings.c, "max_iter": MAX_ITER},
            "classes": list(self.classes),
            "vocabulary": terms,
        }
        text = json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        (folder / SETTINGS_FILE).write_text(text + "\n", encoding="utf-8")
        arrays = {"idf": vectorizer.idf_, "coef": regression.coef_, "intercept": regression.intercept_}
        # scikit-learn's coef_ may lie column by column, which safetensors would write as if it were row by row
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / WEIGHTS_FILE)

    @classmethod
    def open(cls, folder: Path) -> TextClassifier:
        """Read what `save` wrote; `ModelError` for a folder of a later version."""
        told = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            what = f"expected format {FORMAT} of a plain classifier, got {told['format']!r}"
            raise ModelError(what, where=Where(file=str(folder / SETTINGS_FILE)), remedy="open it with a newer luthier")
        given = Settings(told["classifier"]["C"], told["vectorizer"]["ngram_range"][1], told["min_df"])
        return cls(open_pipeline(folder), given)


def _vectorizer(settings: Settings) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, settings.words), sublinear_tf=True, min_df=settings.min_df)


def _regression(settings: Settings) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=settings.c, max_iter=MAX_ITER)
