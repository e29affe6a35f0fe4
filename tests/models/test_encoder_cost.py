"""What the encoders of models that transcribe, see and hear are said to compute is what torch counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSpeechSeq2Seq

from luthier.models.cost import RowEstimate, count_decoder_parameters, estimate_tower_flops
from luthier.models.describe import describe_composition, describe_model_folder
from luthier.models.media.compose import VisionEncoder
from luthier.models.media.compose_shapes import describe_new_vision_encoder, predict_llava
from luthier.models.media.cost import KEEP_BYTES, forecast_encoder
from spoken import tiny_speech
from tiny_models import tiny_model


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


def test_a_towers_operations_are_those_that_torch_counts(tmp_path: Path) -> None:
    """Of each picture, in a composition that is not made; no token of text passes them."""
    from transformers import SiglipVisionModel

    sizes = {"image_size": 28, "patch_size": 7, "hidden_size": 192, "layers": 2, "heads": 3}
    tiny_model(tmp_path)
    decoder = describe_model_folder(tmp_path)
    spec = predict_llava(decoder, describe_new_vision_encoder(**sizes))
    model = describe_composition(spec.config, spec.tensors, tmp_path)
    tower = SiglipVisionModel(VisionEncoder.new(**sizes).config).eval()
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        tower(torch.zeros(1, 3, 28, 28))
    rows = RowEstimate(40, 50.0, 4.0, "told", pictures=0.5, features=16.0, patches=16.0)
    assert estimate_tower_flops(model, rows) == pytest.approx(20 * counted.get_total_flops(), rel=0.05)
    assert count_decoder_parameters(model) == count_decoder_parameters(decoder)
    assert estimate_tower_flops(decoder, rows) == 0
