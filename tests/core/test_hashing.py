"""Digests: the same for the same, another for another, whatever the order in which it is said."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.core.hashing import canonical_json, digest_of, digest_package_code, file_digest, files_digest

documents = st.dictionaries(st.text(), st.integers() | st.text() | st.booleans() | st.none(), max_size=6)


@given(documents, st.randoms())
def test_the_order_of_keys_does_not_matter(document: dict[str, Any], chance: Any) -> None:
    items = list(document.items())
    chance.shuffle(items)
    assert digest_of(dict(items)) == digest_of(document)


@given(documents, documents)
def test_different_values_have_different_digests(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (digest_of(one) == digest_of(other)) == (canonical_json(one) == canonical_json(other))


def test_the_text_of_a_value_is_fixed() -> None:
    assert canonical_json({"b": [1, None], "a": "é"}) == '{"a":"é","b":[1,null]}'
    assert digest_of([1]) == hashlib.sha256(b"[1]").hexdigest()[:32]
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_a_file_is_named_by_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    (tmp_path / "file").write_bytes(data)
    assert file_digest(tmp_path / "file") == xxhash.xxh3_128_hexdigest(data)
    with pytest.raises(DataError, match="cannot be read"):
        file_digest(tmp_path / "none")


def test_several_files_are_named_by_names_and_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1")
    other.write_text("2")
    first = files_digest([one, other], tmp_path)
    assert files_digest([other, one], tmp_path) == first
    one.rename(tmp_path / "third")
    assert files_digest([tmp_path / "third", other], tmp_path) != first


def test_changed_code_or_a_changed_template_has_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "room_of_digests"
    package.mkdir()
    (package / "__init__.py").write_text("x = 1\n")
    (package / "page.jinja").write_text("hello")
    monkeypatch.syspath_prepend(tmp_path)

    def now() -> str:
        digest_package_code.cache_clear()
        return digest_package_code("room_of_digests")

    first = now()
    (package / "__pycache__").mkdir(exist_ok=True)
    (package / "__pycache__" / "x.pyc").write_bytes(b"compiled")
    assert now() == first
    (package / "page.jinja").write_text("good day")
    second = now()
    (package / "__init__.py").write_text("x = 2\n")
    assert len({first, second, now()}) == 3
    assert "room_of_digests" not in sys.modules
