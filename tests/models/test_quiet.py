"""Nothing is printed while models are converted, opened and exported, and bars come back afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers.utils import logging

from luthier.core.store import Store
from luthier.models.export.checkpoint import export_model_folder
from luthier.models.gguf.writer import write_gguf
from luthier.models.load import load_model
from luthier.models.quiet import silence_gguf_progress
from luthier.models.sources.folder import FolderModelSource
from luthier.models.sources.gguf import Gguf
from models.making import make_base, tiny_adapter
from tiny_models import tiny_model


def test_the_library_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = tiny_model(tmp_path / "tiny")
    store = Store(tmp_path / "store")
    adapter = tiny_adapter(store, make_base(store, FolderModelSource(path="tiny"), tmp_path))
    capfd.readouterr()
    write_gguf(place, tmp_path / "m.gguf", "tiny", None)
    load_model(make_base(store, Gguf(path="m.gguf"), tmp_path))
    export_model_folder(adapter, tmp_path / "merged", "merged")
    export_model_folder(adapter, tmp_path / "gguf", "gguf")
    assert capfd.readouterr() == ("", "")


def test_bars_are_as_they_were_afterwards() -> None:
    from transformers import modeling_gguf_pytorch_utils as reader

    bar = reader.tqdm
    before = logging.is_progress_bar_enabled()
    with silence_gguf_progress():
        assert not logging.is_progress_bar_enabled()
    assert logging.is_progress_bar_enabled() is before
    assert reader.tqdm is bar
