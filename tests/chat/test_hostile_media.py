"""Broken and hostile files of pictures and sounds: each is one error with a remedy, bounded before it is decoded."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
import soundfile

from hostile import ODD_PICTURES, PICTURES, SOUNDS
from luthier.chat import media_codec
from luthier.chat.media_bytes import count_jpeg_scans
from luthier.chat.media_codec import decode_audio, decode_image, keep_media
from luthier.chat.media_metadata import list_metadata
from luthier.core.errors import DataError
from media import picture

MOST = 16 << 20
"""Bytes that reading a hostile file may take: less than what most of them announce, by far."""


@pytest.mark.parametrize("name", {**PICTURES, **SOUNDS})
def test_each_is_one_error_with_a_remedy_and_bounded_memory(name: str) -> None:
    file = {**PICTURES, **SOUNDS}[name]
    if "named as a" in name and file.content[:4] in (b"RIFF", b"\x89PNG"):
        decode = decode_image if name in PICTURES else decode_audio
        with pytest.raises(DataError, match="not a"):
            decode(file.content)
        return
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            keep_media(file.content)
        assert tracemalloc.get_traced_memory()[1] < MOST + len(file.content)
    finally:
        tracemalloc.stop()
    assert file.problem in caught.value.message or file.problem.startswith("is a ")
    assert " object at 0x" not in caught.value.message
    assert caught.value.hint
    list_metadata(file.content)


@pytest.mark.parametrize("name", ODD_PICTURES)
def test_odd_pictures_are_kept_as_plain_ones(name: str) -> None:
    kept = keep_media(ODD_PICTURES[name][0])
    image = decode_image(kept.content)
    assert image.size == (12, 8)
    assert image.mode == "RGB"
    assert keep_media(kept.content).media.digest == kept.media.digest


@pytest.mark.parametrize("name", ["OGG", "OPUS", "FLAC", "MP3", "AIFF", "WAV"])
def test_long_sounds_are_refused_before_a_sample_is_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    container, subtype = ("OGG", "OPUS") if name == "OPUS" else (name, None)
    soundfile.write(out, np.zeros(16000), 16000, format=container, subtype=subtype)
    assert keep_media(out.getvalue()).media.seconds == pytest.approx(1, abs=0.1)
    monkeypatch.setattr(media_codec, "MAX_FRAMES", 8000)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("samples are decoded")

    monkeypatch.setattr(soundfile.SoundFile, "blocks", refuse)
    monkeypatch.setattr(media_codec, "_to_float", refuse)
    with pytest.raises(DataError, match="says that it lasts 1 second"):
        keep_media(out.getvalue())


def test_progressive_pictures_have_few_scans() -> None:
    assert count_jpeg_scans(picture("JPEG", size=(64, 64), progressive=True)) in range(2, 20)
    assert count_jpeg_scans(picture("JPEG", size=(64, 64))) == 1
