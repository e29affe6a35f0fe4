"""A language model with eyes: the step's folder is transformers' own LLaVA, and a recipe tunes and measures it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from audio_models import played, sound
from luthier.chat.media_codec import decode_audio
from luthier.chat.messages import Message
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.core.events import RunEventEmitter
from luthier.core.step import ArtifactSpec, PlanContext, StepContext
from luthier.core.store import Store
from luthier.models.cost import describe_step_model, estimate_rows
from luthier.models.describe import describe_model_folder
from luthier.models.load import load_model
from luthier.models.media.compose_audio import AudioEncoder
from luthier.models.steps.compose import Compose, NewAudioEncoder, NewEncoder
from luthier.models.token_counts import count_row_tokens
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.layers import PartialFineTuning
from models.making import tiny_base
from vision_models import picture, shown

SMALL = NewEncoder(image_size=14, patch_size=7, hidden_size=16, layers=1, heads=2)


def compose(store: Store, decoder: Artifact, encoder: Any, seed: int = 7, **more: Any) -> Path:
    step = Compose(encoder=encoder, **more)
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

    store, base = tiny_base(tmp_path)
    siglip_folder(tmp_path / "siglip")
    made, own = compose(store, base, str(tmp_path / "siglip")), load_file(tmp_path / "siglip" / "model.safetensors")
    weights = load_file(made / "model.safetensors")
    name = "embeddings.patch_embedding.weight"
    found = next(value for key, value in weights.items() if key.endswith(name))
    assert torch.equal(found, next(value for key, value in own.items() if key.endswith(name)))


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    with pytest.raises(ModelError, match="no encoder of pictures"):
        compose(store, base, str(tmp_path / "tiny"))


def siglip_folder(folder: Path) -> Path:
    from transformers import SiglipVisionConfig, SiglipVisionModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    config = SiglipVisionConfig(
        image_size=14, patch_size=7, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    SiglipVisionModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 14, "width": 14}).save_pretrained(folder)
    return folder


def clip_folder(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={**sizes, "image_size": 14, "patch_size": 7}, text_config={**sizes, "vocab_size": 60}
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"height": 14, "width": 14}, crop_size={"height": 14, "width": 14}).save_pretrained(folder)
    return folder


def whisper_folder(folder: Path) -> Path:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=60, num_mel_bins=16, d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32, max_source_positions=1500,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=16).save_pretrained(folder)
    return folder


def test_a_decoder_hears_by_whispers_encoder_in_plain_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoProcessor, WhisperModel

    store, base = tiny_base(tmp_path)
    whisper = whisper_folder(tmp_path / "whisper")
    folder = compose(store, base, str(whisper), seconds=2)
    described = describe_model_folder(folder)
    assert described.architecture == "Qwen2AudioForConditionalGeneration"
    assert set(described.parts) == {"language", "projector", "audio"}
    assert described.parts["projector"] == 16 * described.hidden_size + described.hidden_size
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    processor, text = AutoProcessor.from_pretrained(folder), ChatTokenizer.load(folder)
    medium, content = sound(1, 0.5)
    spoken = {"type": "audio", "audio": decode_audio(content)[0]}
    turns = [{"role": "user", "content": [spoken, {"type": "text", "text": "what?"}]}]
    given = processor.apply_chat_template(
        turns, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    prompt = text.prompt(played("what?", medium))
    assert given["input_ids"][0].tolist() == text.plain_ids(prompt)
    with torch.no_grad():
        assert model(**given).logits.shape[1] == len(prompt)
    own = WhisperModel.from_pretrained(whisper).encoder.state_dict()
    for name, value in model.model.audio_tower.state_dict().items():
        assert torch.equal(value, own[name][: len(value)])
    messages = played("what is the price?", answer="a refund")
    ids = torch.tensor([text.encode(messages).ids])
    with torch.no_grad():
        expected = load_model(base, "float32").model(input_ids=ids).logits
        found = model(input_ids=ids).logits
    torch.testing.assert_close(found[..., : expected.shape[-1]], expected)


def test_a_new_encoder_of_sounds_is_drawn_from_the_seed(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    small = NewAudioEncoder(mel_bands=16, hidden_size=16, layers=1, heads=2)
    first, second = (compose(store, base, small, seed=seed, seconds=1) for seed in (7, 8))
    assert "audio" in describe_model_folder(first).parts
    assert (first / "model.safetensors").read_bytes() != (second / "model.safetensors").read_bytes()


def test_whispers_encoder_hears_no_longer_than_it_learnt(tmp_path: Path) -> None:
    tiny_base(tmp_path)
    with pytest.raises(ModelError, match="no encoder of sounds"):
        AudioEncoder.open(tmp_path / "tiny", 30)
    with pytest.raises(ValidationError, match="less than or equal to 30"):
        Compose(encoder=NewAudioEncoder(mel_bands=16), seconds=31)
    with pytest.raises(ValidationError, match="leave it out"):
        Compose(encoder=SMALL, seconds=3)
    with pytest.raises(ValidationError, match="give either"):
        Compose(encoder=SMALL, audio_encoder="whisper")


ENCODERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "new eyes": (SMALL, {}),
    "new ears": (NewAudioEncoder(mel_bands=16, hidden_size=16, layers=1, heads=2), {"seconds": 2}),
    "siglip": (siglip_folder, {}),
    "clip": (clip_folder, {}),
    "whisper": (whisper_folder, {"seconds": 2}),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_what_is_composed_is_known_before(tmp_path: Path, name: str) -> None:
    """Each weight's shape and what stands for a picture or sound, as in the folder that is then made."""
    store, base = tiny_base(tmp_path)
    encoder, more = ENCODERS[name]
    encoder = encoder if isinstance(encoder, NewEncoder | NewAudioEncoder) else str(encoder(tmp_path / name))
    step = Compose(encoder=encoder, **more)
    made = describe_model_folder(compose(store, base, encoder, **more))
    spec = step.outline(PlanContext(inputs={"decoder": base}, upstream={}, recipe_dir=tmp_path))
    medium = sound(1, 0.5)[0] if "audio" in made.parts else picture(1)[0]
    turns = (played if "audio" in made.parts else shown)("what?", medium, answer="a thing")
    row = {"messages": [message.model_dump(mode="json") for message in turns]}
    rows = ArtifactSpec(rows={"train": 1}, examples=(row,))
    plans = [
        PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path, outlines={"data": rows, "model": outline})
        for outline in (spec, ArtifactSpec(tokenizer=made.folder))
    ]
    found, expected = (describe_step_model(plan) for plan in plans)
    assert found is not None
    assert expected is not None
    assert found.tensors == expected.tensors
    changed = {"disk_bytes", "dtype", "licence", "template"}
    assert found.model_dump(exclude=changed) == expected.model_dump(exclude=changed)
    assert found.dtype == expected.dtype
    foreseen, counted = (estimate_rows(None, plan) for plan in plans)
    assert foreseen == counted
    assert counted is not None
    assert counted.pictures == 1
    assert counted.patches > 0


