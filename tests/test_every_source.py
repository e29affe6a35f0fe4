"""Every source keeps a source's promises; a new one is tested by existing, once it says here how a file is made."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from documented import undescribed
from luthier.core.component import components_by_kind
from luthier.core.errors import DataError, LuthierError
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import Source
from tests.data import source_files
from tests.data.web_site import Reply, serving

ROWS = [
    {"text": f"question {n},\nin two lines" if n % 3 == 0 else f"question {n}", "answer": f"a{n}"} for n in range(50)
]
CSV_LINES = [2 + n + sum(1 for before in range(n) if before % 3 == 0) for n in range(50)]


def _as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _as_jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _csv(folder: Path) -> tuple[dict[str, Any], list[int]]:
    (folder / "rows.csv").write_text(_as_csv(ROWS))
    return {"kind": "csv", "path": "rows.csv"}, CSV_LINES


def _jsonl(folder: Path) -> tuple[dict[str, Any], list[int]]:
    (folder / "rows.jsonl").write_text(_as_jsonl(ROWS))
    return {"kind": "jsonl", "path": "rows.jsonl"}, list(range(1, 51))


def _parquet(folder: Path) -> tuple[dict[str, Any], list[int]]:
    pl.DataFrame(ROWS).write_parquet(folder / "rows.parquet")
    return {"kind": "parquet", "path": "rows.parquet"}, list(range(1, 51))


def _folder(folder: Path) -> tuple[dict[str, Any], list[int]]:
    (folder / "many").mkdir()
    (folder / "many" / "a.csv").write_text(_as_csv(ROWS[:20]))
    (folder / "many" / "b.jsonl").write_text(_as_jsonl(ROWS[20:]))
    return {"kind": "folder", "path": "many"}, [*CSV_LINES[:20], *range(1, 31)]


def _wheel(folder: Path) -> tuple[dict[str, Any], list[int]]:
    """A wheel in the user's cache, as if it had been fetched before."""
    place = folder / "cache" / "wheels" / "some-rows-1.0"
    place.mkdir(parents=True)
    with zipfile.ZipFile(place / "some_rows-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some_rows/rows.jsonl", _as_jsonl(ROWS))
    return {"kind": "wheel", "package": "some-rows", "version": "1.0", "path": "some_rows/rows.jsonl"}, list(
        range(1, 51)
    )


def _sql(folder: Path) -> tuple[dict[str, Any], list[int]]:
    """A table of an SQLite database."""
    with closing(sqlite3.connect(folder / "rows.db")) as database, database:
        database.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT, answer TEXT)")
        database.executemany("INSERT INTO rows (text, answer) VALUES (:text, :answer)", ROWS)
    query = "SELECT text, answer FROM rows ORDER BY id"
    return {"kind": "sql", "url": "sqlite:///rows.db", "query": query}, list(range(1, 51))


def _labels(folder: Path) -> tuple[dict[str, Any], list[int]]:
    """Every text judged by one person; the decided label and the judgments stand beside its columns."""
    (folder / "judged.jsonl").write_text(_as_jsonl([{**row, "annotator": "ann", "label": "a"} for row in ROWS]))
    return {"kind": "labels", "path": "judged.jsonl"}, list(range(1, 51))


def _web(folder: Path) -> tuple[dict[str, Any], list[int], list[dict[str, Any]]]:
    """Plain pages of a site on this machine, fetched while it was there."""
    with serving() as site:
        addresses = [f"{site.root}/{n}" for n in range(5)]
        for n in range(len(addresses)):
            site.replies[f"/{n}"] = Reply(f"question {n}".encode(), headers={"Content-Type": "text/plain"})
        settings = {"kind": "web", "pages": addresses, "hosts": ["127.0.0.1"], "delay_s": 0, "retries": 0}
        Source.parse(settings).gather(folder, lambda text: None)
    rows = [{"text": f"question {n}", "url": address, "robots": None} for n, address in enumerate(addresses)]
    return settings, [1] * 5, rows


def _traces(folder: Path) -> tuple[dict[str, Any], list[int], list[dict[str, Any]]]:
    """Requests of two days, each corrected."""
    from luthier.traces.feedback import append_redacted_records
    from tests.traces.conftest import opinion, trace

    numbers = [*range(20), *range(1440, 1460)]
    asked = [trace(number) for number in numbers]
    append_redacted_records(
        folder / "kept", [*asked, *(opinion(number, correction=f"In depot {number}.") for number in numbers)]
    )
    rows = [
        {"chosen": f"In depot {number}.", "rejected": "On its way.", "trace": f"chatcmpl-{number}"}
        for number in numbers
    ]
    return {"kind": "traces", "path": "kept", "makes": "pairs"}, [*range(1, 21), *range(1, 21)], rows


