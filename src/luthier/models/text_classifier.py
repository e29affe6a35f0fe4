"""The plain text classifier (TF-IDF of words and word pairs, logistic regression): fit, save, open, export and test.

A folder holds `build_logistic_regression.json` (settings, classes and vocabulary) and
`build_logistic_regression.safetensors` (`idf`, `coef` and `intercept` in float64), without pickle. `open_classifier`
restores the fitted scikit-learn pipeline bit for bit. An export holds the two files, a script that opens them in
scikit-learn, and a card.

Several checks use the out-of-fold probabilities. The two-sample test returns the area under the ROC curve of a
classifier that separates two sets of rows: 0.5 is chance, 1 is perfect separation.
"""

from __future__ import annotations

import json
import math
import runpy
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from luthier.artifacts.training import TrainingRecord
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, ModelError, SourceLocation
from luthier.models import open_classifier
from luthier.models.export.model_card import format_data_licences, list_lineage, render_history_sections
from luthier.models.open_classifier import FORMAT, SETTINGS_FILE, WEIGHTS_FILE, open_pipeline

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.models.export.model_card import ModelScores

C = 10.0
"""Inverse strength of regularization; 10 works well on short texts."""
WORDS = 2
"""Maximum words of an n-gram feature."""
MIN_DF = 1
"""Minimum number of texts with an n-gram for it to be a feature."""
MAX_ITER = 2000
"""Maximum iterations of the solver (L-BFGS); its tolerance stops it long before."""
_LEAST = 1e-12
"""Smallest reported probability of a class."""


class TextClassifierSettings(NamedTuple):
    """Hyperparameters of the classifier."""

    c: float = C
    words: int = WORDS
    min_df: int = MIN_DF


USUAL = TextClassifierSettings()


class TextClassifier:
    """A fitted pipeline of scikit-learn's `TfidfVectorizer` and `LogisticRegression`."""

    def __init__(self, pipeline: Any, settings: TextClassifierSettings) -> None:
        self._pipeline, self.settings = pipeline, settings

    @classmethod
    def fit(
        cls, texts: Sequence[str], labels: Sequence[str], settings: TextClassifierSettings = USUAL
    ) -> TextClassifier:
        """Fit to texts and their classes; `DataError` where there are fewer than two classes."""
        from sklearn.pipeline import make_pipeline

        if len(set(labels)) < 2:
            what = f"all {len(labels)} rows have one class" if labels else "there are no rows with a class"
            raise DataError(f"{what}: a classifier needs at least two", hint="give rows of another class")
        pipeline = make_pipeline(_vectorizer(settings), _regression(settings))
        try:
            pipeline.fit(texts, labels)
        except ValueError as error:
            what = f"no word is left to learn from ({str(error).split(';', 1)[0]})"
            raise DataError(what, hint="lower min_df, or give rows that have words") from error
        return cls(pipeline, settings)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The classes, in alphabetical order."""
        return tuple(str(name) for name in self._pipeline.classes_)

    @property
    def numbers(self) -> int:
        """Number of parameters: a weight for each feature and class, and an intercept for each class."""
        regression = self._pipeline[-1]
        return int(regression.coef_.size + regression.intercept_.size)

    @property
    def features(self) -> int:
        """Number of n-gram features."""
        return len(self._pipeline[0].vocabulary_)

    @property
    def iterations(self) -> int:
        """Iterations of the solver."""
        return int(max(self._pipeline[-1].n_iter_))

    def words(self, text: str) -> int:
        """Return the number of words in a text, known or not."""
        return len(self._pipeline[0].build_tokenizer()(text.lower()))

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return (texts, classes); each row sums to 1."""
        probabilities: NDArray[np.float64] = self._pipeline.predict_proba(list(texts))
        return probabilities

    def scores(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> list[dict[str, float]]:
        """Return the log-probability of each class for each text; the smallest one for `labels` that are
        not a class.
        """
        import numpy as np

        least = round(float(np.log(_LEAST)), 6)
        unseen = dict.fromkeys(labels or (), least)
        logs = np.log(np.maximum(self.probabilities(texts), _LEAST)).round(6)
        return [{**unseen, **dict(zip(self.classes, row.tolist(), strict=True))} for row in logs]

    def save(self, folder: Path) -> None:
        """Write both files, deterministically."""
        import numpy as np
        from safetensors.numpy import save_file

        vectorizer, regression = self._pipeline[0], self._pipeline[-1]
        terms = sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__)
        record = {
            "format": FORMAT,
            "vectorizer": {"ngram_range": [1, self.settings.words], "sublinear_tf": True},
            "min_df": self.settings.min_df,
            "classifier": {"C": self.settings.c, "max_iter": MAX_ITER},
            "classes": list(self.classes),
            "vocabulary": terms,
        }
        text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        (folder / SETTINGS_FILE).write_text(text + "\n", encoding="utf-8")
        arrays = {"idf": vectorizer.idf_, "coef": regression.coef_, "intercept": regression.intercept_}
        # scikit-learn's coef_ may lie column by column, which safetensors would write as if it were row by row
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / WEIGHTS_FILE)

    @classmethod
    def open(cls, folder: Path) -> TextClassifier:
        """Read what `save` wrote; `ModelError` for a folder of a later version."""
        record = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            what = f"expected format {FORMAT} of a plain classifier, got {record['format']!r}"
            raise ModelError(
                what, where=SourceLocation(file=str(folder / SETTINGS_FILE)), hint="open it with a newer luthier"
            )
        classifier_settings = TextClassifierSettings(
            record["classifier"]["C"], record["vectorizer"]["ngram_range"][1], record["min_df"]
        )
        return cls(open_pipeline(folder), classifier_settings)


