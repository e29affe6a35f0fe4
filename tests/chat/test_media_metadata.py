"""Metadata in files of pictures and sounds: told by name, as Pillow and soundfile write it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from luthier.chat.media_codec import keep_media
from luthier.chat.media_metadata import list_metadata
from media import picture, sound


def _exif(*, position: bool) -> bytes:
    exif = Image.Exif()
    exif[0x0110] = "a camera"
    if position:
        exif.get_ifd(0x8825)[1] = "N"
        exif.get_ifd(0x8825)[2] = (53.0, 47.0, 59.0)
    return exif.tobytes()


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_exif_and_position_are_told_apart(name: str) -> None:
    assert list_metadata(picture(name)) == []
    assert list_metadata(picture(name, exif=_exif(position=False))) == ["exif"]
    located = picture(name, exif=_exif(position=True))
    assert list_metadata(located) == ["exif", "position"]
    assert list_metadata(keep_media(located).content) == []


def test_other_kinds_of_each_format() -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", "somebody")
    assert list_metadata(picture("PNG", pnginfo=texts)) == ["comment"]
    assert list_metadata(picture("JPEG", comment=b"mine")) == ["comment"]
    assert list_metadata(picture("JPEG", xmp=b"<x/>")) == ["xmp"]
    assert list_metadata(picture("WEBP", xmp=b"<x/>")) == ["xmp"]
    assert list_metadata(picture("GIF", comment=b"mine")) == ["comment"]
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x010E], tags[0x013B] = "a house", "somebody"
    assert list_metadata(picture("TIFF", tiffinfo=tags)) == ["comment", "tags"]
    assert list_metadata(sound(chunks=b"LIST\x04\0\0\0INFO")) == ["tags"]
    assert list_metadata(sound()) == []
    soundfile = pytest.importorskip("soundfile")
    for name in ("FLAC", "MP3"):
        out = io.BytesIO()
        with soundfile.SoundFile(out, "w", 8000, 1, format=name) as file:
            file.title = "my voice"
            file.write(np.zeros(800))
        assert list_metadata(out.getvalue()) == ["tags"], name


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_broken_files_end_without_an_error(name: str) -> None:
    content = picture(name) if name == "TIFF" else picture(name, exif=_exif(position=True))
    chance = np.random.default_rng(0)
    for length in range(0, len(content), 3):
        damaged = bytearray(content[:length])
        if damaged:
            damaged[int(chance.integers(len(damaged)))] ^= 0xFF
        list_metadata(bytes(damaged))
