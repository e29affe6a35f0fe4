"""Whatever somebody names is read by the right kind of source, and a fitting recipe can be written for it."""

from __future__ import annotations

import gzip
import json
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pytest

from luthier.commands.new import write_recipe
from luthier.core.errors import DataError
from luthier.data.columns.recognize import build_source_for_path, recognize_path_source_kind
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import Source
from luthier.data.steps.prepare import Prepare
from luthier.data.suggest.propose import propose_recipe
from luthier.recipe.workspace import Workspace
from tests.data.source_files import MAKERS, write_pdf

ROWS = [{"text": f"question number {n} of the day", "label": "ab"[n % 2]} for n in range(40)]
CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)

CONTENTS = {
    "csv": CSV.encode(),
    "jsonl": JSONL.encode(),
    "json": json.dumps(ROWS).encode(),
    "text": b"Just some words.\n\nAnd more of them.\n",
    "html": b"<!DOCTYPE html><html><body><p>Hello</p></body></html>",
}


@pytest.mark.parametrize("kind", sorted(CONTENTS))
@pytest.mark.parametrize("name", ["data", "data.bin", "data.gz"])
def test_content_decides_where_the_name_says_nothing(tmp_path: Path, kind: str, name: str) -> None:
    content = CONTENTS[kind]
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert recognize_path_source_kind(name, tmp_path) == kind


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("rows.csv", "jsonl", "jsonl"),
        ("rows.json", "jsonl", "jsonl"),
        ("notes.txt", "csv", "text"),
        ("a.md", "text", "text"),
    ],
)
def test_certain_content_outweighs_a_name_and_a_name_outweighs_a_guess(
    tmp_path: Path, name: str, kind: str, found: str
) -> None:
    (tmp_path / name).write_bytes(CONTENTS[kind])
    assert recognize_path_source_kind(name, tmp_path) == found


def test_a_name_that_the_content_does_not_bear_out(tmp_path: Path) -> None:
    (tmp_path / "letter.docx").write_text("x")
    with pytest.raises(DataError, match="cannot tell what kind of file"):
        recognize_path_source_kind("letter.docx", tmp_path)
    (tmp_path / "empty.csv").write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        recognize_path_source_kind("empty.csv", tmp_path)


def test_what_only_looks_like_json_or_text(tmp_path: Path) -> None:
    (tmp_path / "letter.rtf").write_text(r"{\rtf1\ansi Dear all}")
    with pytest.raises(DataError, match="cannot tell what kind of file this is") as caught:
        recognize_path_source_kind("letter.rtf", tmp_path)
    assert caught.value.hint.startswith("known endings")
    (tmp_path / "texts.json").write_text('["where is it?", "on its way"]')
    with pytest.raises(DataError, match=r"something else than its ending .json says") as caught:
        recognize_path_source_kind("texts.json", tmp_path)
    assert caught.value.hint.startswith("rows are objects")
    (tmp_path / "rows.jsonl").write_text('{\n  "text": "a b",\n  "label": "x"\n}\n' * 3)
    assert recognize_path_source_kind("rows.jsonl", tmp_path) == "json"
    (tmp_path / "rows.txt").write_text("text\tlabel\n" + "where is it?\tx\n" * 20, encoding="utf-16")
    assert recognize_path_source_kind("rows.txt", tmp_path) == "csv"


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("<text>,label", "where is it?,x"),
        ("<html>;label", "where is it?;x"),
        ("<text>", "where is it?"),
        ("text,label", "<html><p>where is it?</p></html>,x"),
        ("<html>,label", "<p>where is it?</p>,x"),
    ],
)
def test_a_table_may_hold_what_looks_like_a_tag(tmp_path: Path, header: str, row: str) -> None:
    (tmp_path / "rows.csv").write_text(f"{header}\n" + f"{row}\n" * 12)
    assert recognize_path_source_kind("rows.csv", tmp_path) == "csv"
    source, base = build_source_for_path(tmp_path / "rows.csv")
    first = next(record for record in source.read(base, lambda text: None) if isinstance(record, SourceRecord))
    assert list(first.values) == header.replace(";", ",").split(",")


@pytest.mark.parametrize(
    "text",
    [
        '<?xml version="1.0"?>\n<rows>\n<row>a, b</row>\n<row>c, d</row>\n</rows>\n',
        "<rows>\n  <row><text>a, b</text></row>\n  <row><text>c, d</text></row>\n</rows>\n",
        "<div>\nwhere is it, and when?\nhere, now\n</div>\n",
        "<!-- export -->\n<table><tr><td>a</td><td>b</td></tr></table>\n",
    ],
)
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_markup_is_named_as_what_it_is(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="is HTML or XML, not a table") as caught:
        recognize_path_source_kind(name, tmp_path)
    assert "export the table as CSV" in caught.value.hint


