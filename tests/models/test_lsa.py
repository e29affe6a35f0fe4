"""Points without a model: beside scikit-learn's own pipeline, and what they know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from luthier.models.embedders.lsa import LsaEmbedder
from tiny_models import tickets

TEXTS = [row["message"] for row in tickets(80)]


def test_points_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import Normalizer

    ordered = sorted(TEXTS)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=20_000)
    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, max_features=50_000)
    pipeline = make_pipeline(make_union(words, pieces), Normalizer(), TruncatedSVD(8, random_state=5), Normalizer())
    theirs = pipeline.fit_transform(ordered)
    ours = LsaEmbedder(dimensions=8).points(ordered, recipe_dir=Path(), seed=5)
    assert np.abs(ours - theirs).max() < 1e-5


def test_other_forms_are_near_and_other_words_are_not() -> None:
    space = LsaEmbedder().space(TEXTS, recipe_dir=Path(), seed=0)
    points = space.points(
        ["Where is the parcel", "where are the parcels?", "My pasword is wrong", "My password is wrong"]
    )
    like = points @ points.T
    assert like[0, 1] > 0.6
    assert like[2, 3] > 0.6
    assert like[0, 2] < 0.4
    words = LsaEmbedder(pieces=False).space(TEXTS, recipe_dir=Path(), seed=0)
    without = words.points(["My pasword is wrong", "My password is wrong"])
    assert without[0] @ without[1] < like[2, 3]


def test_what_no_text_has_lies_nowhere() -> None:
    points = LsaEmbedder().space(TEXTS, recipe_dir=Path(), seed=0).points(["zzq xxv wwk", "Where is the parcel"])
    assert not points[0].any()
    assert points[1].any()


@pytest.mark.parametrize(
    "texts", [["a b c d"] * 9, ["a b c d"] * 8 + ["A  b c d"], ["one two", "one two", "one two three"]]
)
def test_texts_without_a_difference_are_points_all_the_same(texts: list[str]) -> None:
    """Their variance is nothing, by which scikit-learn divides; a warning is an error here."""
    points = LsaEmbedder().points(texts, recipe_dir=Path(), seed=0)
    assert np.isfinite(points).all()
    assert np.allclose(points[0] @ points[1], 1)


def test_of_many_texts_a_draw_by_content_is_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LsaEmbedder().space(TEXTS, recipe_dir=Path(), seed=0)
    monkeypatch.setattr(LsaEmbedder, "learns_from", 40)
    space = LsaEmbedder().space(TEXTS, recipe_dir=Path(), seed=0)
    again = LsaEmbedder().space(TEXTS[::-1], recipe_dir=Path(), seed=0)
    assert space.width == 40 < whole.width
    assert np.array_equal(space.points(TEXTS), again.points(TEXTS))
    assert LsaEmbedder(dimensions=3).space(TEXTS, recipe_dir=Path(), seed=0).width == 3
    assert LsaEmbedder(texts_a_dimension=8).space(TEXTS, recipe_dir=Path(), seed=0).width == 5
