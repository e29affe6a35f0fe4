"""Folders of pictures and sounds are read as `datasets` reads them, and a recipe is proposed for them."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from luthier.artifacts.dataset import read_examples
from luthier.chat.messages import MEDIA_MARK
from luthier.core.errors import DataError
from luthier.data.suggest.propose import propose_recipe
from media import picture, sound
from tests.data.engine.test_video_and_pages import film

Make = Callable[..., Any]


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    folder = tmp_path / "garments"
    for number in range(24):
        path = folder / ("coat", "shoe")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed=number))
    (folder / "README.md").write_text("# Garments\n")
    return folder


def test_classes_are_folders_also_in_a_zip(make: Make, tmp_path: Path, classes: Path) -> None:
    with zipfile.ZipFile(tmp_path / "garments.zip", "w") as packed:
        for path in sorted(classes.rglob("*.png")):
            packed.write(path, path.relative_to(tmp_path / "garments"))
    made = [
        make(source={"kind": "mediafolder", "path": name}, split={"test": 6}) for name in ("garments", "garments.zip")
    ]
    for one in made:
        every = [example for split in one.summary.rows for example in read_examples(one.artifact, split)]
        assert len(every) == 24
        assert one.summary.labels == ["coat", "shoe"]
        assert {example.messages[0].content for example in every} == {MEDIA_MARK}
        assert all(Path(example.origin.file).parts[-2] == example.label for example in every)
    assert made[0].files()["media/00000.parquet"] == made[1].files()["media/00000.parquet"]


def test_a_table_says_what_belongs_to_each(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "spoken"
    (folder / "wav").mkdir(parents=True)
    rows = []
    for number in range(12):
        (folder / "wav" / f"{number}.wav").write_bytes(sound(seed=number))
        rows.append({"file_name": f"wav/{number}.wav", "transcription": f"number {number}", "speaker": number % 3})
    (folder / "metadata.csv").write_text(
        "file_name,transcription,speaker\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows)
    )
    made = make(source={"kind": "mediafolder", "path": "spoken", "group": "speaker"}, split={"test": 0.3}, task="text")
    every = [example for split in made.summary.rows for example in read_examples(made.artifact, split)]
    assert [example.messages[-1].content for example in sorted(every, key=lambda one: one.origin.line)] == [
        row["transcription"] for row in rows
    ]
    assert all(example.messages[0].media[0].rate == 8000 for example in every)
    (folder / "metadata.csv").write_text("name,transcription\na.wav,b\n")
    with pytest.raises(DataError, match="names no file"):
        make(source={"kind": "mediafolder", "path": "spoken"}, split={"test": 0}, task="text")


def test_a_recipe_is_proposed(tmp_path: Path, classes: Path) -> None:
    proposal = propose_recipe(classes)
    assert proposal.source["kind"] == "mediafolder"
    assert (proposal.source["prompt"], proposal.source["answer"]) == ("image", "label")
    assert "picture" in proposal.source["system"]
    assert proposal.task == "label"
    assert proposal.profile.media == {"image": 24}
    assert proposal.profile.separability is None
    assert proposal.is_media_alone
    assert not propose_recipe(classes, prompt="{image} What is it?").is_media_alone
    assert proposal.left == 24
    rows = [{"q": "What is it?", "a": f"thing {n}", "image": f"coat/{2 * n}.png"} for n in range(12)]
    (classes / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    proposal = propose_recipe(classes / "rows.jsonl", shown="../garments/rows.jsonl", prompt="q", answer="a")
    assert proposal.source["media_folder"] == "../garments"
    assert proposal.left == 12


def test_a_link_out_of_the_folder_is_refused(make: Make, tmp_path: Path, classes: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture())
    (classes / "coat" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="leads out of the folder"):
        make(source={"kind": "mediafolder", "path": "garments"}, split={"test": 6})


def _tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as packed:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))


def test_samples_of_a_tar_are_rows(make: Make, tmp_path: Path) -> None:
    members = {}
    for number in range(12):
        members[f"{number:04}.png"] = picture(seed=number)
        members[f"{number:04}.cls"] = ("coat", "shoe")[number % 2].encode()
    _tar(tmp_path / "rows.tar.gz", members)
    made = make(source={"kind": "webdataset", "path": "rows.tar.gz"}, split={"test": 3})
    every = [example for split in made.summary.rows for example in read_examples(made.artifact, split)]
    assert len(every) == 12
    assert made.summary.labels == ["coat", "shoe"]
    assert all(example.messages[0].media[0].width == 12 for example in every)
    assert propose_recipe(tmp_path / "rows.tar.gz").source["kind"] == "webdataset"
    _tar(tmp_path / "bad.tar", {**dict(list(members.items())[:4]), "9.png": b"", "9.json": b"[1]"})
    with pytest.raises(DataError, match="expected a JSON object") as caught:
        make(source={"kind": "webdataset", "path": "bad.tar"}, split={"test": 0})
    assert caught.value.where.line == 3
    (tmp_path / "half.tar").write_bytes((tmp_path / "bad.tar").read_bytes()[:700])
    with pytest.raises(DataError, match="tar that can be read"):
        make(source={"kind": "webdataset", "path": "half.tar"}, split={"test": 0})


def _scan(path: Path, pages: int, shade: int) -> None:
    images = [Image.new("RGB", (60, 80), (shade, shade, 10 * page)) for page in range(pages)]
    images[0].save(path, "PDF", save_all=True, append_images=images[1:])


def test_scans_are_pictures_of_pages(make: Make, tmp_path: Path) -> None:
    for number in range(24):
        path = tmp_path / "forms" / ("order", "return")[number % 2] / f"{number}.pdf"
        path.parent.mkdir(parents=True, exist_ok=True)
        _scan(path, 1 + number % 3, 10 * number)
    proposal = propose_recipe(tmp_path / "forms")
    assert (proposal.source["kind"], proposal.task) == ("mediafolder", "label")
    made = make(source={"kind": "mediafolder", "path": "forms"}, split={"test": 4})
    every = [example for split in made.summary.rows for example in read_examples(made.artifact, split)]
    assert sorted(len(example.messages[0].media) for example in every) == [1] * 8 + [2] * 8 + [3] * 8
    assert made.summary.labels == ["order", "return"]


def test_pages_of_one_scan_are_named_by_a_table(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "forms"
    folder.mkdir()
    _scan(folder / "scans.pdf", 12, 100)
    with pytest.raises(DataError, match="it is a scan") as caught:
        propose_recipe(folder / "scans.pdf")
    assert "scans.pdf#page=1" in (caught.value.hint or "")
    rows = [{"file_name": f"scans.pdf#page={page}", "answer": f"form {page}"} for page in range(1, 13)]
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert propose_recipe(folder).source["kind"] == "mediafolder"
    made = make(source={"kind": "mediafolder", "path": "forms"}, split={"test": 2})
    every = [example for split in made.summary.rows for example in read_examples(made.artifact, split)]
    assert len({example.messages[0].media[0].digest for example in every}) == 12


def test_films_are_frames_by_class_and_by_table(make: Make, tmp_path: Path) -> None:
    for number in range(10):
        path = tmp_path / "moves" / ("walk", "run")[number % 2] / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(film(3, rate=5 + number))
    assert propose_recipe(tmp_path / "moves").source["kind"] == "mediafolder"
    made = make(source={"kind": "mediafolder", "path": "moves", "video": {"max_frames": 2}}, split={"test": 2})
    every = [example for split in made.summary.rows for example in read_examples(made.artifact, split)]
    assert {example.messages[0].content for example in every} == {MEDIA_MARK * 2}
    assert made.summary.labels == ["run", "walk"]


def test_pictures_of_which_nothing_is_said_are_told(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / f"{number}.png").write_bytes(picture(seed=number))
    with pytest.raises(DataError, match="nothing says what to learn") as caught:
        propose_recipe(tmp_path / "flat")
    assert "metadata.jsonl" in (caught.value.hint or "")