def _annotations(folder: Path) -> tuple[dict[str, Any], list[int], list[dict[str, Any]]]:
    """Texts to which one person gave labels."""
    from luthier.annotation.project import NewItem, ProjectSettings, add_items, create_project
    from luthier.annotation.question import QuestionItem
    from luthier.annotation.results import find_items, label_items
    from luthier.core.db import Ledger

    labels = ["billing", "login"]
    asked = ProjectSettings.model_validate({"questions": {"topic": {"kind": "choice", "labels": labels}}})
    rows = [{"item": f"row-{n}", "text": f"text {n}", "label": labels[n % 2]} for n in range(5)]
    with Ledger(folder / ".luthier" / "ledger.db") as ledger:
        project = create_project(ledger, "Topics", asked, by="owner")
        messages = [({"role": "user", "content": row["text"]},) for row in rows]
        add_items(
            ledger,
            project.id,
            [NewItem(row["item"], QuestionItem(one)) for row, one in zip(rows, messages, strict=True)],
        )
        for one in find_items(ledger, project.id):
            label_items(ledger, project.id, [one.item.id], {"topic": labels[int(one.item.key[-1]) % 2]}, by="ann")
    return {"kind": "annotations", "project": "Topics"}, [1, 2, 3, 4, 5], rows


MAKERS: dict[str, Callable[[Path], tuple[Any, ...]]] = {
    **source_files.MAKERS,
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "folder": _folder,
    "wheel": _wheel,
    "sql": _sql,
    "labels": _labels,
    "web": _web,
    "traces": _traces,
    "annotations": _annotations,
}
NOWHERE: dict[str, dict[str, Any]] = {
    "hub": {"name": "acme/nothing"},
    "sql": {"url": "sqlite:///no/such.db"},
    "web": {"pages": ["http://127.0.0.1:9/x"], "hosts": []},
    "annotations": {"project": "nothing"},
}
"""Settings that lead nowhere, for sources that are no path."""
ELSEWHERE = {"wheel", "sql", "web", "hub", "traces", "annotations"}
"""Sources whose fingerprint is not one of a file's bytes: their own tests say what it follows."""
KINDS = sorted(components_by_kind(Source))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    return tmp_path


def _read(source: Source, base: Path) -> list[SourceRecord]:
    found = list(source.records(base, lambda text: None))
    assert all(isinstance(record, SourceRecord) for record in found)
    return [record for record in found if isinstance(record, SourceRecord)]


def _made(kind: str, place: Path) -> tuple[dict[str, Any], list[int], list[dict[str, Any]]]:
    """Settings, the lines of the rows, and the rows (`ROWS` unless the maker says otherwise)."""
    settings, lines, *rows = MAKERS[kind](place)
    return settings, lines, rows[0] if rows else ROWS


