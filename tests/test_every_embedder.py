"""Every embedder keeps an embedder's promises: a point depends on its text and the space alone, bit by bit."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from documented import undescribed
from luthier.core.component import components_by_kind
from luthier.models.embeddings.base import Embedder, EmbeddingSpace, load_space, save_space
from tiny_models import tickets, tiny_encoder

ROOT = Path(__file__).parent.parent
KINDS = sorted(components_by_kind(Embedder))
TEXTS = [row["message"] for row in tickets(70)]
HARD = ["", "   ", "x", "???", "\u200b", "ß" * 300, "word " * 500, "我想退款", "a\nb\tc"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("embedder") / "tiny").parent


@pytest.fixture(scope="module", params=KINDS)
def embedder(request: pytest.FixtureRequest) -> Embedder:
    settings = {"model": "tiny"} if "model" in components_by_kind(Embedder)[request.param].model_fields else {}
    return components_by_kind(Embedder)[request.param].model_validate(settings)


@pytest.fixture(scope="module")
def space(embedder: Embedder, folder: Path) -> EmbeddingSpace:
    return embedder.space(TEXTS, recipe_dir=folder, seed=3)


def test_it_is_documented_and_its_settings_come_back(embedder: Embedder) -> None:
    member = type(embedder)
    assert member.summary()
    assert undescribed(member) == []
    assert Embedder.parse(embedder.settings()) == embedder


def test_it_stands_in_the_reference(embedder: Embedder) -> None:
    page = (ROOT / "docs" / "reference" / "embedder.md").read_text(encoding="utf-8")
    section = page.partition(f"## `{embedder.kind}`\n")[2].partition("\n## ")[0]
    assert type(embedder).summary() in section


def test_points_are_unit_vectors_or_nothing(space: EmbeddingSpace) -> None:
    points = space.points([*TEXTS, *HARD])
    assert points.dtype == np.float32
    assert points.shape == (len(TEXTS) + len(HARD), space.width)
    lengths = np.linalg.norm(points, axis=1)
    assert np.all((np.abs(lengths - 1) < 1e-5) | (lengths == 0))
    assert (lengths[: len(TEXTS)] > 0).mean() > 0.9
    assert space.points([]).shape == (0, space.width)


def test_neither_order_nor_company_changes_a_bit(space: EmbeddingSpace) -> None:
    texts = [*TEXTS, *HARD]
    whole = space.points(texts)
    order = random.Random(1).sample(range(len(texts)), len(texts))
    assert np.array_equal(space.points([texts[at] for at in order]), whole[order])
    for size in (1, 3, 50):
        parts = [space.points(texts[at : at + size]) for at in range(0, len(texts), size)]
        assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(space.points([texts[5], texts[5], texts[0]]), whole[[5, 5, 0]])


def test_the_space_is_the_same_whatever_the_order_of_what_it_is_learnt_from(
    embedder: Embedder, folder: Path, space: EmbeddingSpace
) -> None:
    turned = embedder.space(TEXTS[::-1], recipe_dir=folder, seed=3)
    assert np.array_equal(turned.points(TEXTS), space.points(TEXTS))


def test_a_text_is_nearest_to_itself_with_one_word_more(space: EmbeddingSpace) -> None:
    texts = [row["message"] for row in tickets(40, seed=9)]
    like = space.points([f"{text} please" for text in texts]) @ space.points(texts).T
    assert (like.argmax(axis=1) == np.arange(len(texts))).mean() > 0.7


def test_a_space_of_few_texts_and_of_none(embedder: Embedder, folder: Path) -> None:
    for texts in ([], [""], ["one"], ["one two", "two three"]):
        points = embedder.points(texts, recipe_dir=folder, seed=0)
        assert len(points) == len(texts)
        assert np.isfinite(points).all()


def test_a_kept_space_makes_the_same_points(
    embedder: Embedder, folder: Path, space: EmbeddingSpace, tmp_path: Path
) -> None:
    save_space(embedder, space, tmp_path / "space", recipe_dir=folder)
    again = load_space(tmp_path / "space", recipe_dir=folder)
    assert again.embedder == embedder
    assert again.space.width == space.width
    assert np.array_equal(again.space.points([*TEXTS, *HARD]), space.points([*TEXTS, *HARD]))
    before = {path.name: path.read_bytes() for path in (tmp_path / "space").iterdir()}
    save_space(again.embedder, again.space, tmp_path / "space", recipe_dir=folder)
    assert {path.name: path.read_bytes() for path in (tmp_path / "space").iterdir()} == before
