"""The tutorial of photographs works as it stands: on drawn photographs and a tiny model, from the folder to the served
answer."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from luthier.artifacts.dataset import read_examples
from luthier.cli.app import run_command
from luthier.recipe.schema import Recipe
from luthier.serve.engines.torch import TorchEngine
from serving import serving
from tests.targets import artifact_of
from tiny_models import own_cache, tiny_model

PAGE = (Path(__file__).parents[1] / "docs" / "tutorial-photographs.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (luthier .*)$", PAGE, re.MULTILINE)


def block(language: str) -> str:
    """The one block of a language on the page."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with photographs, which are mostly red or mostly blue, and a tiny model of text."""
    folder = tmp_path_factory.mktemp("photographs")
    for at, name in enumerate(("damaged", "whole")):
        (folder / "photographs" / name).mkdir(parents=True)
        for number in range(1, 13):
            colour = (120 + 10 * number, 20, 3 * number)
            image = Image.new("RGB", (64, 48), colour if at else colour[::-1])
            image.paste((255, 255, 255), (4 * number, 2 * number, 4 * number + 9, 2 * number + 7))
            image.save(folder / "photographs" / name / f"{number:04}.jpg")
    tiny_model(folder / "tiny-model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", own_cache(folder))
        patch.chdir(folder)
        yield folder


def test_the_page_is_run_from_top_to_bottom(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[str] = []
    monkeypatch.setattr("luthier.commands.serve.serve", lambda workspace, models, *_, **__: served.extend(models) or 0)
    assert run_command(shlex.split(COMMANDS[0])[1:]) == 0
    proposed = Recipe.load(place / "parcels" / "recipe.yaml", ["model=../tiny-model"])
    assert proposed.steps["data"].settings()["source"]["kind"] == "mediafolder"
    assert proposed.steps["tune"].settings()["model"] == "align"
    assert proposed.steps["eyes"].settings()["kind"] == "compose"
    text = (
        block("yaml")
        .replace("smollm2-135m-instruct", "../tiny-model")
        .replace("path: photographs", "path: ../photographs")
    )
    (place / "parcels" / "recipe.yaml").write_text(text, encoding="utf-8")
    for line in COMMANDS[1:]:
        words = shlex.split(line.replace("parcels:tune", "parcels/recipe.yaml:tune"))[1:]
        if "EXAMPLE" in words:
            rows = read_examples(artifact_of("parcels/recipe.yaml:data").artifact, "test")
            words[words.index("EXAMPLE")] = rows[0].id
        assert run_command(words) in (0, 1, 3), line
    assert served == ["parcels/recipe.yaml:tune"]
    assert "<svg" in (place / "heat.html").read_text(encoding="utf-8") or "<img" in (place / "heat.html").read_text()
    measures: dict[str, Any] = artifact_of("parcels/recipe.yaml:report").artifact.read_json("metrics.json")["models"]
    assert {"tuned", "base", "majority", "blind"} <= set(measures)
    _ask_the_served_model(place)


def _ask_the_served_model(place: Path) -> None:
    """The page's Python, against a server of the model that the page tuned."""
    tuned = artifact_of("parcels/recipe.yaml:tune").artifact
    with serving({"parcels": lambda: TorchEngine(dtype="float32").open(tuned)}, place / "ledger.db") as served:
        told: list[str] = []
        code = block("python").replace("http://127.0.0.1:8000/v1", served.listening.url)
        exec(compile(code, "tutorial-photographs.md", "exec"), {"print": told.append})  # the page's own words
    assert told
    assert isinstance(told[0], str)
