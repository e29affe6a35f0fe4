"""Documents: whole or in pieces, never a script run, and a broken one is a row with its reason."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.data.formats import files
from luthier.data.formats.documents import Paragraph, chunk_paragraphs, html_to_text
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import Source
from luthier.data.suggest.propose import propose_recipe
from tests.data.source_files import write_pdf
from tests.linear import assert_linear


def _read(settings: dict[str, Any], base: Path) -> tuple[list[SourceRecord], list[BrokenRow]]:
    found = list(Source.parse(settings).read(base, lambda text: None))
    return [one for one in found if isinstance(one, SourceRecord)], [one for one in found if isinstance(one, BrokenRow)]


ARTICLE = "<p>" + "The lamp has three settings, and the middle one is the best for reading at night. " * 6 + "</p>"
PAGE = f"""<!doctype html><html><head><title>Lamp</title><script>document.write("SCRIPT")</script></head><body>
<nav><a href="/">Home</a> <a href="/shop">Shop</a></nav><article><h1>Lamp</h1>{ARTICLE}
<script src="http://127.0.0.1:9/x.js"></script><img src=x onerror="alert('SCRIPT')"><h2>Care</h2>{ARTICLE}</article>
<footer>Imprint and cookies</footer></body></html>"""


def test_the_main_text_of_a_page_without_its_scripts_and_menus(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    (whole,), broken = _read({"kind": "html", "path": "a.html"}, tmp_path)
    assert broken == []
    assert "three settings" in whole.values["text"]
    assert "SCRIPT" not in whole.values["text"]
    assert "Imprint" not in whole.values["text"]
    (every,), _ = _read({"kind": "html", "path": "a.html", "main": False}, tmp_path)
    assert "Imprint" in every.values["text"]
    assert "SCRIPT" not in every.values["text"]
    pieces, _ = _read({"kind": "html", "path": "a.html", "chunk_by": "heading"}, tmp_path)
    assert [piece.values["heading"] for piece in pieces] == ["Lamp", "Care"]


def test_a_page_of_nothing_is_a_broken_row(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<html><body><script>x</script></body></html>")
    good, broken = _read({"kind": "html", "path": "a.html"}, tmp_path)
    assert good == []
    assert "no text" in broken[0].problem


@pytest.mark.parametrize("kind", ["html", "text"])
def test_a_document_of_one_broken_line_is_one_broken_row(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").write_bytes(b"<html><body>a\0b</body></html>")
    good, broken = _read({"kind": kind, "path": "a"}, tmp_path)
    assert good == []
    assert ["NUL" in row.problem for row in broken] == [True]


@pytest.mark.parametrize("piece", ["<", "<!--", "<p", "&", "<script>", "</", "<a b='"])
def test_markup_that_never_ends_is_read_in_little_time(piece: str) -> None:
    html_to_text(piece * 5_000)


def test_pdf_whole_by_page_and_locked(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", ["First page.", "", "Third page."])
    (whole,), _ = _read({"kind": "pdf", "path": "a.pdf"}, tmp_path)
    assert whole.values["text"] == "First page.\n\nThird page."
    pages, _ = _read({"kind": "pdf", "path": "a.pdf", "chunk_by": "page"}, tmp_path)
    assert [page.line for page in pages] == [1, 3]
    import pypdf

    writer = pypdf.PdfWriter(clone_from=tmp_path / "a.pdf")
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(tmp_path / "b.pdf")
    _, broken = _read({"kind": "pdf", "path": "b.pdf"}, tmp_path)
    assert "locked with a password" in broken[0].problem


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
def test_a_damaged_pdf_is_a_broken_row(tmp_path: Path, cut: float) -> None:
    write_pdf(tmp_path / "a.pdf", ["First page."])
    data = (tmp_path / "a.pdf").read_bytes()
    (tmp_path / "a.pdf").write_bytes(data[: int(len(data) * cut)])
    good, broken = _read({"kind": "pdf", "path": "a.pdf"}, tmp_path)
    assert good or broken


def test_a_docx_that_is_a_bomb_or_damaged_is_a_broken_row(tmp_path: Path) -> None:
    for name, content in (("a.docx", bytes(80 << 20)), ("b.docx", b"<nothing/>")):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("[Content_Types].xml", "<Types/>")
            archive.writestr("word/document.xml", content)
    for name, problem in (("a.docx", "zip bomb"), ("b.docx", "not a Word document")):
        _, broken = _read({"kind": "docx", "path": name}, tmp_path)
        assert problem in broken[0].problem


CHAT = "".join(f"12/03/2024, 10:{n:02d} - {'Anna' if n % 2 else 'Shop Bob'}: hello {n}\nand more\n" for n in range(30))
PHONE = "".join(f"\u200e[12.03.24, 10:{n:02d}:30 PM] Anna B.: hello {n}\n" for n in range(9))
SPOKEN = "".join(f"{n}\n00:00:{n:02d},000 --> 00:00:{n:02d},900\nline {n} of the talk\n\n" for n in range(1, 30))
MAIL = (
    "Received: by x\n\tfor y\nFrom: Anna <anna@x.example>\nSubject: Parcel\nDate: Mon, 3 Feb 2025\n\nHello,\n\nwhere?\n"
)
PROSE = "From: the shop\n\nOn 12/03/2024, 10:15 - we met: hello. It ran 00:00:01,000 --> 00:00:02,000.\n\nNote: so.\n"


@pytest.mark.parametrize(
    ("text", "like", "remedy"),
    [
        (CHAT, "looks like a chat", "conversation_id, sender"),
        (PHONE, "looks like a chat", "conversation_id, sender"),
        (SPOKEN, "looks like subtitles", "grep -vE"),
        (f"WEBVTT\n\n{SPOKEN.replace(',', '.')}", "looks like subtitles", "grep -vE"),
        (MAIL, "looks like a mail", "mailbox.mbox"),
    ],
)
def test_texts_that_are_something_else_are_told(tmp_path: Path, text: str, like: str, remedy: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    said: list[str] = []
    source = Source.parse({"kind": "text", "path": "a.txt"})
    assert len(list(source.read(tmp_path, said.append))) == 1
    assert len(said) == 1
    assert said[0].startswith(f"a.txt: {like}")
    assert "read as plain text" in said[0]
    assert remedy in said[0]
    assert said[0] in propose_recipe(tmp_path / "a.txt").profile.notes


def test_prose_is_told_to_be_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(PROSE * 5)
    said: list[str] = []
    assert list(Source.parse({"kind": "text", "path": "a.txt"}).read(tmp_path, said.append))
    assert said == []


def test_a_folder_of_mails_is_told_what_makes_a_mailbox(tmp_path: Path) -> None:
    (tmp_path / "mails").mkdir()
    (tmp_path / "mails" / "a.eml").write_text(MAIL)
    with pytest.raises(DataError, match="no file that can be read") as refused:
        propose_recipe(tmp_path / "mails")
    assert files.MAILBOX in refused.value.hint


def test_a_mailbox_is_made_of_mails_as_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.eml").write_text(MAIL + "\nFrom here on, nothing.\n")
    (tmp_path / "b.eml").write_text(MAIL.replace("Subject: ", "Subject: Re: ").replace("anna@", "bob@"))
    code = files.MAILBOX.partition('"')[2].rstrip('"')
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    rows, broken = _read({"kind": "mbox", "path": "mails.mbox"}, tmp_path)
    assert not broken
    assert [row.values["mails"] for row in rows] == [2]


@pytest.mark.parametrize("piece", ["1/1/11, 1:11 - ", "11:", "a", "From:", " ", "1\n"])
def test_what_a_text_looks_like_is_told_in_linear_time(piece: str) -> None:
    assert_linear(files.describe_text_content, piece, 20_000)


def test_a_document_that_is_not_there_stops(tmp_path: Path) -> None:
    for kind in ("pdf", "docx", "html", "text"):
        with pytest.raises(DataError, match="no such file"):
            _read({"kind": kind, "path": "none.x"}, tmp_path)


def test_headings_of_markdown_inside_code_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One\ntext\n\n```\n# not one\n\nmore\n```\n\n## Two\nend\n")
    pieces, _ = _read({"kind": "text", "path": "a.md", "chunk_by": "heading"}, tmp_path)
    assert [piece.values["heading"] for piece in pieces] == ["One", "Two"]
    assert "# not one\n\nmore" in pieces[0].values["text"]


WORDS = st.lists(st.text("ab. ", min_size=1, max_size=400), min_size=1, max_size=6)


@given(texts=WORDS, length=st.integers(100, 300))
def test_pieces_by_length_keep_every_letter_in_order(texts: list[str], length: int) -> None:
    made = list(chunk_paragraphs((Paragraph(text, n) for n, text in enumerate(texts, 1)), "length", length, "d"))
    found = [one.values["text"] for one in made if isinstance(one, SourceRecord)]
    assert all(len(text) <= length for text in found)
    assert "".join("".join(found).split()) == "".join("".join(texts).split())
