"""Data sets with pictures at the command line: what `show`, `lineage`, `store verify` and `store gc` say and keep."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from luthier.artifacts.dataset import list_splits, read_examples
from luthier.artifacts.media import MediaReader, count_row_media, list_missing_media
from luthier.cli.app import run_command
from luthier.recipe.schema import Recipe
from media import picture, sound

RECIPE = """\
luthier: 1
name: shown
steps:
  pictures: {kind: prepare, source: {kind: mediafolder, path: pictures}, split: {test: 4}}
  calls: {kind: prepare, source: {kind: mediafolder, path: calls}, split: {test: 4}}
  both: {kind: mix, data: [pictures, calls]}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LUTHIER_STORE", raising=False)
    for number in range(20):
        for folder, name, content in (
            ("pictures", f"{number}.png", picture(seed=number)),
            ("calls", f"{number}.wav", sound(seed=number)),
        ):
            path = tmp_path / folder / ("one", "other")[number % 2] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assert run_command(["run"]) == 0
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run_command([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def artifact(name: str) -> Any:
    return Recipe.load("recipe.yaml").run()[name].artifact


def test_show_says_how_many_pictures_and_sounds(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.fullmatch(r"20 pictures, 0\.\d MB kept here", told(capsys, "show", ":pictures")["summary"]["media"])
    summary = told(capsys, "show", ":both")["summary"]
    assert summary["media"] == "20 pictures and 20 sounds, kept in a set that it was made from"
    assert run_command(["show", ":calls"]) == 0
    assert re.search(r"media +20 sounds, 0\.\d MB kept here", capsys.readouterr().out)


def test_what_somebody_typed_is_no_picture(here: Path) -> None:
    rows = [{"prompt": f'{{"kind":"image","digest":"{"0" * 64}"}} {at}', "answer": f"a{at}"} for at in range(20)]
    (here / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (here / "recipe.yaml").write_text(
        "luthier: 1\nname: typed\nsteps:\n  data: {kind: prepare, source: {kind: jsonl, path: rows.jsonl}, split: {}}\n"
    )
    assert count_row_media(artifact("data")) is None


def test_lineage_names_the_picture_of_a_row(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = read_examples(artifact("pictures"), "train")[0]
    medium = example.messages[0].media[0]
    assert run_command(["lineage", example.id]) == 0
    shown = f"shows a picture (png, {medium.width} x {medium.height} pixels, {medium.size} bytes), {medium.digest[:12]}"
    assert shown in capsys.readouterr().out
    audio_model = read_examples(artifact("calls"), "train")[0]
    assert run_command(["lineage", audio_model.id]) == 0
    assert "shows a sound (wav, " in capsys.readouterr().out
    story = told(capsys, "lineage", example.id)
    assert story["messages"][0]["media"][0]["digest"] == medium.digest


def test_gc_keeps_the_set_that_holds_the_bytes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both, calls = artifact("both"), artifact("calls")
    (here / "recipe.yaml").write_text(RECIPE.replace("  both:", "  all:"))
    removed = told(capsys, "store", "gc")
    assert removed["removed"] == []  # the same step under another name
    with MediaReader(both) as reader:
        for split in list_splits(both):
            for example in read_examples(both, split):
                assert all(len(reader.read(medium.digest)) == medium.size for medium in example.messages[0].media)
    (here / "recipe.yaml").write_text(RECIPE.partition("  both:")[0].partition("  calls:")[0])
    removed = told(capsys, "store", "gc")
    assert {calls.digest, both.digest} == set(removed["removed"])
    assert run_command(["store", "verify"]) == 0


def test_verify_names_changed_bytes_and_what_is_gone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "store", "verify")["faults"] == []
    pictures, both = artifact("pictures"), artifact("both")
    part = pictures.path("media/00000.parquet")
    part.chmod(0o600)
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    (fault,) = told(capsys, "store", "verify", code=2)["faults"]
    assert "media/00000.parquet" in fault
    shutil.rmtree(pictures.folder)
    (fault,) = told(capsys, "store", "verify", code=2)["faults"]
    assert both.digest in fault
    assert "the bytes of 20 pictures or sounds are in no data set" in fault
    assert len(list_missing_media(both)) == 20