def test_what_is_tuned_from_a_composition_is_foreseen_as_one(tmp_path: Path) -> None:
    """Before anything is made: the parts that learn are known by name, and pictures count."""
    _, base = tiny_base(tmp_path)
    eyes = Compose(encoder=SMALL).outline(PlanContext(inputs={"decoder": base}, upstream={}, recipe_dir=tmp_path))
    turns = shown("what is it?", picture(1)[0], answer="a thing")
    row = {"messages": [message.model_dump(mode="json") for message in turns]}
    rows = ArtifactSpec(rows={"train": 40}, examples=(row,))
    plan = PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path, outlines={"data": rows, "model": eyes})
    look = Tune(data="data", technique=PartialFineTuning(last=0, names=("*vision_tower*", "*projector*")))
    work = look.describe_training(plan)
    parts = describe_step_model(plan).parts  # type: ignore[union-attr]
    assert work is not None
    assert work.trainable == parts["vision"] + parts["projector"]
    blind = look.describe_training(replace(plan, outlines={"data": rows, "model": replace(eyes, config=None)}))
    assert blind is not None
    assert work.step_tokens > blind.step_tokens
    after = replace(plan, outlines={"data": rows, "model": look.outline(plan)})
    assert describe_step_model(after) == describe_step_model(plan)


def test_rows_share_what_stands_before_their_pictures(tmp_path: Path) -> None:
    """As in the ids that are read: a step reads the system turn once, and each picture."""
    store, base = tiny_base(tmp_path)
    folder = compose(store, base, SMALL)
    system = Message(role="system", content="You say which thing is shown, in a word or two.")
    rows = [(system, *shown("what is it?", picture(number)[0], answer="a thing")) for number in range(4)]
    counts = count_row_tokens([{"messages": [turn.model_dump(mode="json") for turn in row]} for row in rows], folder)
    text = ChatTokenizer.load(folder)
    ids = [text.encode(row).ids for row in rows]
    assert all(abs(length - len(row)) <= 1 for length, row in zip(counts.lengths, ids, strict=True))
    shared = next(at for at, tokens in enumerate(zip(*ids, strict=True)) if len(set(tokens)) > 1)
    assert counts.shared == shared > 20


def test_an_encoder_that_is_not_here_is_foreseen_by_the_decoders_size(tmp_path: Path) -> None:
    """Nothing is said to be missing in it: its parts are not known yet."""
    _, base = tiny_base(tmp_path)
    step = Compose(audio_encoder="whisper", seconds=2)
    spec = step.outline(PlanContext(inputs={"decoder": base}, upstream={}, recipe_dir=tmp_path))
    assert spec == ArtifactSpec(
        parameters=describe_model_folder(base.folder).parameters, how="of the decoder that it is made of"
    )
    rows = ArtifactSpec(rows={"train": 4})
    plan = PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path, outlines={"data": rows, "model": spec})
    assert Tune(data="data", technique=PartialFineTuning(last=0, names=("*projector*",))).estimate_cost(plan).seconds
