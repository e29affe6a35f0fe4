"""Pictures and sounds are read within bounds, kept without what was not shown, and broken ones are one error."""

from __future__ import annotations

import io
import random
import struct
import time
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageOps
from PIL.ExifTags import GPS, IFD, Base

from luthier.chat.media_bytes import sniff_media_format
from luthier.chat.media_codec import (
    MAX_FRAMES,
    decode_audio,
    decode_image,
    keep_media,
    media_of_bytes,
    resample_audio,
)
from luthier.core.errors import DataError
from media import picture, sound, wav

SECRET = b"Torstrasse 12"


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    exif[Base.ImageDescription] = SECRET.decode()
    exif.get_ifd(IFD.GPSInfo)[GPS.GPSLatitude] = (52.0, 31.0, 12.0)
    return exif


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_exif_turns_a_picture_and_goes(name: str, orientation: int) -> None:
    written = picture(name, exif=_exif(orientation))
    assert SECRET in written
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(written))).convert("RGB"))
    media, kept = keep_media(written)
    shown = np.asarray(decode_image(written))
    assert np.array_equal(shown, wanted)
    assert (media.width, media.height) == ((12, 8) if orientation == 1 else (8, 12))
    again = np.asarray(decode_image(kept))
    assert np.abs(again.astype(int) - wanted).mean() < 3  # a turned JPEG is encoded anew
    assert name == "JPEG" or np.array_equal(again, wanted)
    assert SECRET not in kept
    assert not Image.open(io.BytesIO(kept)).getexif()
    assert media == media_of_bytes(kept)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_a_plain_picture_keeps_its_bytes(name: str) -> None:
    content = picture(name)
    assert keep_media(content).content == content
    assert keep_media(content + b"a film behind the picture").content == content


def test_jpeg_with_restarts_and_many_scans_keeps_its_pixels() -> None:
    content = picture("JPEG", size=(97, 61), progressive=True, restart_marker_blocks=3, comment=SECRET)
    kept = keep_media(content).content
    assert SECRET not in kept
    assert np.array_equal(np.asarray(decode_image(kept)), np.asarray(decode_image(content)))


@pytest.mark.parametrize(
    ("name", "mode"),
    [*(("PNG", mode) for mode in ("I;16", "RGBA", "P", "LA", "1")), ("JPEG", "CMYK"), ("GIF", "P"), ("TIFF", "F")],
)
def test_every_mode_is_kept_as_eight_bits(name: str, mode: str) -> None:
    if mode == "I;16":
        out = io.BytesIO()
        Image.fromarray(np.array([[0, 0x8080], [0xFFFF, 0x4040]], np.uint16)).save(out, "PNG")
        content = out.getvalue()
        assert np.asarray(decode_image(content))[..., 0].tolist() == [[0, 128], [255, 64]]
    else:
        content = picture(name, mode=mode)
    media, kept = keep_media(content)
    again = Image.open(io.BytesIO(kept))
    assert again.mode in ("RGB", "L")
    assert media.format in ("png", "jpeg")
    assert keep_media(kept).content == kept


def test_what_is_seen_through_is_white() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(out, "PNG")
    assert np.asarray(decode_image(out.getvalue())).min() == 255


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_kept(name: str) -> None:
    frames = [Image.new("RGB", (6, 6), color) for color in ("red", "blue", "green")]
    out = io.BytesIO()
    frames[0].save(out, name, save_all=True, append_images=frames[1:], **({"lossless": True} if name == "WEBP" else {}))
    _, kept = keep_media(out.getvalue())
    again = Image.open(io.BytesIO(kept))
    assert getattr(again, "n_frames", 1) == 1
    assert np.asarray(again.convert("RGB"))[0, 0].tolist() == [255, 0, 0]


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png_bomb() -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + _chunk(b"IDAT", zlib.compress(bytes(60_000))) + _chunk(b"IEND", b"")


