"""Passes are made once: what another making has done of them is taken over, and nothing else is."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import DataError
from luthier.data.engine.cache import PassCache
from luthier.data.ops.exact_dedup import ExactDedup
from luthier.data.ops.normalize import Normalize
from luthier.data.ops.pii import Pii

Make = Callable[..., Any]
Write = Callable[..., str]
TEXTS = ["Where is  my order?", "Where is my order?", "Mail jo@example.com,  please", "It has  come."]
ROWS = [
    {"prompt": f"{text} {number}", "answer": "soon" if number % 2 else "late"} for number, text in enumerate(TEXTS * 5)
]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
def source(write: Write) -> dict[str, Any]:
    return {"kind": "jsonl", "path": write("rows.jsonl", ROWS), "prompt": "prompt", "answer": "answer"}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who was asked about rows, in order."""
    found: list[str] = []
    for kind in (Normalize, Pii):
        _spy(monkeypatch, kind, "apply", found)
    _spy(monkeypatch, ExactDedup, "settle", found)
    return found


def _spy(monkeypatch: pytest.MonkeyPatch, kind: Any, verb: str, found: list[str]) -> None:
    real = getattr(kind, verb)

    def spied(self: Any, asked: Any) -> Any:
        found.append(self.kind)
        return real(self, asked)

    monkeypatch.setattr(kind, verb, spied)


def _taken_over(made: Any) -> str:
    return "".join(line for line in made.notes.split("\n") if line.startswith("reused from"))


def test_a_changed_operator_over_all_rows_leaves_those_before_it_alone(
    make: Make, source: dict[str, Any], kept: Path, seen: list[str]
) -> None:
    ops = ["normalize", "pii", "exact_dedup", {"kind": "near_dedup", "threshold": 0.9}]
    first = make(source=source, ops=ops, kept=kept)
    assert seen == ["normalize", "pii", "exact_dedup"]
    assert _taken_over(first) == ""
    seen.clear()
    ops[3] = {"kind": "near_dedup", "threshold": 0.5}
    second = make(source=source, ops=ops, kept=kept)
    assert seen == []
    assert _taken_over(second) == "reused from an earlier run: reading, normalize, pii, exact_dedup"
    assert second.files() == make(source=source, ops=ops).files() != first.files()


def test_another_split_asks_no_operator(make: Make, source: dict[str, Any], kept: Path, seen: list[str]) -> None:
    ops = ["normalize", "exact_dedup", "pii"]
    make(source=source, ops=ops, kept=kept)
    seen.clear()
    again = make(source=source, ops=ops, split={"test": 7}, seed=8, kept=kept)
    assert seen == []
    assert _taken_over(again) == "reused from an earlier run: reading, normalize, exact_dedup, pii"
    assert again.files() == make(source=source, ops=ops, split={"test": 7}, seed=8).files()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["pii", "exact_dedup"], [{"kind": "pii", "action": "drop"}, "exact_dedup"]),
        (["exact_dedup", "pii"], ["exact_dedup", {"kind": "pii", "action": "drop"}]),
        (["normalize", "exact_dedup"], ["normalize", "exact_dedup", "pii"]),
        (["normalize", "exact_dedup", "near_dedup"], ["normalize", "near_dedup", "exact_dedup"]),
        (["exact_dedup", "near_dedup"], ["exact_dedup", {"kind": "near_dedup", "action": "flag"}]),
    ],
)
def test_what_is_set_otherwise_is_made_anew(
    make: Make, source: dict[str, Any], kept: Path, before: list[Any], after: list[Any]
) -> None:
    """The third: what normalizing has told in clear may not stand in events once personal data goes."""
    make(source=source, ops=before, kept=kept)
    again = make(source=source, ops=after, kept=kept)
    fresh = make(source=source, ops=after)
    assert again.files() == fresh.files()


def test_other_rows_are_read_anew(make: Make, write: Write, source: dict[str, Any], kept: Path) -> None:
    make(source=source, ops=["normalize"], kept=kept)
    write("rows.jsonl", [*ROWS, {"prompt": "One more?", "answer": "soon"}])
    again = make(source=source, ops=["normalize"], kept=kept)
    assert again.summary.rows_in == len(ROWS) + 1
    assert _taken_over(again) == ""


