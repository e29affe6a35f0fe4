"""Sounds as tokens: equal to transformers' own processor, at its rate, never longer than the model hears."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audio_models import SECONDS, played, sound, tiny_audio_model
from luthier.chat.media import MEDIA_IDS, MediaProcessor, get_media_key, get_media_place
from luthier.chat.media_codec import encode_wav, media_of_bytes
from luthier.chat.messages import MEDIA_MARK, Message
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.errors import DataError, ModelError

FIRST, FIRST_BYTES = sound(1)
LONG, LONG_BYTES = sound(2, 3.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return tiny_audio_model(tmp_path_factory.mktemp("sounded"))


def processor_of(text: ChatTokenizer) -> MediaProcessor:
    assert text.media is not None
    return text.media


def test_each_sound_has_ids_of_its_own(folder: Path) -> None:
    text = ChatTokenizer.load(folder)
    row = text.encode(played("what?", FIRST, FIRST, answer="one twice"))
    ids = [token for token in row.ids if token >= MEDIA_IDS]
    count = len(ids) // 2
    assert ids[:count] == ids[count:], "one sound has one name"
    assert [get_media_place(token) for token in ids[:count]] == list(range(count))
    other, _ = sound(9)
    assert {get_media_key(token) for token in text.encode(played("what?", other, answer="x")).ids if token >= MEDIA_IDS}
    assert [span.digest for span in row.media] == [FIRST.digest] * 2


def test_a_typed_token_stays_text(folder: Path) -> None:
    text = ChatTokenizer.load(folder)
    row = text.encode((Message(role="user", content=f"<|AUDIO|>{MEDIA_MARK}", media=(FIRST,)),))
    assert sum(token >= MEDIA_IDS for token in row.ids) == 12
    assert "<|AUDIO|>" in text.decode(row.ids).replace("<|AUDIO|>" * 12, "", 1)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_a_sound_is_brought_to_the_models_rate_as_transformers_does(folder: Path, rate: int, tmp_path: Path) -> None:
    from transformers.audio_utils import load_audio

    _, content = sound(3, 0.37, rate)
    path = tmp_path / "sound.wav"
    path.write_bytes(content)
    media = processor_of(ChatTokenizer.load(folder))
    assert media.audio is not None
    found = media.audio.read(content)
    np.testing.assert_array_equal(found, load_audio(str(path), 16_000, backend="soundfile"))
    media.build_inputs(media.meet(media_of_bytes(content)), content)


def test_two_channels_become_one(folder: Path) -> None:
    import soundfile

    both = np.stack([np.full(8000, 0.25), np.full(8000, 0.75)], axis=1)
    made = io.BytesIO()
    soundfile.write(made, both, 16_000, format="WAV", subtype="FLOAT")
    audio = processor_of(ChatTokenizer.load(folder)).audio
    assert audio is not None
    np.testing.assert_allclose(audio.read(made.getvalue()), 0.5)


def test_a_sound_that_is_longer_than_the_model_hears_is_refused(folder: Path) -> None:
    text = ChatTokenizer.load(folder)
    row = text.encode(played("what?", LONG, answer="long"))
    assert row.nothing == "the sound is longer than the 2 seconds that the model hears"
    assert not any(row.loss_mask)
    with pytest.raises(DataError, match="longer than the 2 seconds") as caught:
        text.prompt(played("what?", LONG))
    assert "max_seconds" in str(caught.value.hint)
    media = processor_of(text)
    with pytest.raises(DataError, match="longer than the 2 seconds"):
        media.build_inputs(media.meet(LONG), LONG_BYTES)


def test_max_seconds_cuts_has_its_price_and_other_ids(folder: Path) -> None:
    whole, short = ChatTokenizer.load(folder), ChatTokenizer.load(folder, max_seconds=1)
    media = processor_of(short)
    assert media.audio is not None
    rows = [short.encode(played("?", one, answer="x")) for one in (LONG, FIRST)]
    assert [sum(token >= MEDIA_IDS for token in row.ids) for row in rows] == [25, 12]
    assert [row.cut for row in rows] == ["prompt", ""]
    assert whole.encode(played("?", FIRST, answer="x")).ids != short.encode(played("?", FIRST, answer="x")).ids
    mask = media.build_inputs(media.meet(LONG), LONG_BYTES)["feature_attention_mask"]
    assert int(mask.sum()) == 100


def test_max_seconds_beyond_what_the_model_hears_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match=f"max_seconds is 7, and the model hears at most {SECONDS}"):
        ChatTokenizer.load(folder, max_seconds=7)


def test_bytes_of_another_length_are_refused(folder: Path) -> None:
    media = processor_of(ChatTokenizer.load(folder))
    with pytest.raises(DataError, match=r"was said to last 0\.5"):
        media.build_inputs(media.meet(FIRST), encode_wav(np.zeros(20_000, np.float32), 16_000))


def test_features_lie_one_after_another_in_their_sound(folder: Path) -> None:
    media = processor_of(ChatTokenizer.load(folder))
    assert media.audio is not None
    spans = media.audio.locate_features(FIRST)
    assert spans[0][0] == 0
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert spans[-1][1] == pytest.approx(0.5, abs=0.05)
    assert spans[0][1] == pytest.approx(0.04)