def _vectorizer(settings: TextClassifierSettings) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, settings.words), sublinear_tf=True, min_df=settings.min_df)


def _regression(settings: TextClassifierSettings) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=settings.c, max_iter=MAX_ITER)


FOLDS = 5
_TERMS = 20_000
"""Maximum number of terms: more change little and cost time."""


class OutOfFoldProbabilities(NamedTuple):
    """Out-of-fold probabilities, and their accuracy."""

    probabilities: NDArray[np.float64]
    """(rows, classes): by a classifier that was not fitted to the row; all rows sum to 1."""
    accuracy: float


def compute_tfidf_features(texts: Sequence[str]) -> Any:
    """Return (texts, terms) sparse TF-IDF; one empty column when no text has a word."""
    import numpy as np
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, WORDS), sublinear_tf=True, max_features=_TERMS, dtype=np.float64)
    try:
        return vectorizer.fit_transform(texts)
    except ValueError:  # no text has a word
        return csr_matrix((len(texts), 1), dtype=np.float64)


def build_logistic_regression() -> Any:
    """Return the unfitted logistic regression."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C, max_iter=200, tol=1e-3)


def assign_folds(
    codes: NDArray[np.int64], count: int, seed: int, families: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return (rows,) the fold of each row, with each class spread evenly over the folds.

    `families` has for each row the index of its family's representative: a family stays together.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    folds = np.zeros(len(codes), dtype=np.int64)
    stands = np.arange(len(codes)) if families is None else families
    start = 0
    for code in np.unique(codes):
        mine = random.permutation(np.flatnonzero((codes == code) & (stands == np.arange(len(codes)))))
        folds[mine] = (np.arange(len(mine)) + start) % count
        start += len(mine)
    return folds[stands]


def predict_texts_out_of_fold(
    texts: Sequence[str],
    codes: NDArray[np.int64],
    *,
    seed: int,
    count: int = FOLDS,
    families: NDArray[np.int64] | None = None,
) -> OutOfFoldProbabilities:
    """Return probabilities of every class for each row by its words, from the other folds; see `assign_folds` for
    families.
    """
    return predict_out_of_fold(compute_tfidf_features(texts), codes, seed=seed, count=count, families=families)


def predict_out_of_fold(
    matrix: Any,
    codes: NDArray[np.int64],
    *,
    seed: int,
    count: int = FOLDS,
    families: NDArray[np.int64] | None = None,
) -> OutOfFoldProbabilities:
    """Return out-of-fold probabilities from any features, (rows, width); classes unseen in the other folds have 0."""
    import numpy as np

    part = assign_folds(codes, count, seed, families)
    probabilities = np.zeros((len(codes), int(codes.max()) + 1))
    for fold in range(count):
        learn, ask = np.flatnonzero(part != fold), np.flatnonzero(part == fold)
        known = np.unique(codes[learn])
        if len(ask) == 0:
            continue
        if len(known) < 2:
            probabilities[np.ix_(ask, known)] = 1.0
            continue
        model = build_logistic_regression().fit(matrix[learn], codes[learn])
        probabilities[np.ix_(ask, model.classes_)] = model.predict_proba(matrix[ask])
    probabilities = np.round(probabilities, 9)
    return OutOfFoldProbabilities(probabilities, float((probabilities.argmax(axis=1) == codes).mean()))


def measure_separability(features: Any, first: int, second: int, seed: int) -> tuple[float, float, float]:
    """Return the out-of-fold AUC of a classifier that separates the first rows from the second, with its 95
    % interval.
    """
    import numpy as np

    codes = np.array([0] * first + [1] * second, dtype=np.int64)
    if min(first, second) < 2:
        return 0.5, 0.0, 1.0
    scores = predict_out_of_fold(features, codes, seed=seed).probabilities[:, 1]
    area = _area(scores, codes)
    spread = 1.959964 * _standard_error(area, second, first)
    return round(area, 4), round(max(0.0, area - spread), 4), round(min(1.0, area + spread), 4)


def _area(scores: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    """Return the probability that a row of the second kind scores higher than one of the first (Mann and Whitney)."""
    from scipy.stats import rankdata

    second = int(codes.sum())
    ranks = float(rankdata(scores)[codes == 1].sum())
    return (ranks - second * (second + 1) / 2) / (second * (len(codes) - second))


def _standard_error(area: float, second: int, first: int) -> float:
    """Return the standard error of an AUC (Hanley and McNeil 1982, Radiology 143)."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    parts = area * (1 - area) + (second - 1) * (q1 - area**2) + (first - 1) * (q2 - area**2)
    return math.sqrt(max(parts, 0.0) / (second * first))


