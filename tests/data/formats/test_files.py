"""Files wherever they lie, packed or not: the same rows, and no bomb, link or wrong name gets through."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import stat
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from luthier.artifacts import parquet
from luthier.core.errors import DataError, LuthierError
from luthier.data.columns.recognize import recognize_path_source_kind
from luthier.data.formats import archives
from luthier.data.formats.files import SourceFile
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import Source

TEXT = "text,label\n" + "".join(f"question {n},yes\n" for n in range(2000))
ROWS = [{"text": f"question {n}", "label": "yes"} for n in range(2000)]


def _zip(data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._rows.csv", "x")
        archive.writestr("folder/rows.csv", data)
    return made.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    "zip": _zip,
}


def _rows(settings: dict[str, Any], base: Path) -> list[dict[str, Any]]:
    found = list(Source.parse(settings).read(base, lambda text: None))
    assert all(isinstance(one, SourceRecord) for one in found), found[:3]
    return [one.values for one in found if isinstance(one, SourceRecord)]


@pytest.mark.parametrize("ending", sorted(PACKERS))
@pytest.mark.parametrize("named", ["rows.csv.{}", "rows.csv"])
def test_packed_files_are_known_by_their_content(tmp_path: Path, ending: str, named: str) -> None:
    name = named.format(ending)
    (tmp_path / name).write_bytes(PACKERS[ending](TEXT.encode()))
    assert _rows({"kind": "csv", "path": name}, tmp_path) == ROWS
    assert SourceFile(tmp_path / name, name).ending == ".csv"


def test_several_members_of_a_gzip_follow_each_other(tmp_path: Path) -> None:
    half = len(TEXT) // 2
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(TEXT[:half].encode()) + gzip.compress(TEXT[half:].encode()))
    assert _rows({"kind": "csv", "path": "rows.csv.gz"}, tmp_path) == ROWS


@pytest.mark.parametrize("ending", sorted(PACKERS))
def test_a_packed_file_cut_short_is_one_clear_error(tmp_path: Path, ending: str) -> None:
    (tmp_path / "rows.csv").write_bytes(PACKERS[ending](TEXT.encode())[:-60])
    with pytest.raises(DataError) as caught:
        list(Source.parse({"kind": "csv", "path": "rows.csv"}).read(tmp_path, lambda text: None))
    assert caught.value.where.file == "rows.csv"
    assert "pack it again" in caught.value.hint


def test_parquet_and_sheets_may_be_packed(tmp_path: Path) -> None:
    import polars as pl

    pl.DataFrame(ROWS).write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.parquet.zst").write_bytes(PACKERS["zst"]((tmp_path / "rows.parquet").read_bytes()))
    assert _rows({"kind": "parquet", "path": "rows.parquet.zst"}, tmp_path) == ROWS


@pytest.mark.parametrize("ending", sorted(PACKERS))
def test_a_bomb_is_refused_before_it_is_big(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "RATIO_FREE_BYTES", 1 << 20)
    line = b"some text,yes\n"
    (tmp_path / "rows.csv").write_bytes(PACKERS[ending](b"text,label\n" + line * (8_000_000 // len(line))))
    seen: deque[SourceRecord | BrokenRow] = deque(maxlen=1)
    with pytest.raises(DataError, match="refused as a zip bomb") as caught:
        seen.extend(Source.parse({"kind": "csv", "path": "rows.csv"}).read(tmp_path, lambda text: None))
    assert "unpack it yourself" in caught.value.hint
    assert not seen or seen[0].line < 4_000_000 // len(line)


def test_a_text_that_stands_once_for_many_rows_is_a_bomb_in_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr(archives, "RATIO_FREE_BYTES", 1 << 20)
    long, path = "a b " * 5_000, tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": [long] * 5_000, "label": ["yes", "no"] * 2_500}), path, compression="zstd")
    seen: deque[SourceRecord | BrokenRow] = deque(maxlen=1)
    with pytest.raises(DataError, match="refused as a zip bomb") as caught:
        seen.extend(Source.parse({"kind": "parquet", "path": "rows.parquet"}).read(tmp_path, lambda text: None))
    assert "as JSON lines" in caught.value.hint
    assert not seen or seen[0].line < 2_500


@pytest.mark.parametrize("deep", [False, True])
def test_rows_with_one_long_text_are_read_few_at_a_time(tmp_path: Path, deep: bool) -> None:
    import pyarrow.parquet as pq

    long, path = "a b " * 200_000, tmp_path / "rows.parquet"
    value = [{"by": "me", "said": long}, {"by": "you", "said": "no"}] if deep else long
    pq.write_table(pa.table({"text": [value] * 120}), path, dictionary_pagesize_limit=1 << 30)
    with path.open("rb") as opened, pq.ParquetFile(opened) as file:
        careless = max(batch.nbytes for batch in parquet.read_parquet_batches(file, 1024))
        found = list(
            parquet.read_parquet_batches(file, 1024, kept=parquet.reopen_with_dictionary_columns(opened, file))
        )
    assert careless > 2 * parquet.BATCH_BYTES
    assert max(batch.nbytes for batch in found) < 1.1 * parquet.BATCH_BYTES
    assert sum(batch.num_rows for batch in found) == 120


def _archive(path: Path, *members: tuple[str, str, int]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("../../rows.csv", TEXT, 0)], "leads out of the archive"),
        ([("/etc/rows.csv", TEXT, 0)], "leads out of the archive"),
        ([("rows.csv", "/etc/passwd", stat.S_IFLNK | 0o777)], "is a link"),
    ],
)
def test_members_that_climb_or_link_are_refused(tmp_path: Path, members: Any, problem: str) -> None:
    _archive(tmp_path / "rows.zip", *members)
    with pytest.raises(DataError, match=problem):
        _rows({"kind": "csv", "path": "rows.zip"}, tmp_path)


def test_a_locked_member_is_said(tmp_path: Path) -> None:
    _archive(tmp_path / "rows.zip", ("a.csv", TEXT, 0))
    data = bytearray((tmp_path / "rows.zip").read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + place] |= 1
    (tmp_path / "rows.zip").write_bytes(data)
    with pytest.raises(DataError, match="locked with a password"):
        _rows({"kind": "csv", "path": "rows.zip"}, tmp_path)


def test_a_folder_and_a_pattern_read_their_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "b.csv").write_text("text,label\nb,x\nbb,x\n")
    (tmp_path / "in" / "deep" / "a.csv.gz").write_bytes(gzip.compress(b"text,label\na,x\naa,x\n"))
    (tmp_path / "in" / "note.pdf").write_text("x")
    (tmp_path / "in" / ".hidden.csv").write_text("text,label\nc,x\ncc,x\n")
    for path in ("in", "in/", "in/**/*.csv*", str(tmp_path / "in" / "**" / "*.csv*")):
        found = list(Source.parse({"kind": "csv", "path": path}).read(tmp_path, lambda text: None))
        assert [one.values["text"] for one in found if isinstance(one, SourceRecord)] == ["b", "bb", "a", "aa"], path
        assert Source.parse({"kind": "csv", "path": path}).fingerprint(tmp_path)
        assert Source.parse({"kind": "csv", "path": path}).size(tmp_path)
    with pytest.raises(DataError, match="holds no file"):
        _rows({"kind": "csv", "path": "in/*.tsv"}, tmp_path)


@pytest.mark.parametrize("path", ["in", "in/*.csv", "in/../*.csv"])
def test_what_leads_out_of_a_folder_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text(TEXT)
    (tmp_path / "secret.csv").write_text(TEXT)
    (tmp_path / "in" / "link.csv").symlink_to(tmp_path / "secret.csv")
    if path == "in/../*.csv":
        assert len(_rows({"kind": "csv", "path": path}, tmp_path)) == 2000  # the recipe itself names that folder
        return
    with pytest.raises(DataError, match="leads out of the folder"):
        _rows({"kind": "csv", "path": path}, tmp_path)


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def test_files_behind_a_url(memory: Any, tmp_path: Path) -> None:
    memory.pipe_file("/bucket/rows.csv.gz", gzip.compress(TEXT.encode()))
    memory.pipe_file("/bucket/more/rows.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in ROWS))
    for settings in (
        {"kind": "csv", "path": "memory://bucket/rows.csv.gz"},
        {"kind": "csv", "path": "memory://bucket/*.csv.gz"},
        {"kind": "jsonl", "path": "memory://bucket/more"},
        {"kind": "jsonl", "path": "memory://bucket"},
    ):
        assert _rows(settings, tmp_path) == ROWS
    found = next(iter(Source.parse({"kind": "csv", "path": "memory://bucket"}).read(tmp_path, lambda text: None)))
    assert found.file == "memory://bucket/rows.csv.gz"


def test_a_fingerprint_behind_a_url_follows_the_content_and_not_the_time(memory: Any, tmp_path: Path) -> None:
    source = Source.parse({"kind": "csv", "path": "memory://bucket/rows.csv"})
    memory.pipe_file("/bucket/rows.csv", TEXT.encode())
    before = source.fingerprint(tmp_path)
    memory.pipe_file("/bucket/rows.csv", TEXT.encode())
    assert source.fingerprint(tmp_path) == before
    memory.pipe_file("/bucket/rows.csv", TEXT.replace("yes", "no!").encode())
    assert source.fingerprint(tmp_path) != before
    assert source.size(tmp_path) == len(TEXT)


@pytest.mark.parametrize("path", ["memory://bucket/none.csv", "memory://bucket/*.csv", "nosuch://bucket/rows.csv"])
def test_a_url_that_leads_nowhere_is_one_clear_error(memory: Any, tmp_path: Path, path: str) -> None:
    with pytest.raises(LuthierError) as caught:
        _rows({"kind": "csv", "path": path}, tmp_path)
    assert caught.value.where.file
    assert caught.value.hint


def test_a_url_of_this_machine_and_one_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.csv").write_text(TEXT)
    assert _rows({"kind": "csv", "path": f"file://{tmp_path}/rows.csv"}, Path("/nowhere")) == ROWS
    monkeypatch.setenv("ROWS", f"file://{tmp_path}/rows.csv")
    found = next(iter(Source.parse({"kind": "csv", "path": "$ROWS"}).read(tmp_path, lambda text: None)))
    assert isinstance(found, SourceRecord)


def test_a_password_in_a_url_is_not_shown(tmp_path: Path) -> None:
    path = "ftp://ann:hunter2@127.0.0.1:9/rows.csv"
    with pytest.raises(LuthierError) as caught:
        _rows({"kind": "csv", "path": path}, tmp_path)
    assert "hunter2" not in str(caught.value)


def _several(path: Path, files: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._a.csv", "x")
        for name, content in files.items():
            archive.writestr(name, content)


def test_files_of_a_zip_are_read_as_those_of_a_folder(tmp_path: Path) -> None:
    files = {"2024/feb.csv": "text,label\nb,yes\n", "2024/jan.csv": "text,label\na,no\n", "2023/dec.csv": "text\nc\n"}
    _several(tmp_path / "t.zip", {**files, "about.txt": "rows of some months"})
    wanted = {
        "t.zip": ["c", "b", "a"],
        "t.zip/2024": ["b", "a"],
        "t.zip/2024/*.csv": ["b", "a"],
        "t.zip/2024/jan.csv": ["a"],
    }
    for path, texts in wanted.items():
        assert [row["text"] for row in _rows({"kind": "csv", "path": path}, tmp_path)] == texts
    source = Source.parse({"kind": "csv", "path": "t.zip/2024/jan.csv"})
    assert source.size(tmp_path) == len(files["2024/jan.csv"])
    before = source.fingerprint(tmp_path)
    _several(tmp_path / "t.zip", {**files, "2024/feb.csv": "text,label\nx,yes\n"})
    assert source.fingerprint(tmp_path) == before
    _several(tmp_path / "t.zip", {**files, "2024/jan.csv": "text,label\nx,yes\n"})
    assert source.fingerprint(tmp_path) != before
    with pytest.raises(DataError, match="no file") as caught:
        _rows({"kind": "csv", "path": "t.zip/2024/mar.csv"}, tmp_path)
    assert "2024/feb.csv" in caught.value.hint


def test_a_zip_is_recognised_by_what_it_holds(tmp_path: Path) -> None:
    rows = "".join(f"question {n},{'no' if n % 2 else 'yes'}\n" for n in range(8))
    same = {"b.csv": f"text,label\n{rows}", "a.csv": f"label,text\n{rows}"}
    _several(tmp_path / "t.zip", same)
    assert recognize_path_source_kind("t.zip", tmp_path) == "csv"
    _several(tmp_path / "t.zip", {**same, "c.csv": f"city,since\n{rows}"})
    with pytest.raises(DataError, match=r"different columns .*c\.csv: city, since") as caught:
        recognize_path_source_kind("t.zip", tmp_path)
    assert "t.zip/a.csv" in caught.value.hint
    assert recognize_path_source_kind("t.zip/c.csv", tmp_path) == "csv"
    _several(tmp_path / "t.zip", {**same, "about.txt": "hello there\n"})
    with pytest.raises(DataError, match=r"several kinds: .*about\.txt \(text\)"):
        recognize_path_source_kind("t.zip", tmp_path)


def test_a_zip_of_very_many_files_is_to_be_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.data.formats.files.MOST_INSIDE", 2)
    _several(tmp_path / "t.zip", {f"{n}.csv": "text,label\na,b\n" for n in range(3)})
    with pytest.raises(DataError, match="holds 3 files") as caught:
        recognize_path_source_kind("t.zip", tmp_path)
    assert "unpack it" in caught.value.hint
