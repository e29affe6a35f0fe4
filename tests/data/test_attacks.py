"""Files made to do harm or spoilt on the way: each is one clear error or a broken row, and takes little memory."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.core.errors import DataError
from luthier.data.formats import sheets, workbook_memory
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import Source
from tests.data.source_files import as_mail, write_xlsx

SHEET = "xl/worksheets/sheet1.xml"


def _read(settings: dict[str, Any], base: Path) -> tuple[list[dict[str, Any]], list[BrokenRow]]:
    found = list(Source.parse(settings).read(base, lambda text: None))
    good = [one.values for one in found if isinstance(one, SourceRecord)]
    return good, [one for one in found if isinstance(one, BrokenRow)]


def _repacked(path: Path, changes: dict[str, Callable[[bytes], bytes]], **added: bytes) -> None:
    """Change parts of a zip, and add others."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**parts, **added}.items():
            archive.writestr(name, changes.get(name, lambda same: same)(data))


def _workbook(folder: Path, cells: str, more: bytes = b"") -> str:
    """A table of two rows, with more rows as they stand in a sheet's XML, and shared texts."""
    write_xlsx(folder / "t.xlsx", [["text", "n"], ["hello", 1]])
    texts = b'<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">%s</sst>' % more
    relation = b'<Relationship Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/sharedStrings"'
    changes = {
        SHEET: lambda data: data.replace(b"</sheetData>", cells.encode() + b"</sheetData>"),
        "xl/_rels/workbook.xml.rels": lambda data: data.replace(
            b"</Relationships>", relation + b' Target="sharedStrings.xml" Id="rIdTexts"/></Relationships>'
        ),
    }
    _repacked(folder / "t.xlsx", changes, **{"xl/sharedStrings.xml": texts})
    return "t.xlsx"


# spreadsheets


@pytest.mark.parametrize(
    "cells",
    [
        '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>',
        "<row r='500000'><c t='inlineStr' r = 'all500000'><is><t>x</t></is></c></row>",
        '<row r="200000">' + "<c><v>1</v></c>" * 400 + "</row>",
        '<x:row xmlns:x="u" r="1048576"><x:c x=">" r="&#88;FD1048576"><x:f>1+1</x:f></x:c></x:row>',
    ],
    ids=["last cell", "small letters", "without places", "in another name space"],
)
def test_a_cell_that_lies_far_away_is_refused_before_the_sheet_is_laid_out(tmp_path: Path, cells: str) -> None:
    path = _workbook(tmp_path, cells)
    with pytest.raises(DataError, match="cells spread over") as caught:
        _read({"kind": "excel", "path": path}, tmp_path)
    assert "save its rows as CSV" in caught.value.hint


def test_far_cells_without_content_do_no_harm(tmp_path: Path) -> None:
    path = _workbook(tmp_path, '<row r="1048576"><c r="XFD1048576" s="0"/><c r="A1048576"></c></row>')
    assert _read({"kind": "excel", "path": path}, tmp_path)[0] == [{"text": "hello", "n": 1}]


def test_one_long_text_that_many_cells_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f'<row r="{n}"><c r="A{n}" t="s"><v>1</v></c><c r="B{n}"><v>{n}</v></c></row>' for n in range(3, 60))
    path = _workbook(tmp_path, rows, b"<si><t>short</t></si><si><r><t>%s</t></r></si>" % (b"x" * 50_000))
    good, _ = _read({"kind": "excel", "path": path}, tmp_path)
    assert [len(row["text"]) for row in good] == [5, *[50_000] * 57]
    monkeypatch.setattr(sheets, "MOST_BYTES", 56 * 50_000)
    with pytest.raises(DataError, match="would take 2 MiB of memory; at most 2"):
        _read({"kind": "excel", "path": path}, tmp_path)


def _record(kind: int, content: bytes = b"") -> bytes:
    head = bytes([kind]) if kind < 128 else bytes([kind & 127 | 128, kind >> 7])
    return head + bytes([len(content)]) + content


