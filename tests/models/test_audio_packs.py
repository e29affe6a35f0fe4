"""Packs with sounds: log-probabilities, gradients and answers are those of the plain processor and model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from audio_models import FAMILIES, OMNI, played, sound, tiny_audio_model
from luthier.chat.media import MEDIA_IDS, load_processor
from luthier.chat.media_codec import decode_audio
from luthier.chat.messages import MEDIA_MARK, Media, Message
from luthier.chat.tokenizer import ChatTokenizer
from luthier.models.describe import read_config
from luthier.models.load import pick_auto_class
from luthier.models.media import towers
from luthier.models.media.towers import attach_media
from luthier.models.packing.logprobs import compute_pack_logprobs, detect_forward_mode
from luthier.models.packing.pack import TokenRow, build_pack
from luthier.models.shapes import find_part
from models.packed_media import compare_gradients, compare_greedy_answers

FIRST, FIRST_BYTES = sound(1, 0.5)
SECOND, SECOND_BYTES = sound(2, 1.1)
OTHER, OTHER_BYTES = sound(3, 0.5)
BYTES = {FIRST.digest: FIRST_BYTES, SECOND.digest: SECOND_BYTES, OTHER.digest: OTHER_BYTES}


def converse(second: Media) -> list[tuple[Message, ...]]:
    """Rows with several sounds, one sound in several rows, and a row of text between them."""
    return [
        played("what is this?", FIRST, second, answer="two sounds"),
        played("what is this?", FIRST, second, answer="two of them"),
        played("what is this?", SECOND, answer="one"),
        played("and what is that?", FIRST, answer="another"),
        played("what?", answer="no sound"),
        (*played("what is this?", FIRST, answer="no"), *played("so?", second, FIRST, answer="yes")),
    ]


class AudioModelCase:
    """A tiny model of a family in float64, with what reads rows for it."""

    def __init__(self, folder: Path, family: str) -> None:
        self.family = family
        self.text, self.processor = ChatTokenizer.load(folder), load_processor(folder)
        more = {"experts_implementation": "eager"} if family == "qwen3_omni" else {}
        self.model = (
            pick_auto_class(read_config(folder)).from_pretrained(folder, dtype=torch.float64, **more).double().eval()
        )
        attach_media(self.model, self.text.media, BYTES.__getitem__)
        # these two lengthen sounds to the longest of the row, and their numbers with them
        self.conversations = converse(OTHER if family in ("granite_speech", "qwen3_omni") else SECOND)
        if family == "audioflamingo3":  # its processor takes one sound a conversation
            self.conversations = [
                messages for messages in self.conversations if sum(len(message.media) for message in messages) < 2
            ]

    def rows(self, conversations: Sequence[tuple[Message, ...]]) -> list[TokenRow]:
        encoded = [self.text.encode(messages) for messages in conversations]
        return [TokenRow(row.ids, list(map(float, row.loss_mask)), str(number)) for number, row in enumerate(encoded)]

    def plain_inputs(self, messages: tuple[Message, ...], *, prompt: bool = False) -> dict[str, Tensor]:
        turns, sounds = [], []
        for message in messages:
            samples = [decode_audio(BYTES[media.digest])[0] for media in message.media]
            text = {"type": "text", "text": message.content.replace(MEDIA_MARK, "")}
            turns.append(
                {"role": message.role, "content": [*({"type": "audio", "audio": one} for one in samples), text]}
            )
            sounds += samples
        if self.family == "voxtral":
            return self._voxtral_inputs(turns, sounds, prompt=prompt)
        inputs = self.processor.apply_chat_template(
            turns, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=prompt
        )
        return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}

    def _voxtral_inputs(self, turns: list[Any], sounds: list[Any], *, prompt: bool) -> dict[str, Tensor]:
        """What `VoxtralProcessor` makes; its ids are mistral-common's, which writes 375 tokens for 30 seconds."""
        text = self.text.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
        text = text.replace("[AUDIO]", "[AUDIO]" * 375)
        inputs = dict(self.text.tokenizer(text, return_tensors="pt", add_special_tokens=False))
        inputs.pop("token_type_ids", None)
        if sounds:
            options = dict(self.processor.audio_kwargs)
            most = options.pop("max_source_positions")
            inputs["input_features"] = self.processor._retrieve_input_features(sounds, most, **options).double()
        return inputs

    def read_in_fp32(self, monkeypatch: Any) -> None:
        """Let no switch to float64 reach the spectrograms, which are the processor's."""
        media = self.text.media
        assert media is not None
        sounds = (FIRST, SECOND, OTHER)
        ready = {media.meet(one): media.build_inputs(media.meet(one), BYTES[one.digest]) for one in sounds}
        monkeypatch.setattr(media, "build_inputs", lambda key, content: ready[key])

    def plain(self, conversations: Sequence[tuple[Message, ...]], given: Sequence[Any] | None = None) -> Tensor:
        """Log-probabilities of learnt tokens as processor and model give them, each conversation by itself."""
        found, made = [], given or list(map(self.plain_inputs, conversations))
        for inputs, row in zip(made, self.rows(conversations), strict=True):
            assert inputs["input_ids"][0].tolist() == self.text.plain_ids(row.ids)
            logp = torch.log_softmax(self.model(**inputs).logits[0], -1)
            found += [logp[at - 1, inputs["input_ids"][0, at]] for at in row.targets]
        return torch.stack(found)


