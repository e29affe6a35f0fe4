"""Sealed documents: whatever they say is read back, and no byte of them changes unseen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import CorruptArtifact
from luthier.core.files import dump_json_with_checksum, load_json_with_checksum, write_atomically

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
documents = st.dictionaries(st.text().filter(lambda name: name != "seal"), values, max_size=5)


@given(documents)
def test_a_sealed_document_is_read_back(document: dict[str, Any]) -> None:
    assert load_json_with_checksum(dump_json_with_checksum(document), "here") == document


@given(documents, st.data())
def test_any_changed_byte_is_found(document: dict[str, Any], data: st.DataObject) -> None:
    whole = bytearray(dump_json_with_checksum(document))
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptArtifact) as caught:
        load_json_with_checksum(bytes(whole), "manifest.json")
    assert caught.value.where.file == "manifest.json"


@given(documents, st.data())
def test_a_document_cut_short_or_made_longer_is_found(document: dict[str, Any], data: st.DataObject) -> None:
    whole = dump_json_with_checksum(document)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    for changed in (cut, whole + data.draw(st.binary(min_size=1, max_size=3))):
        with pytest.raises(CorruptArtifact):
            load_json_with_checksum(changed, "here")


@pytest.mark.parametrize("data", [b"", b"[]", b"3", b"{}", b'{"a": 1}', b"\xff", b'{"a": 1e999}', b'{"a": "\\ud800"}'])
def test_what_was_never_sealed_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptArtifact):
        load_json_with_checksum(data, "here")


def test_writing_aside_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [found.name for found in path.parent.iterdir()] == ["file"]
