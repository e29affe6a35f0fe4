"""What plans foresee of sounds: the tokens are the processor's, and no torch is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from audio_models import FAMILIES, SECONDS, played, sound, tiny_audio_model
from luthier.chat.tokenizer import ChatTokenizer
from luthier.models.describe import read_config
from luthier.models.media.cost import count_image, count_sound, estimate_tower_bytes, read_media_settings
from luthier.models.token_counts import count_row_tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sound_has_as_many_tokens_as_its_processor_writes(tmp_path: Path, family: str) -> None:
    if family == "granite_speech":
        pytest.importorskip("torchaudio", reason="Granite Speech's features need torchaudio")
    folder = tiny_audio_model(tmp_path / "m", family)
    media = ChatTokenizer.load(folder).media
    assert media is not None
    assert media.audio is not None
    for length in (0.3, 1.0, 1.7):
        expected = media.audio.lay_out(sound(1, length)[0]).count
        found = count_sound(read_media_settings(folder), length)
        assert found is not None
        assert abs(found.features - expected) <= max(3, 0.05 * expected)


def test_rows_count_their_sounds(tmp_path: Path) -> None:
    folder = tiny_audio_model(tmp_path / "m")
    media = [sound(seed, 1.0)[0] for seed in (1, 2)]
    rows = [
        {"messages": [message.model_dump(mode="json") for message in played("what is this?", one, answer="a sound")]}
        for one in media
    ]
    counts = count_row_tokens(rows, folder)
    encoded = [ChatTokenizer.load(folder).encode(played("what is this?", one, answer="a sound")) for one in media]
    for length, row in zip(counts.lengths, encoded, strict=True):
        assert abs(length - len(row.ids)) <= 4
    assert counts.pictures == 1
    assert counts.patches == 50 * SECONDS, "the encoder reads its whole window"
    (folder / "model.json").write_text('{"max_seconds": 0.4}')
    assert max(count_row_tokens(rows, folder).lengths) < min(counts.lengths) - 10
    assert count_image(read_media_settings(folder), 28, 28) is None
    assert estimate_tower_bytes(read_config(folder), 100, 4) == 100 * 2 * (8 * 24 + 2 * 32) * 4
