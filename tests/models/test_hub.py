"""The hub source, against a small hub of our own on the loopback; and wheels with models inside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from luthier.cli.app import run_command
from luthier.core.errors import DataError, ModelError
from luthier.core.events import RunEvent
from luthier.core.step import PlanContext
from luthier.core.store import Store
from luthier.models.describe import describe_model_folder
from luthier.models.gguf.writer import write_gguf
from luthier.models.sources.hub import HubModelSource
from luthier.models.sources.wheel import WheelModelSource
from luthier.models.steps.base import BaseModelStep
from luthier.recipe.models import download_model
from luthier.recipe.workspace import Workspace
from models.making import make_base
from tests.hub import COMMIT, FakeHub, publishing
from tiny_models import tiny_model


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    place = tiny_model(tmp_path / "published")
    (place / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (place / "pytorch_model.bin").write_bytes(b"pickle")
    with publishing(place, "models", "acme/tiny", monkeypatch, tmp_path / "hub-cache") as served:
        yield served


def test_online_fetches_and_offline_then_finds(hub: type[FakeHub], tmp_path: Path) -> None:
    heard: list[RunEvent] = []
    first = make_base(Store(tmp_path / "one"), HubModelSource(id="acme/tiny", online=True), tmp_path, heard)
    card = first.read_json("model.json")
    assert (card["name"], card["licence"], card["origin"]) == ("acme/tiny", "apache-2.0", f"hub acme/tiny at {COMMIT}")
    assert any(COMMIT in event.text for event in heard)
    assert not any("pytorch_model.bin" in asked for asked in hub.asked)
    hub.asked.clear()
    second = make_base(Store(tmp_path / "two"), HubModelSource(id="acme/tiny", revision=COMMIT), tmp_path)
    assert hub.asked == []
    assert first.manifest.files == second.manifest.files


def test_a_plan_knows_what_is_in_the_cache_and_asks_nobody(hub: type[FakeHub], tmp_path: Path) -> None:
    source = HubModelSource(id="acme/tiny", online=True)
    assert source.here(tmp_path) is None
    assert source.size(tmp_path) is None
    (tmp_path / "made").mkdir()
    source.fetch(tmp_path / "made", tmp_path, lambda said: None)
    hub.asked.clear()
    place = source.here(tmp_path)
    assert place is not None
    assert (source.size(tmp_path) or 0) > (place / "model.safetensors").stat().st_size
    outline = BaseModelStep(source=source).outline(PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path))
    assert outline.parameters == describe_model_folder(tmp_path / "made").parameters
    assert hub.asked == []


def test_offline_is_the_default_and_asks_nobody(hub: type[FakeHub], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not in the local hub cache") as caught:
        make_base(Store(tmp_path / "store"), HubModelSource(id="acme/tiny"), tmp_path)
    assert "online: true" in caught.value.hint
    assert hub.asked == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (HubModelSource(id="acme/other", online=True), "the hub has no model 'acme/other'"),
        (HubModelSource(id="acme/tiny", revision="v9", online=True), "no revision 'v9'"),
        (HubModelSource(id="acme/gated", online=True), "accepted its terms"),
    ],
)
def test_what_the_hub_refuses_is_said(hub: type[FakeHub], tmp_path: Path, source: HubModelSource, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        make_base(Store(tmp_path / "store"), source, tmp_path)


def test_a_hub_that_cannot_be_reached(hub: type[FakeHub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        make_base(Store(tmp_path / "store"), HubModelSource(id="acme/tiny", online=True), tmp_path)
    assert "HF_ENDPOINT" in caught.value.hint


def test_online_is_part_of_neither_the_identity_nor_the_id() -> None:
    assert HubModelSource(id="a/b").identity(Path()) == HubModelSource(id="a/b", online=True).identity(Path())
    assert HubModelSource(id="a/b").identity(Path()) != HubModelSource(id="a/b", revision="v1").identity(Path())
    with pytest.raises(ValidationError, match="OWNER/NAME"):
        HubModelSource(id="../etc")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the user's only index, with one package that holds a model twice."""
    import zipfile

    place = tiny_model(tmp_path / "model")
    write_gguf(place, tmp_path / "m.gguf", "tiny", None)
    folder = tmp_path / "index"
    folder.mkdir()
    info = "tiny_llm-2.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_llm-2.0-py3-none-any.whl", "w") as archive:
        archive.write(tmp_path / "m.gguf", "tiny_llm/m.gguf")
        for one in place.iterdir():
            archive.write(one, f"tiny_llm/folder/{one.name}")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-llm\nVersion: 2.0\nLicense: MIT\n\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.mark.parametrize("path", ["tiny_llm/m.gguf", "tiny_llm/folder"])
