"""The bytes of a medium stand once in a data set, and sets made of it find them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from luthier.artifacts import media as module
from luthier.artifacts.media import MediaReader, MediaWriter, list_media_files
from luthier.chat.media_codec import KeptMedia, keep_media
from luthier.core.artifact import Artifact, Manifest, list_files
from luthier.core.errors import DataError, UnknownName
from media import picture, sound


def _artifact(folder: Path, name: str, inputs: Mapping[str, str], known: dict[str, Artifact]) -> Artifact:
    def find(digest: str) -> Artifact:
        if digest not in known:
            raise UnknownName(digest)
        return known[digest]

    folder.mkdir(exist_ok=True)
    manifest = Manifest(
        digest=name, kind="prepare", makes="dataset", settings={}, inputs=dict(inputs), reads={}, code="", seed=0,
        files=list_files(folder),
    )  # fmt: skip
    known[name] = Artifact(folder, manifest, find)
    return known[name]


def _write(folder: Path, kept: list[KeptMedia]) -> None:
    with MediaWriter(folder) as writer:
        for media, content in kept:
            writer.add(media, content)


def test_bytes_stand_once_and_are_found_by_lineage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GROUP_BYTES", 2_000)
    monkeypatch.setattr(module, "PART_BYTES", 6_000)
    monkeypatch.setattr(module, "_HELD_BYTES", 3_000)
    kept = [keep_media(picture(seed=seed)) for seed in range(20)] + [keep_media(sound(seed=seed)) for seed in range(5)]
    _write(tmp_path / "first", [*kept, *kept])
    known: dict[str, Artifact] = {}
    first = _artifact(tmp_path / "first", "first", {}, known)
    assert len(list_media_files(first)) > 2
    more = keep_media(picture(seed=99))
    _write(tmp_path / "second", [more])
    _artifact(tmp_path / "second", "second", {"data": "first"}, known)
    third = _artifact(tmp_path / "third", "third", {"data": "second", "gone": "gone"}, known)
    with MediaReader(third) as reader:
        for media, content in [*kept, more, *reversed(kept)]:
            assert reader.read(media.digest) == content
        with pytest.raises(DataError, match="0000"):
            reader.read("0" * 64)
    with MediaReader(first) as reader, pytest.raises(DataError, match=more.media.digest):
        reader.read(more.media.digest)


def test_the_same_media_are_the_same_files(tmp_path: Path) -> None:
    kept = [keep_media(picture(seed=seed)) for seed in range(3)]
    for name in ("one", "two"):
        _write(tmp_path / name, kept)
    assert [file.digest for file in list_files(tmp_path / "one")] == [
        file.digest for file in list_files(tmp_path / "two")
    ]
    _write(tmp_path / "none", [])
    assert list_files(tmp_path / "none") == []