def _columns(records: list[SourceRecord], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The columns that were written; a source may add its own behind them."""
    return [{name: record.values[name] for name in rows[0]} for record in records]


def test_every_source_has_a_maker() -> None:
    assert set(KINDS) == set(MAKERS)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_whole_in_order_and_with_their_lines(kind: str, place: Path) -> None:
    settings, lines, rows = _made(kind, place)
    records = _read(Source.parse(settings), place)
    assert _columns(records, rows) == rows
    assert [record.line for record in records] == lines
    assert all(record.file and not Path(record.file).is_absolute() for record in records)


@pytest.mark.parametrize("kind", KINDS)
def test_first_reads_only_so_many(kind: str, place: Path) -> None:
    settings, _, rows = _made(kind, place)
    assert _columns(_read(Source.parse({**settings, "limit": 3}), place), rows) == rows[:3]


@pytest.mark.parametrize("kind", KINDS)
def test_fingerprint_and_size_are_stable_and_settings_come_back(kind: str, place: Path) -> None:
    settings, *_ = _made(kind, place)
    source = Source.parse(settings)
    assert source.fingerprint(place) == source.fingerprint(place) is not None
    assert (source.size(place) or 0) > 0
    assert Source.parse(source.settings()) == source


@pytest.mark.parametrize("kind", sorted(set(KINDS) - ELSEWHERE))
def test_fingerprint_follows_the_content(kind: str, place: Path) -> None:
    settings, *_ = _made(kind, place)
    source = Source.parse(settings)
    before = source.fingerprint(place)
    file = next(path for path in sorted(place.rglob("*")) if path.is_file())
    file.write_bytes(file.read_bytes() + b"\n")
    assert source.fingerprint(place) != before


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_there_is_one_clear_error(kind: str, place: Path) -> None:
    settings, *_ = _made(kind, place)
    missing = Source.parse({**settings, **NOWHERE.get(kind, {"path": "no/such.jsonl"})})
    with pytest.raises(DataError) as caught:
        list(missing.records(place, lambda text: None))
    assert caught.value.where.file
    if kind not in ("wheel", "hub"):
        assert missing.size(place) is None
        assert missing.fingerprint(place) is None


@pytest.mark.parametrize("kind", sorted({*KINDS, "sql"} - (ELSEWHERE - {"sql"})))
def test_no_damage_to_a_file_ends_in_more_than_a_clear_error(kind: str, place: Path) -> None:
    settings, *_ = _made(kind, place)
    files = [path for path in sorted(place.rglob("*")) if path.is_file()]
    chance = random.Random(kind)
    for _ in range(40):
        file = chance.choice(files)
        whole = file.read_bytes()
        file.write_bytes(_spoilt(whole, chance))
        with suppress(LuthierError):
            for found in Source.parse(settings).mapped(place, lambda text: None):
                assert not isinstance(found, BrokenRow) or str(found.error())
        file.write_bytes(whole)


def _spoilt(data: bytes, chance: random.Random) -> bytes:
    """Bytes changed, lost, repeated or put in, at one to three places; of a zip mostly those of one part."""
    if data.startswith(b"PK") and chance.random() < 0.8:
        return _spoilt_within(data, chance)
    spoilt = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at, length = chance.randrange(len(spoilt) + 1), chance.randint(1, 40)
        other = chance.randrange(len(spoilt) + 1)
        piece = chance.choice([b"", spoilt[other : other + length], b"\xff\xfe", b"\0\0", b"-1", b"[]", b"99999999999"])
        spoilt[at : at + chance.choice([0, len(piece), length])] = piece
    return bytes(spoilt)


def _spoilt_within(data: bytes, chance: random.Random) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(made, "w") as again:
        spoilt = chance.choice([name for name in archive.namelist() if "theme" not in name])
        for name in archive.namelist():
            part = archive.read(name)
            again.writestr(name, _spoilt(part, chance) if name == spoilt else part)
    return made.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_is_documented(kind: str) -> None:
    member = components_by_kind(Source)[kind]
    assert member.summary()
    assert undescribed(member) == []


@pytest.mark.parametrize("kind", ["csv", "jsonl", "folder", "wheel"])
def test_a_broken_row_is_yielded_with_its_line_and_reading_goes_on(kind: str, place: Path) -> None:
    settings, lines, _ = _made(kind, place)
    target = "rows.jsonl"
    if kind == "wheel":
        wheel = next(place.rglob("*.whl"))
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(
                "some_rows/rows.jsonl", _as_jsonl(ROWS) + "{broken\n" + '{"text": "last", "answer": "z"}\n'
            )
    else:
        path = {"csv": place / "rows.csv", "jsonl": place / target, "folder": place / "many" / "b.jsonl"}[kind]
        bad, last = (
            ("one,two,three\n", "last,z\n") if kind == "csv" else ("{broken\n", '{"text": "last", "answer": "z"}\n')
        )
        path.write_text(path.read_text() + bad + last)
    found = list(Source.parse(settings).records(place, lambda text: None))
    broken = [one for one in found if isinstance(one, BrokenRow)]
    assert [one.line for one in broken] == [lines[-1] + 1]
    assert isinstance(found[-1], SourceRecord)
    assert found[-1].values == {"text": "last", "answer": "z"}


def test_a_wheel_with_another_sum_is_refused(place: Path) -> None:
    settings, _ = _wheel(place)
    folder = next(place.rglob("*.whl")).parent
    wheel = next(place.rglob("*.whl"))
    right = hashlib.sha256(wheel.read_bytes()).hexdigest()
    folder.rename(folder.with_name(f"some-rows-1.0-{right}"))
    source = Source.parse({**settings, "sha256": right})
    assert len(_read(source, place)) == 50
    assert right in str(source.fingerprint(place))


def test_a_link_out_of_the_folder_is_refused(place: Path) -> None:
    settings, _ = _folder(place)
    (place / "secret.jsonl").write_text(_as_jsonl(ROWS[:1]))
    (place / "many" / "link.jsonl").symlink_to(place / "secret.jsonl")
    with pytest.raises(DataError, match="leads out of the folder"):
        list(Source.parse(settings).records(place, lambda text: None))
    with pytest.raises(DataError, match="leads out of the folder"):
        list(Source.parse({**settings, "glob": "../secret.jsonl"}).records(place, lambda text: None))
