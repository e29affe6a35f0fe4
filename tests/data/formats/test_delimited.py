"""CSV as it comes: how it is written is found and said, and a broken row takes no good one with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.formats import delimited, dialect
from luthier.data.formats.dialect import Dialect
from luthier.data.formats.files import SourceFile
from luthier.data.row import BrokenRow, SourceRecord
from tests.linear import assert_quick


def _read(path: Path, content: str | bytes, **settings: Any) -> tuple[list[SourceRecord], list[BrokenRow], list[str]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    said: list[str] = []
    found = list(delimited.read_delimited_rows(SourceFile(path, path.name), say=said.append, **settings))
    return (
        [one for one in found if isinstance(one, SourceRecord)],
        [one for one in found if isinstance(one, BrokenRow)],
        said,
    )


def test_an_open_quote_takes_one_row_and_the_lines_behind_it_are_read(tmp_path: Path) -> None:
    good, broken, _ = _read(tmp_path / "t.csv", 'text,answer\na,b\n"open, and,b\nc,d\n"e, f",g\nh,i\n')
    assert [record.values["text"] for record in good] == ["a", "c", "e, f", "h"]
    assert [record.line for record in good] == [2, 4, 5, 6]
    assert [(one.line, "to 5, are read on their own" in one.problem) for one in broken] == [(3, True)]


def test_an_open_quote_at_the_start_of_a_long_file_loses_one_row(tmp_path: Path) -> None:
    rows = "".join(f"row {n},yes\n" for n in range(5000))
    good, broken, _ = _read(tmp_path / "t.csv", f'text,label\n"open,yes\n{rows}"quoted, too",no\n{rows}')
    assert len(good) == 10_001
    assert [one.line for one in broken] == [2]


JIRA = "Summary,Comment,Comment,Comment 2,Comment,Labels,Labels"


@pytest.mark.parametrize("between", [",", "\t", ";"])
def test_columns_of_one_name_are_numbered_and_said(tmp_path: Path, between: str) -> None:
    rows = [JIRA, *(f"late {n},a{n},b{n},c{n},d{n},e{n},f{n}" for n in range(5))]
    good, broken, said = _read(tmp_path / "t.csv", "\n".join(rows).replace(",", between))
    assert not broken
    assert good[0].values == {
        "Summary": "late 0",
        "Comment": "a0",
        "Comment 3": "b0",
        "Comment 2": "c0",
        "Comment 4": "d0",
        "Labels": "e0",
        "Labels 2": "f0",
    }
    told = "t.csv: the header names 'Comment' 3 times; the later ones are read as 'Comment 3' and 'Comment 4'"
    assert told in said


def test_names_that_come_twice_in_a_header_given_by_hand_lose_no_column(tmp_path: Path) -> None:
    good, _, said = _read(tmp_path / "t.csv", "a,b\nc,d\n", header=("text", "text"))
    assert good[0].values == {"text": "a", "text 2": "b"}
    assert any("names 'text' 2 times" in note for note in said)


def test_a_header_of_ten_thousand_like_names_is_numbered_in_linear_time() -> None:
    names = ["x"] * 5000 + [f"x {n}" for n in range(5000)]
    assert_quick(lambda: dialect.make_columns_unique(names, "t.csv", lambda _: None), 1)


def test_an_open_quote_in_the_last_row(tmp_path: Path) -> None:
    good, broken, _ = _read(tmp_path / "t.csv", 'text,label\na,b\n"open,b\n')
    assert len(good) == 1
    assert [(one.line, "never closed" in one.problem) for one in broken] == [(3, True)]


def test_lines_of_one_broken_text_do_not_become_rows(tmp_path: Path) -> None:
    text = 'text,label,more\na,b,c\n"Dear all\nI have, as you see\na "quoted" word",b,c\nd,e,f\n'
    good, broken, _ = _read(tmp_path / "t.csv", text)
    assert [record.values["text"] for record in good] == ["a", "d"]
    assert [(one.line, "lines 3 to 5 were read as this one row" in one.problem) for one in broken] == [(3, True)]


def test_a_line_of_the_open_text_that_only_looks_like_a_row_is_not_believed(tmp_path: Path) -> None:
    lines = "".join(f"good {n},yes\n" for n in range(9))
    good, broken, _ = _read(tmp_path / "t.csv", f'text,label\n"open,yes\n{lines}5" screen,no\nlast,yes\n')
    assert [record.line for record in good] == [*range(3, 12), 13]
    assert [(one.line, "opened in line 2" in one.problem) for one in broken] == [(2, False), (12, True)]


ROW = st.lists(st.sampled_from([*'",x \n', "a,b\n", '"a"', '""']), max_size=30).map("".join)


@settings(max_examples=150, deadline=None)
@given(text=ROW)
def test_every_line_is_a_row_or_broken_whatever_stands_in_it(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    good, broken, _ = _read(path, f"one,two\nfirst,row\n{text}\n", header="yes", quote='"', delimiter=",")
    lines = [one.line for one in [*good, *broken]]
    assert len(lines) == len(set(lines))
    assert good[0].values == {"one": "first", "two": "row"}
    assert all(set(record.values) == {"one", "two"} for record in good)


def test_blanks_before_quotes(tmp_path: Path) -> None:
    good, broken, _ = _read(tmp_path / "t.csv", 'text, label\n"a, b", "c"\n"d, e", "f"\n')
    assert [list(record.values.values()) for record in good] == [["a, b", "c"], ["d, e", "f"]]
    assert broken == []


@pytest.mark.parametrize("rows", [40, 300])
def test_a_comma_in_every_line_is_no_delimiter_where_the_names_have_none(tmp_path: Path, rows: int) -> None:
    mails = "".join(f'{n};"Hello,\nwhere is parcel {n}? Thanks, Ann";Delivery\n' for n in range(rows))
    good, broken, said = _read(tmp_path / "t.csv", f"Number;Text;Class\n{mails}")
    assert (len(good), broken) == (rows, [])
    assert [*good[0].values] == ["Number", "Text", "Class"]
    assert "separated by semicolon" in said[0]


def test_single_quotes_are_found_and_said(tmp_path: Path) -> None:
    good, _, said = _read(tmp_path / "t.csv", "text,label\n'a, b','x'\n'it''s','y'\n'd','z'\n")
    assert [record.values["text"] for record in good] == ["a, b", "it's", "d"]
    assert "enclosed in '" in said[0]


def test_a_table_that_does_not_quote_is_found_and_said(tmp_path: Path) -> None:
    rows = "".join(f'"{word}" he said\tyes\n' for word in ("One", "Two", "Three", "Four"))
    good, broken, said = _read(tmp_path / "t.tsv", f"text\tlabel\n{rows}")
    assert good[0].values["text"] == '"One" he said'
    assert broken == []
    assert "separated by tab and quotes are part of the text" in said[0]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("3,hello there\n4,good bye\n5,hi\n", "3"),
        ("lost my card,lost\nstolen card,lost\ngone,lost\nwhere is it,late\n", "lost my card"),
    ],
)
def test_a_file_without_header_is_found_and_said(tmp_path: Path, text: str, first: str) -> None:
    good, _, said = _read(tmp_path / "t.csv", text)
    assert good[0].values["column_1"] == first
    assert good[0].line == 1
    assert "not a header" in said[0]
    good, _, said = _read(tmp_path / "t.csv", text, header="yes")
    assert first in good[0].values
    assert said == []
    good, _, _ = _read(tmp_path / "t.csv", text, header=("one", "two"))
    assert good[0].values["one"] == first


TABLE = "id;text;label\n1;hello;x\n2;bye;y\n3;hi;x\n4;dear;y\n"


@pytest.mark.parametrize(
    ("above", "line", "said"),
    [
        ("sep=;\n", 3, ""),
        ('"sep=;"\r\n', 3, ""),
        ("Support report\nGenerated on Monday\n\n", 5, "the first 2 lines are titles above the header"),
        ("sep=;\nSupport report;;;\n", 4, "the first line is a title above the header, not data: 'Support report"),
    ],
)
def test_what_stands_above_a_header_is_left_out_and_said(tmp_path: Path, above: str, line: int, said: str) -> None:
    good, broken, notes = _read(tmp_path / "t.csv", above + TABLE)
    assert good[0].values == {"id": "1", "text": "hello", "label": "x"}
    assert (good[0].line, len(good), broken) == (line, 4, [])
    assert said in " ".join(notes)


@pytest.mark.parametrize("text", ["a;b\n1;2;3\n4;5;6\n7;8;9\n", "hello;\nyou;x\nme;y\nhim;x\n", "one\ntwo\n"])
def test_a_first_row_that_may_be_one_is_no_title(tmp_path: Path, text: str) -> None:
    assert delimited.detect_delimited_format(_file(tmp_path / "t.csv", text)).above == 0


@pytest.mark.parametrize(
    "text",
    [
        "text,label\nhello,greeting\nbye,farewell\nhi,greeting\n",
        "id,2024,2025\na,1,2\nb,3,4\n",
        "text,label\nhello,x\ntext,label\nbye,y\n",
        "a,b\n",
        f"Timestamp,{'What was the matter, and what did you do? ' * 4!r}\n".replace("'", '"')
        + "".join(f"3/{day}/2025 8:00:00,It broke.\n" for day in (1, 2, 3)),
    ],
)
def test_a_header_is_taken_as_one(tmp_path: Path, text: str) -> None:
    rows = text.splitlines()
    written = delimited.detect_delimited_format(_file(tmp_path / "t.csv", text))
    if rows[0].startswith("id,2024"):
        assert written.header is False, "numbers above numbers"
    else:
        assert written.header is True


def _file(path: Path, text: str) -> SourceFile:
    path.write_text(text)
    return SourceFile(path, path.name)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1", "utf-8-sig"])
def test_encodings_are_found(tmp_path: Path, encoding: str) -> None:
    rows = "".join(f"Grüße aus der Stadt {n},ja\n" for n in range(40))
    good, broken, said = _read(tmp_path / "t.csv", f"text,label\n{rows}".encode(encoding))
    assert [record.values["text"] for record in good] == [f"Grüße aus der Stadt {n}" for n in range(40)]
    assert broken == []
    assert len(said) == (encoding != "utf-8-sig")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "Где мой заказ? Я жду его уже две недели"),
        ("koi8_r", "Где мой заказ? Я жду его уже две недели"),
        ("cp1250", "Gdzie jest moje zamówienie? Czekam już dwa tygodnie, źle"),
        ("cp1253", "Πού είναι η παραγγελία μου; Περιμένω δύο εβδομάδες"),
        ("gb18030", "我的订单在哪里？我已经等了两个星期了"),
        ("big5", "我的訂單在哪裡？我已經等了兩個星期了"),
        ("euc_kr", "내 주문은 어디에 있나요? 벌써 2주를 기다렸어요"),
    ],
)
def test_other_scripts_are_found_by_their_letters(tmp_path: Path, encoding: str, text: str) -> None:
    rows = "".join(f'"{text} {n}",yes\n' for n in range(40))
    good, _, said = _read(tmp_path / "t.csv", f"text,label\n{rows}".encode(encoding))
    assert good[0].values["text"] == f"{text} 0"
    assert "detected, because the file is not UTF-8" in said[0]


def test_mixed_encodings_name_each_foreign_line(tmp_path: Path) -> None:
    lines = [f"schön {n},ja\n".encode() for n in range(30)]
    lines[7] = "häßlich,nein\n".encode("cp1252")
    good, broken, _ = _read(tmp_path / "t.csv", b"text,label\n" + b"".join(lines))
    assert len(good) == 29
    assert [(one.line, "0xe4 at position 2 of the line is not utf-8" in one.problem) for one in broken] == [(9, True)]


def test_a_null_byte_breaks_its_row_only(tmp_path: Path) -> None:
    good, broken, _ = _read(tmp_path / "t.csv", b"text,label\na,b\nc\0c,d\n" + b"e,f\n" * 90)
    assert len(good) == 91
    assert [(one.line, "NUL" in one.problem) for one in broken] == [(3, True)]


@pytest.mark.parametrize("end", [b'"f\0,g\n', b'"\0\n', b'x\0"y,z\n', b'x,"y\n', b'"open,e\n'])
def test_an_open_quote_that_another_bad_line_closes_takes_no_good_row(tmp_path: Path, end: bytes) -> None:
    good, broken, _ = _read(tmp_path / "t.csv", b'text,label\na,b\n"open,e\nc,d\ne,f\n' + end + b"g,h\n" * 3)
    assert [record.values["text"] for record in good] == ["a", "c", "e", "g", "g", "g"]
    assert [one.line for one in broken] == [3, 6]


def test_a_null_byte_in_a_text_of_several_lines_says_which_lines_it_takes(tmp_path: Path) -> None:
    good, broken, _ = _read(tmp_path / "t.csv", b'text,label\n"a\nb\0\nc",d\n' + b"e,f\n" * 20)
    assert len(good) == 20
    assert [(one.line, "lines 2 to 4 were read as this one row" in one.problem) for one in broken] == [(2, True)]


def test_line_ends_of_old_macs(tmp_path: Path) -> None:
    good, _, _ = _read(tmp_path / "t.csv", "text,label\ra,b\rc,d\r")
    assert [list(record.values.values()) for record in good] == [["a", "b"], ["c", "d"]]


def test_a_line_of_50_mb_is_one_broken_row_in_bounded_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "t.csv"
    with path.open("wb") as file:
        file.write(b"text,label\na,b\n")
        for _ in range(50):
            file.write(b"x" * 1_000_000)
        file.write(b",c\nd,e\n")
    tracemalloc.start()
    found = list(delimited.read_delimited_rows(SourceFile(path, "t.csv")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [one.line for one in found] == [2, 3, 4]
    assert isinstance(found[1], BrokenRow)
    assert "longer than 16 MiB" in found[1].problem
    assert peak < 64 << 20


def test_a_quote_that_is_never_closed_is_read_in_bounded_memory_and_linear_time(tmp_path: Path) -> None:
    text = 'text,label\n"open,b\n' + "some words here,b\n" * 100_000
    counts = set[tuple[int, int]]()

    def read() -> None:
        good, broken, _ = _read(tmp_path / "t.csv", text)
        counts.add((len(good), len(broken)))

    assert_quick(read, 10)
    assert counts == {(100_000, 1)}


@pytest.mark.parametrize("piece", ['"', '""', '","', ",", 'a"', '"a', " "])
def test_whether_a_line_stands_is_told_in_linear_time(piece: str) -> None:
    dialect = Dialect(",", '"', spaced=True)
    assert_quick(lambda: dialect.stands(piece * 400_000 + "\n"), 2)


def test_a_row_is_told_as_an_editor_and_as_a_spreadsheet_count(tmp_path: Path) -> None:
    """Where quoted cells span lines, line 6 is row 4."""
    (tmp_path / "t.csv").write_text('text,label\n"a\nb",x\n"c\nd",y\ne,f,g\n', encoding="utf-8")
    found = list(delimited.read_delimited_rows(SourceFile(tmp_path / "t.csv", "t.csv")))
    assert [(one.line, one.row) for one in found] == [(2, None), (4, 3), (6, 4)]
    assert isinstance(found[2], BrokenRow)
    assert str(found[2].error()).startswith("t.csv:6: the row has 3 fields, the header has 2 (row 4 in a spreadsheet)")
    assert found[2].location == "line 6 (row 4)"


def test_a_line_that_no_spreadsheet_shows_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sep=;\ntext;label\na;x\nb;y\n", encoding="utf-8")
    assert [(one.line, one.row) for one in delimited.read_delimited_rows(SourceFile(tmp_path / "t.csv", "t.csv"))] == [
        (3, 2),
        (4, 3),
    ]


def test_lines_and_rows_are_one_where_no_cell_spans_lines(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\na,x\n\nb,y\n", encoding="utf-8")
    assert [(one.line, one.row) for one in delimited.read_delimited_rows(SourceFile(tmp_path / "t.csv", "t.csv"))] == [
        (2, None),
        (4, None),
    ]
