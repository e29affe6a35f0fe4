"""What the encoder of a model that transcribes is said to compute is what torch counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSpeechSeq2Seq

from luthier.models.describe import describe_model_folder
from luthier.models.media.encoder_cost import KEEP_BYTES, forecast_encoder
from spoken import tiny_speech
from workshop import tiny_model


def test_operations_are_those_that_torch_counts(tmp_path: Path) -> None:
    found = forecast_encoder(describe_model_folder(tiny_speech(tmp_path)))
    assert found is not None
    assert (found.states, found.width) == (100, 32)
    model = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path, attn_implementation="eager").eval()
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model.get_encoder()(torch.zeros(1, 80, 200))
    assert found.flops == pytest.approx(counted.get_total_flops(), rel=0.01)
    assert found.kept_bytes(10, 2) == 10 * 100 * 32 * 2
    assert found.kept_bytes(1e9, 2) == KEEP_BYTES


def test_a_model_of_text_has_none(tmp_path: Path) -> None:
    tiny_model(tmp_path)
    assert forecast_encoder(describe_model_folder(tmp_path)) is None


def test_moonshines_is_guessed_by_ten_seconds(tmp_path: Path) -> None:
    found = forecast_encoder(describe_model_folder(tiny_speech(tmp_path, "moonshine")))
    assert found is not None
    assert found.flops > 0