def _webp_bomb() -> bytes:
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + (16382).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff_bomb(width: int, tile: int) -> bytes:
    tags = [(256, 3, width), (257, 4, width), (258, 3, 8), (259, 3, 8), (262, 3, 1), (273, 4, 200), (277, 3, 1)]
    tags += [(322, 4, tile), (323, 4, tile), (324, 4, 200), (325, 4, 20)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + zlib.compress(bytes(100_000))


BOMBS = {
    "png": _png_bomb(),
    "gif": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\1\1\0;",
    "webp": _webp_bomb(),
    "tiff": _tiff_bomb(60_000, 1),
    "tiles": _tiff_bomb(10, 60_000),
    "bmp": b"BM" + struct.pack("<IIIIiiHHIIIIII", 100, 0, 54, 40, 40_000, 40_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "jpeg": picture("JPEG").replace(struct.pack(">HH", 8, 12), b"\xff\xf0\xff\xf0"),
    "wav": wav(bytes(2), 8000, 1, 8, 1)[:40] + struct.pack("<I", 2**31) + bytes(2),
    "channels": wav(bytes(2000), 8000, 1000, 8, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_its_header(name: str) -> None:
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(DataError) as caught:
        keep_media(BOMBS[name])
    assert caught.value.hint
    assert time.process_time() - began < 1
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_long_sound_is_refused_by_its_header() -> None:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(100, np.int16), 8000, format="FLAC")
    content = bytearray(out.getvalue())
    content[21:26] = (0x70FFFFFFFF).to_bytes(5, "big")  # 16 bits a sample, as many samples as the field holds
    assert MAX_FRAMES < 0xFFFFFFFF
    with pytest.raises(DataError, match="lasts"):
        decode_audio(bytes(content))


NONE = [b"", b"<svg/>", b"RIFF", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"fLaC", b"ID3", b"OggS", b"BM"]


@pytest.mark.parametrize("content", NONE)
def test_what_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(DataError):
        keep_media(content)


def _ogg() -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.random.default_rng(0).uniform(-0.5, 0.5, 2000), 16000, format="OGG", subtype="VORBIS")
    return out.getvalue()


WHOLE = {
    "png": picture("PNG", size=(40, 30)),
    "jpeg": picture("JPEG", size=(40, 30), exif=_exif(6)),
    "gif": picture("GIF", size=(40, 30)),
    "webp": picture("WEBP", size=(40, 30), exif=_exif(3)),
    "tiff": picture("TIFF", size=(40, 30), compression="tiff_lzw"),
    "bmp": picture("BMP", size=(40, 30)),
    "wav": sound(),
    "ogg": _ogg(),
}


@pytest.mark.parametrize("name", WHOLE)
def test_broken_files_are_one_kind_of_error(name: str) -> None:
    content, chance = WHOLE[name], random.Random(name)
    keep_media(content)
    for _ in range(150):
        broken = bytearray(content)
        for _ in range(chance.randint(1, 8)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        if chance.random() < 0.3:
            del broken[chance.randrange(len(broken)) :]
        with suppress(DataError):
            media, kept = keep_media(bytes(broken))
            assert media == media_of_bytes(kept)


@pytest.mark.parametrize("name", ["png", "jpeg", "gif", "webp", "tiff", "wav"])
def test_a_truncated_file_is_refused(name: str) -> None:
    content = WHOLE[name]
    with pytest.raises(DataError):
        keep_media(content[: len(content) * 2 // 3])


@pytest.mark.parametrize(("bits", "codec"), [(8, 1), (16, 1), (24, 1), (32, 1), (32, 3), (64, 3)])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_is_read_as_by_soundfile(bits: int, codec: int, channels: int) -> None:
    values = np.random.default_rng(1).uniform(-1, 1, (500, channels))
    out = io.BytesIO()
    subtype = {(8, 1): "PCM_U8", (32, 3): "FLOAT", (64, 3): "DOUBLE"}.get((bits, codec), f"PCM_{bits}")
    soundfile.write(out, values, 11025, format="WAV", subtype=subtype)
    samples, rate = decode_audio(out.getvalue())
    wanted, wanted_rate = soundfile.read(io.BytesIO(out.getvalue()), dtype="float32", always_2d=True)
    assert rate == wanted_rate == 11025
    np.testing.assert_allclose(samples, wanted.mean(axis=1), atol=1e-6)
    media, kept = keep_media(out.getvalue())
    assert (media.seconds, media.rate, media.format) == (round(500 / 11025, 6), 11025, "wav")
    np.testing.assert_array_equal(decode_audio(kept)[0], samples)


def test_tags_of_sounds_go() -> None:
    info = b"LIST" + struct.pack("<I", 4 + 8 + 14) + b"INFOIART" + struct.pack("<I", 14) + SECRET + b"\0"
    assert keep_media(sound(chunks=info)).content == sound()
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", 8000, 1, format="FLAC", subtype="PCM_16") as file:
        file.artist = SECRET.decode()
        file.write(np.arange(-500, 500, dtype=np.int16))
    assert SECRET in out.getvalue()
    media, kept = keep_media(out.getvalue())
    assert SECRET not in kept
    assert media.format == "flac"
    assert np.array_equal(decode_audio(kept)[0], decode_audio(out.getvalue())[0])
    media, kept = keep_media(_ogg())
    assert (media.format, media.rate, media.seconds) == ("flac", 16000, 0.125)


def test_samples_that_are_no_numbers_and_rates_that_cannot_be_are_refused() -> None:
    values = np.zeros(100, "<f4")
    values[7] = np.nan
    with pytest.raises(DataError, match="no numbers"):
        decode_audio(wav(values.tobytes(), 8000, 1, 32, 3))
    with pytest.raises(DataError, match="cannot be right"):
        decode_audio(wav(bytes(100), 0, 1, 16, 1))
    far = bytearray(sound())
    far[27] = 0xFF  # the highest byte of the rate
    with pytest.raises(DataError, match="cannot be right"):
        keep_media(bytes(far))
    with pytest.raises(DataError, match="4 samples a second"):
        decode_audio(wav(bytes(100), 4, 1, 16, 1))


def test_resampling_keeps_the_tone() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000).astype(np.float32)
    heard = resample_audio(tone, 8000, 16000)
    assert heard.dtype == np.float32
    assert len(heard) == 16000
    assert np.abs(np.fft.rfft(heard)).argmax() == 440


@pytest.mark.parametrize("content", [picture("PNG"), sound(), b"%PDF-1.4"])
def test_a_name_says_nothing(content: bytes) -> None:
    found = sniff_media_format(content)
    assert found in ("png", "wav", None)
    for decode in (decode_image, decode_audio):
        if (found == "png") != (decode is decode_image) or found is None:
            with pytest.raises(DataError, match="not a"):
                decode(content)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF000])
def test_a_streamed_sound_ends_where_its_file_does(length: int) -> None:
    content = sound(0.1)
    at = content.index(b"data") + 4
    streamed = content[:at] + struct.pack("<I", length) + content[at + 4 :]
    assert keep_media(streamed).content == keep_media(content).content