NEAR = 1e-6
"""Maximum difference of probabilities of an export."""
_EXPORT_CLASSIFIER_TERMS = 200
"""Number of vocabulary terms that are classified for comparison."""


def write_classifier(artifact: Artifact, folder: Path, measures: ModelScores | None) -> str:
    """Write the export into an empty folder, open it by its own script, and describe the check."""
    for name in (SETTINGS_FILE, WEIGHTS_FILE):
        shutil.copyfile(artifact.path(name), folder / name)
    script = Path(str(open_classifier.__file__))
    shutil.copyfile(script, folder / script.name)
    checked = _compare(artifact, folder, folder / script.name)
    (folder / "README.md").write_text(_card(artifact, measures, checked), encoding="utf-8")
    return checked


def _compare(artifact: Artifact, folder: Path, script: Path) -> str:
    """Compare probabilities of some texts by the exported script with the model's own."""
    import numpy as np

    pipeline = runpy.run_path(str(script))["open_pipeline"](folder)  # an import would leave its bytecode in the export
    terms = sorted(pipeline[0].vocabulary)
    texts = [
        "",
        *(" ".join(terms[at : at + 7]) for at in range(0, len(terms), max(1, len(terms) // _EXPORT_CLASSIFIER_TERMS))),
    ]
    expected = TextClassifier.open(artifact.folder).probabilities(texts)
    apart = float(np.abs(pipeline.predict_proba(texts) - expected).max())
    if apart > NEAR:
        hint = "nothing was written; this is a fault worth reporting, unless the files changed meanwhile"
        what = f"the export answers otherwise than the model: probabilities differ by {apart:.2g}"
        raise ModelError(what, hint=hint)
    return f"probabilities of {len(texts)} texts differ by {apart:.1g} at most"


def _card(artifact: Artifact, measures: ModelScores | None, checked: str) -> str:
    """The README: front matter that the hub reads, then plain text."""
    record = TrainingRecord.read(artifact)
    front = {"library_name": "sklearn", "pipeline_tag": "text-classification", "tags": ["luthier", "sklearn"]}
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=True)}---\n",
        "# Plain classifier\n",
        f"TF-IDF of words with logistic regression, made with Luthier from {record.rows:,} rows of "
        f"{len(record.classes)} classes; {record.features:,} features. There is no base model, and no pickle.\n",
        "```python\nfrom open_classifier import open_pipeline  # needs scikit-learn and safetensors\n\n"
        'pipeline = open_pipeline(".")\npipeline.predict_proba(["..."])\n```\n',
        f"Written as `sklearn`, opened again by `open_classifier.py` and checked: {checked}.\n",
        *render_history_sections(artifact, measures),
        "## Licence\n\n" + "\n".join(format_data_licences(list_lineage(artifact))) + "\n",
    ]
    return "\n".join(part for part in parts if part)