def test_a_sitemap_is_no_page_to_learn_from(tmp_path: Path) -> None:
    text = '<?xml version="1.0"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"><url/></urlset>'
    (tmp_path / "sitemap.xml").write_text(text)
    with pytest.raises(DataError, match="is a sitemap") as caught:
        propose_recipe(tmp_path / "sitemap.xml")
    assert "kind: web, sitemap" in caught.value.hint


@pytest.mark.parametrize("kind", sorted(set(MAKERS) - {"hub"}))
def test_every_kind_of_file_is_recognised_and_gets_a_recipe(tmp_path: Path, kind: str) -> None:
    settings = MAKERS[kind](tmp_path)[0]
    assert recognize_path_source_kind(settings["path"], tmp_path) == kind
    proposal = propose_recipe(tmp_path / settings["path"])
    assert proposal.source["kind"] == kind
    Prepare.model_validate(proposal.prepare())


def test_new_from_files_folders_patterns_and_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text(CSV)
    (tmp_path / "in" / "b.csv").write_text(CSV)
    pl.DataFrame(ROWS).write_ipc(tmp_path / "rows.feather")
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.writestr("rows.csv", CSV)
    files = fsspec.filesystem("memory")
    files.pipe_file("/shop/rows.jsonl", JSONL.encode())
    wanted = {
        "in/a.csv": ("csv", "../in/a.csv"),
        "in": ("folder", "../in"),
        "in/*.csv": ("csv", "../in/*.csv"),
        "rows.feather": ("arrow", "../rows.feather"),
        "rows.zip": ("csv", "../rows.zip"),
        "memory://shop/rows.jsonl": ("jsonl", "memory://shop/rows.jsonl"),
    }
    for number, (source, (kind, path)) in enumerate(wanted.items()):
        written = write_recipe(Workspace.open_current(), f"recipe-{number}", source, template=None, model=None)
        text = written.path.read_text()
        assert f"kind: {kind}" in text
        assert path in text
    files.store.clear()


def test_a_folder_leaves_out_what_nothing_reads_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text(CSV)
    (tmp_path / "in" / "b").write_text(JSONL)
    (tmp_path / "in" / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(90))
    (tmp_path / "in" / "empty.csv").write_text("")
    said: list[str] = []
    found = list(Source.parse({"kind": "folder", "path": "in"}).read(tmp_path, said.append))
    assert len(found) == 80
    assert said[-2:] == [
        "in: 1 file of no known kind left out, such as in/c.png",
        "in: 1 file without content left out, such as in/empty.csv",
    ]


def test_a_readme_beside_rows_is_no_row_and_among_documents_is_one(tmp_path: Path) -> None:
    """What `luthier export` writes has a card beside the rows; the folder could not be read for it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "README.md").write_text("# Tickets\n\n40 rows\n")
    (tmp_path / "in" / "train.csv").write_text(CSV)
    said: list[str] = []
    found = list(Source.parse({"kind": "folder", "path": "in"}).read(tmp_path, said.append))
    assert {one.file for one in found} == {"in/train.csv"}
    assert said[-1] == "in: 1 file about the others left out, such as in/README.md"
    (tmp_path / "in" / "train.csv").rename(tmp_path / "in" / "more.txt")
    (tmp_path / "in" / "more.txt").write_text("words\n")
    found = list(Source.parse({"kind": "folder", "path": "in"}).read(tmp_path, said.append))
    assert [one.file for one in found] == ["in/README.md", "in/more.txt"]


def test_texts_about_the_files_beside_them_are_no_rows(tmp_path: Path) -> None:
    """A SOURCE.md beside 3,000 rows was taken for the data, and all rows for broken ones."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "train.csv").write_text(CSV)
    for name in ("SOURCE.md", "LICENSE", "License.txt", "TERMS_OF_USE.txt"):
        (tmp_path / "in" / name).write_text("# Where it is from\n\nA page of the web, and who may read it.\n")
    said: list[str] = []
    found = list(Source.parse({"kind": "folder", "path": "in"}).read(tmp_path, said.append))
    assert {one.file for one in found} == {"in/train.csv"}
    assert said[-1] == "in: 4 files about the others left out, such as in/LICENSE"


def test_an_archive_that_is_not_read_is_called_one(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as inner:
        inner.writestr("a.csv", CSV)
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as outer:
        outer.write(tmp_path / "inner.zip", "inner.zip")
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "inner.zip", "inner.zip")
    for name in ("outer.zip", "t.tar.gz"):
        with pytest.raises(DataError, match="is an archive of a kind that is not read") as caught:
            recognize_path_source_kind(name, tmp_path)
        assert "unpack it" in (caught.value.hint or "")