def test_a_binary_sheet_is_weighed_by_its_records(tmp_path: Path) -> None:
    def cell(column: int) -> bytes:
        return _record(5, column.to_bytes(4, "little") + bytes(4) + bytes(8))

    def row(number: int) -> bytes:
        return _record(0, number.to_bytes(4, "little") + bytes(13))

    def write(last: int) -> Path:
        with zipfile.ZipFile(tmp_path / "t.xlsb", "w") as archive:
            data = row(0) + cell(0) + row(last) + cell(16_383)
            archive.writestr(
                "xl/worksheets/sheet1.bin", _record(129) + row(9) + _record(145) + data + _record(146) + row(1 << 30)
            )
            archive.writestr("xl/printerSettings/printerSettings1.bin", row(1) + cell(1) + row(1 << 30) + cell(99))
        return tmp_path / "t.xlsb"

    with write(2000).open("rb") as opened:
        workbook_memory.refuse_oversized_sheets(opened, sheets.MOST_BYTES, "t.xlsb")
    with (
        write(1_048_575).open("rb") as opened,
        pytest.raises(DataError, match="2 cells spread over 1048576 rows and 16384"),
    ):
        workbook_memory.refuse_oversized_sheets(opened, sheets.MOST_BYTES, "t.xlsb")


@pytest.mark.parametrize("spoil", [b"<broken", b"&nothing;"])
def test_a_sheet_whose_xml_is_broken_is_said(tmp_path: Path, spoil: bytes) -> None:
    path = _workbook(tmp_path, spoil.decode())
    with pytest.raises(DataError, match="its XML is broken"):
        _read({"kind": "excel", "path": path}, tmp_path)


def test_a_workbook_without_sheets_is_said(tmp_path: Path) -> None:
    path = _workbook(tmp_path, "")
    _repacked(tmp_path / path, {"xl/workbook.xml": lambda data: data.replace(b"<sheet ", b"<shoot ")})
    with pytest.raises(DataError, match="holds no sheet"):
        _read({"kind": "excel", "path": path}, tmp_path)


# archives and documents that are zips


