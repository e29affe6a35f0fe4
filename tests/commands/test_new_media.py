"""`luthier new --from` a folder of pictures or sounds writes a recipe that runs as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.cli.app import run_command
from luthier.recipe.schema import Recipe
from media import picture, sound


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def propose(place: Path, *words: str) -> Recipe:
    assert run_command(["new", "shop", "--from", "files", *words]) == 0
    return Recipe.load(place / "shop" / "recipe.yaml")


def written(place: Path) -> str:
    return (place / "shop" / "recipe.yaml").read_text(encoding="utf-8")


def fill(place: Path, suffix: str, *, classes: bool) -> None:
    """Twelve files, in two folders or beside a table of what is said in them."""
    lines = ["file_name,text"]
    for number in range(12):
        content = picture(seed=number) if suffix == "png" else sound(seed=number)
        folder = place / "files" / (("good", "bad")[number % 2] if classes else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.{suffix}").write_bytes(content)
        lines.append(f"{number}.{suffix},this is what the caller number {number} says to us")
    if not classes:
        (place / "files" / "metadata.csv").write_text("\n".join(lines))


def test_pictures_by_class_are_seen_through_a_new_encoder(place: Path) -> None:
    fill(place, "png", classes=True)
    recipe = propose(place)
    assert recipe.steps["eyes"].settings()["kind"] == "compose"
    assert recipe.steps["align"].settings()["model"] == "eyes"
    tune = recipe.steps["tune"].settings()
    assert tune["model"] == "align"
    assert tune["technique"]["on"] == ["language", "projector"]
    assert "macro_f1 > blind" in recipe.steps["gate"].settings()["rules"]


def test_a_classifier_of_words_is_not_offered_for_pictures(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its training failed: no word was left to learn from."""
    fill(place, "png", classes=True)
    assert run_command(["new", "shop", "--from", "files", "--technique", "plain"]) == 2
    assert "plain weighs words" in capsys.readouterr().err
    assert run_command(["advise", "files", "--json"]) == 0
    told = {one["technique"]: one for one in json.loads(capsys.readouterr().out)["techniques"]}
    assert "weighs words" in told["plain"]["left_out"]


def test_sounds_by_class_are_heard_through_whispers_encoder(place: Path) -> None:
    fill(place, "wav", classes=True)
    recipe = propose(place)
    assert recipe.steps["ears"].settings()["audio_encoder"] == "whisper"
    assert recipe.steps["align"].settings()["model"] == "ears"
    assert "model: smollm2-135m-instruct" in written(place)


def test_sounds_with_what_is_said_are_transcribed(place: Path) -> None:
    fill(place, "wav", classes=False)
    recipe = propose(place)
    assert "model: whisper-tiny.en" in written(place)
    source = recipe.steps["data"].settings()["source"]
    assert (source["prompt"], source["answer"]) == ("audio", "text")
    assert [metric["kind"] for metric in recipe.steps["report"].settings()["metrics"]] == ["wer", "cer"]
    assert recipe.steps["gate"].settings()["rules"] == ["wer < base"]
    assert "eyes" not in recipe.steps


def test_a_model_that_is_asked_for_is_taken(place: Path) -> None:
    fill(place, "wav", classes=False)
    recipe = propose(place, "--model", "models/own")
    assert "whisper" not in written(place)
    assert not {"ears", "align"} & set(recipe.steps)