def test_other_keys_and_other_code_find_nothing(
    make: Make, source: dict[str, Any], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops = [{"kind": "pii", "action": "hash"}]
    make(source=source, ops=ops, kept=kept)
    monkeypatch.setenv("LUTHIER_PII_KEY", "another key")
    assert _taken_over(make(source=source, ops=ops, kept=kept)) == ""
    assert _taken_over(make(source=source, ops=ops, kept=kept)) != ""
    monkeypatch.setattr("luthier.data.engine.executor.code_revision", lambda *modules: "changed")
    assert _taken_over(make(source=source, ops=ops, kept=kept)) == ""


def test_rows_that_still_hold_what_goes_later_do_not_stay(make: Make, source: dict[str, Any], kept: Path) -> None:
    make(source=source, ops=["normalize", "exact_dedup", "pii", "near_dedup"], kept=kept)
    held = [file for file in kept.rglob("*") if file.is_file()]
    assert any(file.name == "pass2.arrow" for file in held)
    assert [file.name for file in held if b"jo@example.com" in file.read_bytes()] == []


def _in_clear(kept: Path) -> list[str]:
    return sorted(file.name for file in kept.rglob("*") if file.is_file() and b"@example.com" in file.read_bytes())


def test_nor_does_what_operators_before_it_said_of_them(make: Make, write: Write, kept: Path) -> None:
    footer = "\nWrite to us at help@example.com any day"
    rows = [{"prompt": f"Where is parcel {'x' * n}?{footer}", "answer": "soon" if n % 2 else "late"} for n in range(20)]
    source = {"kind": "jsonl", "path": write("rows.jsonl", rows), "prompt": "prompt", "answer": "answer"}
    made = make(source=source, ops=["normalize", "boilerplate", "pii"], kept=kept)
    assert made.summary.edited == {"boilerplate": 20}
    assert _in_clear(kept) == []


def test_nor_where_the_recipe_is_stopped_before_they_are_taken_out(
    make: Make, source: dict[str, Any], kept: Path, seen: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the step's scratch, the next try finds them."""
    real, ops = Pii.apply, ["normalize", "exact_dedup", "pii"]
    monkeypatch.setattr(Pii, "apply", lambda self, rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(source=source, ops=ops, kept=kept, scratch=tmp_path / "scratch")
    assert _in_clear(kept) == []
    monkeypatch.setattr(Pii, "apply", real)
    seen.clear()
    assert _taken_over(make(source=source, ops=ops, kept=kept, scratch=tmp_path / "scratch")) != ""
    assert seen == ["pii"]


def test_nor_those_of_a_making_that_took_nothing_out(make: Make, source: dict[str, Any], kept: Path) -> None:
    ops = ["normalize", "exact_dedup", "length", "near_dedup", "tokens"]
    make(source=source, ops=ops, kept=kept)
    assert _in_clear(kept) == ["pass0.arrow", "pass1.arrow", "pass2.arrow", "pass2.events.arrow"]
    make(source=source, ops=[*ops, "exact_dedup", "signatures"], kept=kept)
    assert _in_clear(kept) == ["pass2.events.arrow", "pass3.arrow"]  # of this making alone, which leaves addresses
    make(source=source, ops=[*ops, "pii"], kept=kept)
    assert _in_clear(kept) == ["pass2.events.arrow", "pass3.arrow"]  # its own hold none


def test_rows_for_which_there_is_no_room_go_on_the_way(
    make: Make, source: dict[str, Any], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(source=source, ops=["normalize", "exact_dedup", "length", "near_dedup"], kept=kept / "a")
    held = sum(file.stat().st_size for file in kept.rglob("*.arrow"))
    monkeypatch.setattr("luthier.data.engine.cache._MOST_BYTES", held + 10_000)
    make(source=source, ops=["normalize", "exact_dedup", "length", "near_dedup"], kept=kept / "b")
    assert sorted(file.name for file in kept.glob("b/**/pass?.arrow")) == ["pass0.arrow", "pass1.arrow", "pass2.arrow"]
    monkeypatch.setattr("luthier.data.engine.cache._MOST_BYTES", next(kept.glob("a/**/pass2.arrow")).stat().st_size)
    seen: list[int] = []
    monkeypatch.setattr(PassCache, "put_back", lambda self: seen.append(len([*self.folder.glob("pass?.arrow")])))
    make(source=source, ops=["normalize", "exact_dedup", "length", "near_dedup"], kept=kept / "c")
    assert seen == [1]


@pytest.mark.parametrize("what", ["a file beside", "no folder", "taken", "not ours"])
def test_nothing_that_is_kept_fails_a_run(
    make: Make, source: dict[str, Any], kept: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a file of the Finder's among the makings, a file in their place, or one that another run takes away."""
    ops: list[Any] = ["normalize", "exact_dedup"]
    fresh = make(source=source, ops=ops).files()
    if what == "a file beside":
        make(source=source, ops=["normalize"], kept=kept)
        (kept / "passes" / ".DS_Store").write_text("x")
    elif what == "no folder":
        kept.mkdir()
        (kept / "passes").write_text("x")
    elif what == "taken":
        make(source=source, ops=["exact_dedup"], kept=kept)
        monkeypatch.setattr("luthier.data.engine.cache._age", _takes_away)
    else:
        make(source=source, ops=ops, kept=kept)
        monkeypatch.setattr(Path, "replace", _refuses)
    assert make(source=source, ops=ops, kept=kept).files() == fresh
    assert make(source=source, ops=ops, kept=kept).files() == fresh


def _takes_away(place: Path) -> float:
    shutil.rmtree(place)
    return 0.0


def _refuses(self: Path, target: Path) -> Path:
    if self.is_dir():
        raise PermissionError(13, "not permitted", str(self))
    return self.rename(target)


def test_a_digit_that_the_disk_has_changed_is_no_other_count(make: Make, source: dict[str, Any], kept: Path) -> None:
    ops = ["normalize", "exact_dedup"]
    fresh = make(source=source, ops=ops, kept=kept).files()
    (file,) = kept.rglob("told.json")
    told = file.read_text()
    changed = re.sub(r'(normalize\\*": )\d', r"\g<1>7", told)
    assert changed != told
    file.write_text(changed)
    assert make(source=source, ops=ops, kept=kept).files() == fresh


def test_what_a_benchmark_in_a_database_holds_is_read_each_time(
    make: Make, source: dict[str, Any], tmp_path: Path, kept: Path
) -> None:
    """Its fingerprint may be the cursor's reach alone."""
    desk = sqlite3.connect(tmp_path / "desk.db")
    desk.execute("CREATE TABLE mail (id INTEGER PRIMARY KEY, prompt TEXT, answer TEXT)")
    desk.execute("INSERT INTO mail (prompt, answer) VALUES ('Something else', 'y')")
    desk.commit()
    seen = {"kind": "sql", "url": "sqlite:///desk.db", "table": "mail", "cursor": "id", "changed_by": "cursor"}
    against = [{**seen, "prompt": "prompt", "answer": "answer"}]
    ops = [{"kind": "decontaminate", "against": against}, "exact_dedup"]
    make(source=source, ops=ops, kept=kept)
    desk.execute("UPDATE mail SET prompt = ?", (ROWS[0]["prompt"],))
    desk.commit()
    desk.close()
    assert make(source=source, ops=ops, kept=kept).files() == make(source=source, ops=ops).files()


@pytest.mark.parametrize("name", ["pass0.arrow", "pass0.events.arrow", "pass0.exact_dedup.settled.arrow", "told.json"])
@pytest.mark.parametrize("harm", ["cut", "gone", "changed"])
def test_what_is_damaged_is_made_anew(make: Make, source: dict[str, Any], kept: Path, name: str, harm: str) -> None:
    ops = ["normalize", "exact_dedup", "near_dedup"]
    make(source=source, ops=ops, kept=kept)
    ops[2:] = []
    (file,) = kept.rglob(name)
    data = file.read_bytes()
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if harm == "cut" else data[:-9] + bytes([data[-9] ^ 255]) + data[-8:])
    assert make(source=source, ops=ops, kept=kept).files() == make(source=source, ops=ops).files()


def test_a_try_that_failed_is_gone_on_from(
    make: Make, source: dict[str, Any], tmp_path: Path, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing kept from one making to the next, either: what was done lies in the step's scratch."""
    ops, scratch = ["normalize", "exact_dedup", "pii"], tmp_path / "scratch"
    real = ExactDedup.settle

    def killed(self: ExactDedup, corpus: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(ExactDedup, "settle", killed)
    with pytest.raises(KeyboardInterrupt):
        make(source=source, ops=ops, scratch=scratch)
    assert seen == ["normalize"]
    monkeypatch.setattr(ExactDedup, "settle", real)
    again = make(source=source, ops=ops, scratch=scratch)
    assert seen == ["normalize", "exact_dedup", "pii"]
    assert again.files() == make(source=source, ops=ops).files()


def test_a_making_that_was_refused_leaves_its_passes(make: Make, source: dict[str, Any], kept: Path) -> None:
    with pytest.raises(DataError, match="no row is left to train on"):
        make(source=source, ops=["normalize"], split={"test": len(ROWS)}, kept=kept)
    again = make(source=source, ops=["normalize"], split={"test": 3}, kept=kept)
    assert _taken_over(again) == "reused from an earlier run: reading, normalize"


def test_four_makings_are_kept(make: Make, source: dict[str, Any], kept: Path) -> None:
    for number in range(6):
        make(source=source, ops=[{"kind": "length", "min": number}], kept=kept)
    assert len(list((kept / "passes").iterdir())) == 4
    assert _taken_over(make(source=source, ops=[{"kind": "length", "min": 5}], kept=kept)) != ""
    assert _taken_over(make(source=source, ops=[{"kind": "length", "min": 0}], kept=kept)) == ""


def test_a_making_that_is_too_large_does_not_stay(
    make: Make, source: dict[str, Any], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.data.engine.cache._MOST_BYTES", 1000)
    make(source=source, ops=["normalize"], kept=kept)
    assert list((kept / "passes").iterdir()) == []


def test_what_a_database_holds_is_read_each_time(make: Make, tmp_path: Path, kept: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "desk.db")) as desk, desk:
        desk.execute("CREATE TABLE mail (id INTEGER PRIMARY KEY, prompt TEXT, answer TEXT)")
        desk.executemany("INSERT INTO mail (prompt, answer) VALUES (:prompt, :answer)", ROWS)
    source = {"kind": "sql", "url": "sqlite:///desk.db", "table": "mail", "prompt": "prompt", "answer": "answer"}
    for _ in range(2):
        assert _taken_over(make(source=source, ops=["normalize"], kept=kept)) == ""
    assert not (kept / "passes").exists()