def _flipped(path: Path, part: str) -> None:
    """Another byte in the middle of a part, so that its sum is wrong."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(part)
    data = bytearray(path.read_bytes())
    data[info.header_offset + 30 + len(part) + info.compress_size // 2] ^= 0xFF
    path.write_bytes(data)


def test_a_document_with_a_spoilt_part_is_a_broken_row(tmp_path: Path) -> None:
    import docx

    document = docx.Document()
    document.add_paragraph("Hello.")
    document.save(str(tmp_path / "t.docx"))
    _flipped(tmp_path / "t.docx", "word/document.xml")
    good, broken = _read({"kind": "docx", "path": "t.docx"}, tmp_path)
    assert good == []
    assert "save it anew" in broken[0].hint


def test_a_workbook_with_a_spoilt_part_is_said(tmp_path: Path) -> None:
    _flipped(tmp_path / _workbook(tmp_path, ""), "xl/styles.xml")
    with pytest.raises(DataError, match="cannot be unpacked to its end"):
        _read({"kind": "excel", "path": "t.xlsx"}, tmp_path)


def test_a_word_document_unfolds_no_entities_and_fetches_none(tmp_path: Path) -> None:
    import docx

    document = docx.Document()
    document.add_paragraph("before MARK after")
    (tmp_path / "secret").write_text("SECRET")
    entities = {
        "outside": f'<!ENTITY x SYSTEM "file://{tmp_path}/secret">',
        "many": '<!ENTITY a "lollollollol">'
        + "".join(f'<!ENTITY {name} "{f"&{before};" * 50}">' for before, name in ("ab", "bc", "cd", "de", "ex")),
    }
    for kind, told in entities.items():
        document.save(str(tmp_path / f"{kind}.docx"))
        start = f"?><!DOCTYPE l [{told}]>".encode()
        change = {"word/document.xml": lambda data, start=start: data.replace(b"?>", start, 1).replace(b"MARK", b"&x;")}
        _repacked(tmp_path / f"{kind}.docx", change)
        good, broken = _read({"kind": "docx", "path": f"{kind}.docx"}, tmp_path)
        assert "SECRET" not in str(good)
        assert len(str(good)) + len(str(broken)) < 2_000


# tables


def test_text_of_parquet_that_is_no_utf8_breaks_its_row_only(tmp_path: Path) -> None:
    text = pa.Array.from_buffers(pa.string(), 3, pa.array([b"one", b"t\xffo", b"three"], pa.binary()).buffers())
    pq.write_table(pa.table({"text": text, "n": [1, 2, 3]}), tmp_path / "t.parquet")
    good, broken = _read({"kind": "parquet", "path": "t.parquet"}, tmp_path)
    assert good == [{"text": "one", "n": 1}, {"text": "three", "n": 3}]
    assert [(one.line, one.field) for one in broken] == [(2, "text")]
    assert "expected text in UTF-8" in broken[0].problem


def test_an_arrow_file_that_points_out_of_itself_is_refused(tmp_path: Path) -> None:
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 3, 2_000_000_000, 9)))
    text = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"onetwosix")])
    batch = pa.RecordBatch.from_arrays([text], ["text"])
    with pa.ipc.new_file(tmp_path / "t.arrow", batch.schema) as file:
        file.write_batch(batch)
    with pytest.raises(DataError, match="is not an Arrow file that can be read"):
        _read({"kind": "arrow", "path": "t.arrow"}, tmp_path)


# mails


@pytest.mark.parametrize("kind", ["multipart", "message"])
def test_a_mail_nested_without_end_is_a_broken_row_and_the_next_is_read(tmp_path: Path, kind: str) -> None:
    parts = [_boundary(n) if kind == "multipart" else "Content-Type: message/rfc822\n\n" for n in range(3000)]
    outer = parts[0].removesuffix("\n\n--b0\n").strip()
    inner = ("--b0\n" if kind == "multipart" else "") + "".join(parts[1:])
    mails = [
        as_mail("ann@x.example", "one", "<1@x>", "", f"{inner}hello", more=f"MIME-Version: 1.0\n{outer}\n"),
        as_mail("ann@x.example", "two", "<2@x>", "", "still read"),
    ]
    (tmp_path / "t.mbox").write_text("".join(mails))
    good, broken = _read({"kind": "mbox", "path": "t.mbox"}, tmp_path)
    assert [row["messages"][0]["content"] for row in good] == ["still read"]
    assert "nested too deeply" in broken[0].problem


def _boundary(number: int) -> str:
    return f'Content-Type: multipart/mixed; boundary="b{number}"\n\n--b{number}\n'


def test_a_subject_in_an_alphabet_that_is_none_is_kept_as_it_stands(tmp_path: Path) -> None:
    subject = "=?u\udcfff-8?q?x?="
    raw = as_mail("ann@x.example", subject, "<1@x>", "", "hello").encode(errors="surrogateescape")
    (tmp_path / "t.mbox").write_bytes(raw)
    good, _ = _read({"kind": "mbox", "path": "t.mbox"}, tmp_path)
    assert "f-8" in good[0]["subject"]


def test_a_script_in_a_mail_is_neither_run_nor_read(tmp_path: Path) -> None:
    mail = EmailMessage()
    mail["From"], mail["Subject"], mail["Message-ID"] = "ann@x.example", "one", "<1@x>"
    mail.set_content("<p>hello</p><script>document.write('SCRIPT')</script><style>p {}</style>", subtype="html")
    (tmp_path / "t.mbox").write_text(f"From ann Mon Feb  3 10:00:00 2025\n{mail}\n")
    good, _ = _read({"kind": "mbox", "path": "t.mbox"}, tmp_path)
    assert good[0]["messages"][0]["content"] == "hello"


# links


@pytest.mark.parametrize("kind", ["csv", "folder"])
@pytest.mark.parametrize(
    ("target", "problem"),
    [("out", "leads out of the folder"), ("in/nothing.csv", "link to what is not there"), ("in/b.csv", "to itself")],
)
def test_links_that_lead_away_are_refused_and_none_is_passed_over(
    tmp_path: Path, kind: str, target: str, problem: str
) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.csv").write_text("text,label\na,x\nb,y\n")
    (tmp_path / "in" / "b.csv").symlink_to(tmp_path / target)
    with pytest.raises(DataError, match=problem):
        _read({"kind": kind, "path": "in"}, tmp_path)


def test_links_within_a_folder_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "a.csv").write_text("text,label\na,x\nb,y\n")
    (tmp_path / "in" / "latest").symlink_to(tmp_path / "in" / "deep")
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    os.mkfifo(tmp_path / "in" / "pipe.csv")
    assert len(_read({"kind": "csv", "path": "in"}, tmp_path)[0]) == 2


# encodings


def test_bytes_in_no_alphabet_are_read_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"First\xac line\x16 more\n")
    good, broken = _read({"kind": "text", "path": "t.txt"}, tmp_path)
    assert broken == []
    assert good[0]["text"].startswith("First")
