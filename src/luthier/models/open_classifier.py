"""Open a plain classifier as the scikit-learn pipeline that was fitted. Needs numpy, safetensors and scikit-learn.

    from open_classifier import open_pipeline

    pipeline = open_pipeline(".")
    pipeline.predict(["Where is my parcel?"]), pipeline.predict_proba(["Where is my parcel?"])

An export holds this file as it is, so that it opens without Luthier: `python open_classifier.py "Where is my parcel?"`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SETTINGS_FILE = "classifier.json"
"""Settings, classes, and the vocabulary in column order."""
WEIGHTS_FILE = "classifier.safetensors"
"""`idf` (terms,), `coef` (classes, terms; one row for two classes) and `intercept` (classes,), in float64."""
FORMAT = 1


def open_pipeline(folder: str | Path) -> Any:
    """Return scikit-learn's fitted `Pipeline`: `predict` and `predict_proba` return what they did after fitting."""
    import numpy as np
    from safetensors.numpy import load_file
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    config = json.loads((Path(folder) / SETTINGS_FILE).read_text(encoding="utf-8"))
    if config["format"] != FORMAT:
        raise ValueError(f"{SETTINGS_FILE}: expected format {FORMAT}, got {config['format']!r}; use the file beside it")
    arrays = load_file(Path(folder) / WEIGHTS_FILE)
    settings = {**config["vectorizer"], "ngram_range": tuple(config["vectorizer"]["ngram_range"])}
    vocabulary = {term: column for column, term in enumerate(config["vocabulary"])}
    vectorizer = TfidfVectorizer(**settings, vocabulary=vocabulary)
    vectorizer.idf_ = arrays["idf"]
    regression = LogisticRegression(**config["classifier"])
    regression.classes_ = np.array(config["classes"])
    regression.coef_, regression.intercept_ = arrays["coef"], arrays["intercept"]
    regression.n_features_in_ = arrays["coef"].shape[1]
    return make_pipeline(vectorizer, regression)


def main() -> None:
    """Print the classes of each text on the command line, likeliest first."""
    pipeline = open_pipeline(Path(__file__).parent)
    for text, row in zip(sys.argv[1:], pipeline.predict_proba(sys.argv[1:]), strict=True):
        ranked = sorted(zip(row, pipeline.classes_, strict=True), reverse=True)
        sys.stdout.write(f"{text}\t{', '.join(f'{name} {share:.3f}' for share, name in ranked)}\n")


if __name__ == "__main__":
    main()
