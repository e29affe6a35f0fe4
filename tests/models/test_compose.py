"""A language model with eyes: the step's folder is transformers' own LLaVA, and a recipe tunes and measures it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.core.events import RunEventEmitter
from luthier.core.step import StepContext
from luthier.core.store import Store
from luthier.models.describe import describe_model_folder
from luthier.models.load import load_model
from luthier.models.steps.compose import Compose, NewEncoder
from models.making import tiny_base
from pictured import picture, shown

SMALL = NewEncoder(image_size=14, patch_size=7, hidden_size=16, layers=1, heads=2)


def compose(store: Store, decoder: Artifact, encoder: Any, seed: int = 7) -> Path:
    step = Compose(encoder=encoder)
    folder, scratch = store.begin(step.recipe_digest({"decoder": decoder.digest}, {}, seed))
    step.make(
        StepContext(
            name="eyes",
            inputs={"decoder": decoder},
            folder=folder,
            scratch=scratch,
            recipe_dir=folder,
            seed=seed,
            events=RunEventEmitter([].append).of("eyes"),
        )
    )
    return folder


def test_the_decoder_speaks_as_before_and_reads_pictures(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    store, base = tiny_base(tmp_path)
    folder = compose(store, base, SMALL)
    described = describe_model_folder(folder)
    assert set(described.parts) == {"language", "projector", "vision"}
    assert sum(described.parts.values()) == described.parameters
    composed = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    text, plain = ChatTokenizer.load(folder), ChatTokenizer.load(base.folder)
    messages = shown("what is the price?", answer="a refund")
    ids = torch.tensor([text.encode(messages).ids])
    assert ids.tolist() == [plain.encode(messages).ids]
    with torch.no_grad():
        expected = load_model(base, "float32").model(input_ids=ids).logits
        found = composed(input_ids=ids).logits
    torch.testing.assert_close(found[..., : expected.shape[-1]], expected)
    row = text.encode(shown("what is it?", picture(1)[0], answer="a refund"))
    assert len(row.media) == 1
    again = compose(store, base, SMALL, seed=8)
    assert (folder / "model.safetensors").read_bytes() != (again / "model.safetensors").read_bytes()


def test_an_encoder_is_taken_as_it_is(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import SiglipVisionConfig, SiglipVisionModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    store, base = tiny_base(tmp_path)
    config = SiglipVisionConfig(
        image_size=14, patch_size=7, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    SiglipVisionModel(config).save_pretrained(tmp_path / "siglip")
    SiglipImageProcessorPil(size={"height": 14, "width": 14}).save_pretrained(tmp_path / "siglip")
    made, own = compose(store, base, str(tmp_path / "siglip")), load_file(tmp_path / "siglip" / "model.safetensors")
    weights = load_file(made / "model.safetensors")
    name = "embeddings.patch_embedding.weight"
    found = next(value for key, value in weights.items() if key.endswith(name))
    assert torch.equal(found, next(value for key, value in own.items() if key.endswith(name)))


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    with pytest.raises(ModelError, match="no encoder of pictures"):
        compose(store, base, str(tmp_path / "tiny"))