def test_documents_of_a_folder_are_text_to_continue(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_pdf(tmp_path / "in" / "a.pdf", ["One page."])
    (tmp_path / "in" / "b.md").write_text("# Two\n\nwords\n")
    (tmp_path / "in" / "c.pdf").write_bytes(b"%PDF-1.4\nbroken")
    source = Source.parse({"kind": "folder", "path": "in", "on_error": "drop"})
    found = list(source.mapped(tmp_path, lambda text: None))
    good = [one for one in found if not isinstance(one, BrokenRow)]
    assert [parts.messages[-1].content for _, parts in good] == ["One page.", "# Two\n\nwords"]
    assert [one.file for one in found if isinstance(one, BrokenRow)] == ["in/c.pdf"]


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_tasks_of_self_instruct_are_a_row_for_each_instance(ending: str, tmp_path: Path) -> None:
    """Texts lie in a list of objects; without them, whether it is a classification was all that could be learnt."""
    tried = [{"input": "", "output": "Porridge with milk."}, {"input": "I like eggs.", "output": "Eggs on toast."}]
    rows = [
        {"id": f"seed_task_{n}", "instruction": f"What is there for breakfast {n}?", "instances": tried[: 1 + n % 2],
         "is_classification": n % 2 == 0}
        for n in range(20)
    ]  # fmt: skip
    text = json.dumps(rows) if ending == "json" else "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / f"tasks.{ending}").write_text(text)
    asked = propose_recipe(tmp_path / f"tasks.{ending}").source
    found = list(Source.parse(asked).mapped(tmp_path, lambda text: None))
    told = [one[1].messages[-2:] for one in found if not isinstance(one, BrokenRow)]
    assert len(told) == 30
    assert [turn.content for turn in told[0]] == ["What is there for breakfast 0?", "Porridge with milk."]
    assert [turn.content for turn in told[2]] == ["What is there for breakfast 1?\n\nI like eggs.", "Eggs on toast."]


LAYOUTS: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "preference, messages": (
        {
            "input": {"messages": [{"role": "user", "content": "q"}]},
            "preferred_output": [{"role": "assistant", "content": "good"}],
            "non_preferred_output": [{"role": "assistant", "content": "bad"}],
        },
        "preference rows",
        ["q", "good"],
    ),
    "preference, ShareGPT": (
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
        "preference rows",
        ["q", "good"],
    ),
    "preference, whole": (
        {"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}], "rejected": []},
        "preference rows",
        ["q", "good"],
    ),
    "KTO": ({"prompt": "q", "completion": "good", "label": True}, "KTO rows", ["q", "good"]),
    "turns": (
        {"turns": [{"speaker": "Customer", "text": "q"}, {"speaker": "Agent", "text": "good"}], "ticket": 1},
        "tickets with turns",
        ["q", "good"],
    ),
}


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_layouts_that_people_have(tmp_path: Path, name: str) -> None:
    row, note, texts = LAYOUTS[name]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    said: list[str] = []
    ((_, parts),) = Source.parse({"kind": "jsonl", "path": "rows.jsonl"}).mapped(tmp_path, said.append)  # type: ignore[misc]
    assert note in said[-1]
    assert [turn.content for turn in parts.messages] == texts


def test_a_call_in_sharegpt_is_a_call(tmp_path: Path) -> None:
    call = {"from": "function_call", "value": '{"name": "search", "arguments": {"q": "x"}}'}
    turns = [
        {"from": "human", "value": "find x"},
        call,
        {"from": "observation", "value": "y"},
        {"from": "gpt", "value": "y"},
    ]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"conversations": turns}) + "\n")
    ((_, parts),) = Source.parse({"kind": "jsonl", "path": "rows.jsonl"}).mapped(tmp_path, lambda text: None)  # type: ignore[misc]
    assert parts.kind == "tool"
    assert parts.messages[1].tool_calls[0].arguments == {"q": "x"}


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "kinds", "note"),
    [
        ("alpaca_en_demo.json", {"chat": 999}, "Alpaca"),
        ("identity.json", {"chat": 91}, "Alpaca"),
        ("c4_demo.jsonl", {"completion": 300}, "plain text"),
        ("dpo_en_demo.json", {"chat": 150}, "preference rows"),
        ("kto_en_demo.json", {"chat": 300}, "KTO rows"),
        ("glaive_toolcall_en_demo.json", {"chat": 109, "tool": 191}, "ShareGPT"),
    ],
)
def test_real_files_of_another_tuner(real_data: Path, name: str, kinds: dict[str, int], note: str) -> None:
    source, base = build_source_for_path(real_data / "llamafactory_demo" / name)
    said: list[str] = []
    found = list(source.mapped(base, said.append))
    assert not [one for one in found if isinstance(one, BrokenRow)]
    assert Counter(parts.kind for _, parts in found) == kinds  # type: ignore[misc]
    assert note in said[-1]
    assert all(isinstance(record, SourceRecord) and parts.messages[-1].role == "assistant" for record, parts in found)  # type: ignore[misc]
