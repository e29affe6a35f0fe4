"""Spaces kept in folders: the same points afterwards, and nothing that only looks whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import CorruptArtifact, ModelError
from luthier.core.files import dump_json_with_checksum
from luthier.models.embedders.encoder import EncoderEmbedder
from luthier.models.embedders.lsa import LsaEmbedder
from luthier.models.embeddings.base import Embedder, load_space, save_space
from tiny_models import tickets, tiny_encoder

TEXTS = [row["message"] for row in tickets(60)]


def kept(folder: Path, texts: list[str] = TEXTS, embedder: Embedder | None = None) -> Path:
    embedder = embedder or LsaEmbedder(dimensions=16)
    save_space(embedder, embedder.space(texts, recipe_dir=folder, seed=2), folder / "space", recipe_dir=folder)
    return folder / "space"


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=())), max_size=6),
    asked=st.lists(st.text(), max_size=4),
    pieces=st.booleans(),
    texts_a_dimension=st.integers(1, 3),
)
def test_any_texts_come_back_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], asked: list[str], pieces: bool, texts_a_dimension: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    embedder = LsaEmbedder(pieces=pieces, texts_a_dimension=texts_a_dimension)
    space = embedder.space(texts, recipe_dir=folder, seed=0)
    save_space(embedder, space, folder / "space", recipe_dir=folder)
    again = load_space(folder / "space", recipe_dir=folder)
    assert np.array_equal(again.space.points([*asked, *texts]), space.points([*asked, *texts]))


def test_the_same_space_is_the_same_bytes(tmp_path: Path) -> None:
    one, two = kept(tmp_path / "one"), kept(tmp_path / "two", TEXTS[::-1])
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    assert not any("pickle" in name or name.endswith(".pkl") for name in names)


@pytest.mark.parametrize("name", ["terms.json", "numbers.safetensors", "space.json"])
def test_a_changed_or_missing_file_is_told(tmp_path: Path, name: str) -> None:
    folder = kept(tmp_path)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(CorruptArtifact, match="differs") as told:
        load_space(folder, recipe_dir=tmp_path)
    assert name in str(told.value)
    (folder / name).unlink()
    with pytest.raises(CorruptArtifact, match=r"missing|No such file"):
        load_space(folder, recipe_dir=tmp_path)


def test_what_a_kill_left_half_done_is_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kept(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LsaEmbedder, "keep", killed)
    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path, TEXTS[:20])
    with pytest.raises(CorruptArtifact, match="no space was kept here"):
        load_space(folder, recipe_dir=tmp_path)


def test_a_space_of_a_later_version_is_refused(tmp_path: Path) -> None:
    folder = kept(tmp_path)
    told = json.loads((folder / "space.json").read_text())
    del told["seal"]
    (folder / "space.json").write_bytes(dump_json_with_checksum({**told, "format": 2}))
    with pytest.raises(CorruptArtifact, match="format 2"):
        load_space(folder, recipe_dir=tmp_path)


def test_other_weights_than_those_it_was_kept_with_are_told(tmp_path: Path) -> None:
    tiny_encoder(tmp_path / "tiny")
    folder = kept(tmp_path, embedder=EncoderEmbedder(model="tiny"))
    assert load_space(folder, recipe_dir=tmp_path).embedder == EncoderEmbedder(model="tiny")
    tiny_encoder(tmp_path / "tiny", seed=1)
    with pytest.raises(ModelError, match="weights of the embedder `encoder` are others"):
        load_space(folder, recipe_dir=tmp_path)


def test_a_space_of_another_embedder_is_not_kept_as_ones_own(tmp_path: Path) -> None:
    tiny_encoder(tmp_path / "tiny")
    space = EncoderEmbedder(model="tiny").space([], recipe_dir=tmp_path, seed=0)
    with pytest.raises(TypeError, match="SentenceEncoder"):
        save_space(LsaEmbedder(), space, tmp_path / "space", recipe_dir=tmp_path)