@pytest.fixture(autouse=True)
def forget_features() -> Iterator[None]:
    """No test finds features that another one read in another precision."""
    yield
    for read in towers._TOWERS.values():
        read._features.clear()
        read._states.clear()


@pytest.fixture(scope="module", params=FAMILIES)
def audio_model(request: Any, tmp_path_factory: Any) -> AudioModelCase:
    if request.param == "granite_speech":
        pytest.importorskip("torchaudio", reason="Granite Speech's features need torchaudio")
    return AudioModelCase(tiny_audio_model(tmp_path_factory.mktemp("sounded"), request.param), request.param)


def test_features_are_the_processors(audio_model: AudioModelCase) -> None:
    media = audio_model.text.media
    assert media is not None
    for medium in (FIRST, SECOND):
        expected = audio_model.plain_inputs(played("what?", medium))
        found = media.build_inputs(media.meet(medium), BYTES[medium.digest])
        assert found
        for name, value in found.items():
            torch.testing.assert_close(value.to(expected[name].dtype), expected[name], rtol=0, atol=0)


def test_log_probabilities_are_the_plain_models(audio_model: AudioModelCase) -> None:
    rows = audio_model.rows(audio_model.conversations)
    pack = build_pack(rows, share_from=1)
    assert detect_forward_mode(audio_model.model).packed
    with torch.no_grad():
        found, expected = compute_pack_logprobs(audio_model.model, pack), audio_model.plain(audio_model.conversations)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    read = pack.ids[pack.ids >= MEDIA_IDS]
    given = sum(token >= MEDIA_IDS for row in rows for token in row.ids)
    assert 0 < len(read) <= given
    assert (len(read) < given) == (audio_model.family != "audioflamingo3"), "rows with one beginning share their sounds"


def test_two_sounds_are_never_taken_for_one(audio_model: AudioModelCase) -> None:
    """What is read below the second sound is not what is read below the first, though all else is the same."""
    both = [played("what is this?", media, answer="a thing") for media in (FIRST, OTHER)]
    pack = build_pack(audio_model.rows(both), share_from=1)
    with torch.no_grad():
        found, expected = compute_pack_logprobs(audio_model.model, pack), audio_model.plain(both)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    halves = expected.view(2, -1)
    assert (halves[0] - halves[1]).abs().max() > 1e-6


@pytest.mark.matrix("*projector")
@pytest.mark.parametrize("moving", ["all", "towers", "projector", "language"])
def test_gradients_are_the_plain_models(audio_model: AudioModelCase, moving: str, monkeypatch: Any) -> None:
    if moving == "projector" and audio_model.family in OMNI:
        pytest.skip("what joins its encoder of sounds and the decoder is part of the encoder")
    assert {find_part(name) for name, _ in audio_model.model.named_parameters()} >= {"language", "projector", "audio"}
    audio_model.read_in_fp32(monkeypatch)
    given = list(map(audio_model.plain_inputs, audio_model.conversations))
    rows, most_tokens = audio_model.rows(audio_model.conversations), 1000 if audio_model.family == "voxtral" else 60
    read = compare_gradients(
        audio_model.model, rows, moving, lambda: audio_model.plain(audio_model.conversations, given), most_tokens
    )
    if moving != "language":
        digests = {media.digest for row in audio_model.conversations for turn in row for media in turn.media}
        assert len(read) == len(digests), "a step reads each sound once, in however many packs it stands"


@pytest.mark.matrix("[!v]*")
def test_greedy_answers_are_the_plain_models(audio_model: AudioModelCase) -> None:
    compare_greedy_answers(audio_model, audio_model.conversations, min_new_tokens=12)
