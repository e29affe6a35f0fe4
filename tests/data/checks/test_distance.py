"""Checks that lay rows out as points, by an encoder: distances beside scikit-learn's, and what is seen through it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from luthier.core.errors import ModelError
from luthier.data.checks.distance import EmbeddingOutliers, mean_neighbor_distance
from luthier.data.checks.shift import DistributionShift
from luthier.data.validate.context import CheckData, CheckRow
from luthier.models.embedders.encoder import EncoderEmbedder
from tests.test_every_check import _shuffled_splits, clean_rows
from tiny_models import tiny_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoders") / "tiny").parent


@pytest.fixture(scope="module")
def rows() -> list[CheckRow]:
    return _shuffled_splits(clean_rows("label", 160), 1)


def looked_at(rows: Sequence[CheckRow], folder: Path) -> CheckData:
    return CheckData(rows, task="label", seed=0, recipe_dir=folder)


def test_distances_are_those_of_scikit_learn(folder: Path, rows: list[CheckRow]) -> None:
    from sklearn.neighbors import NearestNeighbors

    points = looked_at(rows, folder).points(EncoderEmbedder(model="tiny"))
    theirs, _ = NearestNeighbors(n_neighbors=6, metric="cosine").fit(points).kneighbors(points)
    assert np.abs(mean_neighbor_distance(points, 5, piece=32) - theirs[:, 1:].mean(axis=1)).max() < 1e-4


def test_the_real_encoder_finds_the_one_row_of_another_topic(minilm: str, rows: list[CheckRow]) -> None:
    odd = rows[0].saying(prompt="Sing of the wrath of Achilles, goddess, that brought countless woes upon the Greeks")
    data = CheckData([odd, *rows[1:]], task="label")
    (found,) = EmbeddingOutliers(embedder=EncoderEmbedder(model=minilm), far=3).look(data)
    assert "the embedder `encoder`" in found.finding.sentence
    assert found.marks[0][0].id == odd.id


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0.3, 0.72), (1.0, 0.9, 1.0)])
def test_shift_is_seen_through_an_encoder(
    folder: Path, rows: list[CheckRow], share: float, low: float, high: float
) -> None:
    moved = [
        row.saying(prompt=f"? ? ? {row.messages[0].content} ! ! !") if row.split == "test" and share else row
        for row in rows
    ]
    (found,) = DistributionShift(embedder=EncoderEmbedder(model="tiny")).look(looked_at(moved, folder))
    assert low <= found.finding.numbers["shift"].value <= high
    assert found.finding.severity == ("serious" if share else "info")


@pytest.mark.parametrize("check", [DistributionShift, EmbeddingOutliers])
def test_an_encoder_that_is_not_there_is_told(
    folder: Path, rows: list[CheckRow], check: type[DistributionShift] | type[EmbeddingOutliers]
) -> None:
    with pytest.raises(ModelError, match="no folder"):
        list(check(embedder=EncoderEmbedder(model="./none")).look(looked_at(rows, folder)))
