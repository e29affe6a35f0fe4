"""A recogniser of names reads a text once, whatever becomes of the recipe afterwards."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from luthier.data.pii.findings_cache import PiiFindingsCache
from luthier.pii.hmac_key import HmacKey
from luthier.pii.recognizers.rampart import Rampart
from luthier.pii.span import PiiSpan

Make = Callable[..., Any]
Write = Callable[..., str]
KEEPER = HmacKey(b"a key")
TEXTS = ["Ask Jane Doe.", "Nobody.", "Jane Doe and Max Muster met.", "Ask Jane Doe."]


class Reader:
    """Takes two words with capitals for a name, and remembers what it was shown."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, texts: Sequence[str]) -> list[list[PiiSpan]]:
        self.read += texts
        return [[PiiSpan(*m.span(), "person", m[0]) for m in re.finditer(r"Jane Doe|Max Muster", one)] for one in texts]


def test_a_text_is_read_once_by_whoever_asks_for_it(tmp_path: Path) -> None:
    reader, other = Reader(), Reader()
    found = PiiFindingsCache(tmp_path / "a" / "names.db", KEEPER, reader)(TEXTS)
    assert found == Reader()(TEXTS)
    assert reader.read == TEXTS[:3]
    assert PiiFindingsCache(tmp_path / "a" / "names.db", KEEPER, other)([*TEXTS, "Max Muster, too"]) == Reader()(
        [*TEXTS, "Max Muster, too"]
    )
    assert other.read == ["Max Muster, too"]


def test_nothing_of_a_text_stands_in_the_file_and_another_key_finds_nothing(tmp_path: Path) -> None:
    PiiFindingsCache(tmp_path / "names.db", KEEPER, Reader())(TEXTS)
    held = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert not any(word.encode() in held for text in TEXTS for word in re.findall(r"\w{3,}", text))
    reader = Reader()
    PiiFindingsCache(tmp_path / "names.db", HmacKey(b"another key"), reader)(TEXTS)
    assert reader.read == TEXTS[:3]


@pytest.mark.parametrize("harm", [b"not a database at all", None])
def test_a_damaged_file_is_made_anew(tmp_path: Path, harm: bytes | None) -> None:
    path = tmp_path / "names.db"
    PiiFindingsCache(path, KEEPER, Reader())(TEXTS)
    if harm is None:
        with sqlite3.connect(path) as file:
            file.execute("UPDATE found SET names = '[[1, '")
        file.close()
    else:
        for file in tmp_path.iterdir():
            file.write_bytes(harm)
    reader = Reader()
    assert PiiFindingsCache(path, KEEPER, reader)(TEXTS) == Reader()(TEXTS)
    assert reader.read == TEXTS[:3]
    again = Reader()
    PiiFindingsCache(path, KEEPER, again)(TEXTS)
    assert again.read == []


def test_a_place_that_the_disk_has_changed_is_no_other_name(tmp_path: Path) -> None:
    path = tmp_path / "names.db"
    PiiFindingsCache(path, KEEPER, Reader())(TEXTS)
    with sqlite3.connect(path) as file:
        file.execute("UPDATE found SET names = replace(names, '12', '11')")
    file.close()
    assert PiiFindingsCache(path, KEEPER, Reader())(TEXTS) == Reader()(TEXTS)


@pytest.mark.parametrize("what", ["no folder", "no file", "locked"])
def test_where_nothing_can_be_kept_it_is_found_all_the_same(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.data.pii.findings_cache._BUSY_S", 0.0)
    path = tmp_path / "names" / "names.db"
    if what == "no folder":
        path.parent.write_text("a file")
    elif what == "no file":
        path.mkdir(parents=True)
    else:
        PiiFindingsCache(path, KEEPER, Reader())(TEXTS)
    other = sqlite3.connect(path if what == "locked" else ":memory:", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    other.execute("CREATE TABLE other (text)")
    reader = Reader()
    assert PiiFindingsCache(path, KEEPER, reader)([*TEXTS, "another"]) == Reader()([*TEXTS, "another"])
    other.execute("ROLLBACK")
    other.close()
    if what == "locked":
        again = Reader()
        PiiFindingsCache(path, KEEPER, again)(TEXTS)
        assert again.read == [], "the file of the others stays"


def test_an_interrupted_reading_loses_little(tmp_path: Path) -> None:
    texts = [f"Jane Doe {number}" for number in range(40)]

    def killed(some: Sequence[str]) -> list[list[PiiSpan]]:
        if texts[32] in some:
            raise KeyboardInterrupt
        return Reader()(some)

    with pytest.raises(KeyboardInterrupt):
        PiiFindingsCache(tmp_path / "names.db", KEEPER, killed)(texts)
    reader = Reader()
    PiiFindingsCache(tmp_path / "names.db", KEEPER, reader)(texts)
    assert reader.read == texts[32:]


def test_other_operators_and_other_actions_do_not_ask_again(
    make: Make, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader()
    monkeypatch.setattr(Rampart, "recognise", lambda self, texts: reader(texts))
    rows = [{"prompt": f"I am Jane Doe,  call {number}", "answer": "Max Muster will"} for number in range(9)]
    source = {"kind": "jsonl", "path": write("rows.jsonl", rows), "prompt": "prompt", "answer": "answer"}
    first = ["normalize", {"kind": "pii", "ner": "rampart"}]
    make(source=source, ops=first, kept=tmp_path / "kept", task="text")
    assert len(reader.read) == len(set(reader.read)) > 9
    reader.read.clear()
    second = ["normalize", {"kind": "length", "min": 5}, {"kind": "pii", "ner": "rampart", "action": "mask"}]
    made = make(source=source, ops=second, kept=tmp_path / "kept", task="text")
    assert reader.read == []
    assert made.files() == make(source=source, ops=second, task="text").files()
    assert "Jane" not in "".join(made.texts())
    reader.read.clear()
    third = [{"kind": "pii", "ner": {"kind": "rampart", "min_score": 0.9}}]
    make(source=source, ops=third, kept=tmp_path / "kept", task="text")
    assert len(reader.read) > 9


class _Classifier:
    """Finds one name, with the files that lie where it is looked for."""

    def __init__(self, *files: Path) -> None:
        self._name = files[0].read_text()

    def find(self, text: str, at_least: float) -> list[PiiSpan]:
        return [PiiSpan(*m.span(), "person", m[0]) for m in re.finditer(self._name, text)]


def test_a_folder_of_a_recogniser_lies_below_the_recipe_and_another_model_in_it_reads_anew(
    make: Make, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.pii.recognizers.rampart.TokenClassifier", _Classifier)
    rows = [{"prompt": f"I am Jane Doe, not Max Muster, and call {number}", "answer": "soon"} for number in range(9)]
    source = {"kind": "jsonl", "path": write("rows.jsonl", rows), "prompt": "prompt", "answer": "answer"}
    ops = [{"kind": "pii", "ner": {"kind": "rampart", "folder": "model", "organizations": False}}]
    for name, left in (("Jane Doe", "Max Muster"), ("Max Muster", "Jane Doe")):
        for file in ("config.json", "tokenizer.json", "onnx/model_q4.onnx"):
            write(f"model/{file}", name.encode())
        for _ in range(2):
            told = "".join(make(source=source, ops=ops, kept=tmp_path / "kept", task="text").texts())
            assert (name in told, left in told) == (False, True)
    assert len([*(tmp_path / "kept" / "names").glob("*.db")]) == 2