def test_a_model_inside_a_package(index: Path, tmp_path: Path, path: str) -> None:
    source = WheelModelSource(package="tiny-llm", version="2.0", path=path)
    assert source.size(tmp_path) is None
    heard: list[RunEvent] = []
    artifact = make_base(Store(tmp_path / "one"), source, tmp_path, heard)
    assert any("pip" in event.text for event in heard)
    assert artifact.read_json("model.json")["licence"] == "MIT"
    assert artifact.read_json("model.json")["parameters"] > 12_000
    size = source.size(tmp_path)
    assert size is not None
    next(index.iterdir()).unlink()
    again = make_base(Store(tmp_path / "two"), source, tmp_path)
    assert again.manifest == artifact.manifest
    assert not list((tmp_path / "cache").rglob(".take.*"))


def test_what_a_package_does_not_hold(index: Path, tmp_path: Path) -> None:
    for path in ("tiny_llm/n.gguf", "tiny_llm/none"):
        with pytest.raises(DataError, match="holds no"):
            make_base(
                Store(tmp_path / "store"), WheelModelSource(package="tiny-llm", version="2.0", path=path), tmp_path
            )


@pytest.fixture
def fetched(hub: type[FakeHub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    """The hub, and a user who has nothing yet."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return hub


def test_models_get_fetches_from_the_hub(fetched: type[FakeHub], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["models", "get", "acme/tiny"]) == 0
    told = capsys.readouterr()
    folder = Path(told.out.strip())
    assert (folder / "model.safetensors").is_file()
    size = sum(path.stat().st_size for path in fetched.place.iterdir() if path.suffix != ".bin") / 1e6
    assert "acme/tiny: fetching acme/tiny (revision main) from the hub" in told.err
    assert re.search(rf"{size:,.1f}/{size:,.1f} MB", told.err), told.err
    fetched.asked.clear()
    assert run_command(["models", "get", "acme/tiny"]) == 0
    assert capsys.readouterr().out.strip() == str(folder)
    assert fetched.asked == [], "what is here is not fetched again"
    assert run_command(["models", "describe", "acme/tiny"]) == 0, "a recipe with `model: acme/tiny` finds it, too"


def test_a_file_goes_on_after_a_broken_connection(fetched: type[FakeHub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    fetched.breaks_off = "model.safetensors"
    data = (fetched.place / "model.safetensors").read_bytes()
    assert (download_model(Workspace.open_current(), "acme/tiny") / "model.safetensors").read_bytes() == data
    assert any(re.search(r"model.safetensors from \d+000$", asked) for asked in fetched.asked), fetched.asked


def test_whole_files_of_a_download_that_was_stopped_are_not_fetched_again(fetched: type[FakeHub]) -> None:
    published = replace(HubModelSource(id="acme/tiny")._published(), online=True)
    published.snapshot(["config.json"])
    fetched.asked.clear()
    download_model(Workspace.open_current(), "acme/tiny")
    got = [asked for asked in fetched.asked if asked.startswith("GET") and "/resolve/" in asked]
    assert got
    assert not any(asked.endswith("/config.json") for asked in got)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("HF_ENDPOINT", "http://127.0.0.1:9", "the hub cannot be reached"),
        ("HF_HUB_OFFLINE", "1", "HF_HUB_OFFLINE forbids"),
    ],
)
def test_without_a_hub_it_is_said_in_words(
    fetched: type[FakeHub], monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", variable == "HF_HUB_OFFLINE")
    with pytest.raises(ModelError, match=says):
        download_model(Workspace.open_current(), "acme/tiny")
