"""Hostile and broken media among good rows at intake: one error with file and line, or rows that are counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostile import ODD_PICTURES, PICTURES, SOUNDS
from luthier.artifacts.dataset import read_examples
from luthier.core.errors import DataError
from media import picture

Make = Callable[..., Any]
HOSTILE = {**PICTURES, **SOUNDS}
GOOD = 6


def _row(name: str, kind: str) -> dict[str, Any]:
    return {"question": f"What is {name}?", "answer": f"the answer about {name}", kind: f"media/{name}"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    media = tmp_path / "media"
    media.mkdir()
    for number in range(GOOD):
        (media / f"good{number}.png").write_bytes(picture(seed=number))
    for number, file in enumerate(HOSTILE.values()):
        (media / f"bad{number}.{file.ending}").write_bytes(file.content)
    for number, (content, ending) in enumerate(ODD_PICTURES.values()):
        (media / f"odd{number}.{ending}").write_bytes(content)
    return tmp_path


def _write(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"kind": "jsonl", "path": "rows.jsonl", "media_folder": "."}


def _bad_rows() -> list[dict[str, Any]]:
    return [
        _row(f"bad{number}.{file.ending}", "image" if name in PICTURES else "audio")
        for number, (name, file) in enumerate(HOSTILE.items())
    ]


@pytest.mark.parametrize("number", range(len(HOSTILE)), ids=list(HOSTILE))
def test_each_is_one_error_with_file_line_and_remedy(number: int, make: Make, folder: Path) -> None:
    row = _bad_rows()[number]
    source = _write(folder, [_row("good0.png", "image"), row, _row("good1.png", "image")])
    with pytest.raises(DataError) as caught:
        make(source=source, split={"test": 0}, task="text")
    assert list(HOSTILE.values())[number].problem in caught.value.message
    assert (caught.value.where.file, caught.value.where.line) == ("rows.jsonl", 2)
    assert caught.value.hint


def test_none_costs_a_good_row_and_each_is_counted(make: Make, folder: Path) -> None:
    good = [_row(f"good{number}.png", "image") for number in range(GOOD)]
    odd = [_row(f"odd{number}.{ending}", "image") for number, (_, ending) in enumerate(ODD_PICTURES.values())]
    rows = [row for pair in zip(good, _bad_rows()[:GOOD], strict=True) for row in pair]
    rows += [*_bad_rows()[GOOD:], *odd]
    source = {**_write(folder, rows), "on_error": "drop"}
    made = [make(source=source, split={"test": 0}, task="text") for _ in range(2)]
    assert made[0].files() == made[1].files(), "what is said of broken files does not differ from run to run"
    examples = list(read_examples(made[0].artifact, "train"))
    assert len(examples) == GOOD + len(odd)
    assert made[0].summary.rows_in == len(rows)
    assert sum(made[0].summary.dropped.values()) == len(HOSTILE)
    plain = make(source=_write(folder, [*good, *odd]), split={"test": 0}, task="text")
    assert [one.messages for one in read_examples(plain.artifact, "train")] == [one.messages for one in examples]
    reasons = " ".join(made[0].events["reason"])
    assert " object at 0x" not in reasons
    assert all(line in made[0].events["line"].to_list() for line in range(2, 2 * GOOD, 2))
