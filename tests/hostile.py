"""Files of pictures and sounds that are broken, or made to cost memory or time, each with what is said of it."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import soundfile
from PIL import Image

from media import picture, sound, wav


class HostileFile(NamedTuple):
    """A file, the ending of its name, and a part of the error."""

    content: bytes
    ending: str
    problem: str


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks."""
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def _header(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


def _pixels(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IDAT", zlib.compress(bytes(height * (1 + 3 * width)))


def _tiff(width: int, height: int, **more: int) -> bytes:
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 273: 200, 277: 1, 278: height, 279: 20, **more}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(300)


def _ogg(subtype: str, granule: int) -> bytes:
    """A sound of half a second that says it ends at another place."""
    out = io.BytesIO()
    values = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
    soundfile.write(out, values, 16000, format="OGG", subtype=subtype)
    content = bytearray(out.getvalue())
    last = content.rindex(b"OggS")
    content[last + 6 : last + 14] = struct.pack("<q", granule)
    content[last + 22 : last + 26] = bytes(4)
    content[last + 22 : last + 26] = struct.pack("<I", _ogg_checksum(bytes(content[last:])))
    return bytes(content)


def _ogg_checksum(page: bytes) -> int:
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    return value


def _jpeg_of_many_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    out = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(out, "JPEG", progressive=True)
    content = out.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + b"\xff\xd9"


def _flac(frames: int) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(100, np.int16), 8000, format="FLAC")
    content = bytearray(out.getvalue())
    content[21:26] = (0x70 << 32 | frames).to_bytes(5, "big")
    return bytes(content)


def _sound(name: str, **more: Any) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.random.default_rng(0).uniform(-0.5, 0.5, 4000), 16000, format=name, **more)
    return out.getvalue()


_NAN = np.where(np.arange(100) == 7, np.nan, 0).astype("<f4").tobytes()
_LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 9))
_SVG = (
    f'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY l0 "ha">{_LAUGHS}]><svg width="9" height="9"><text>&l8;</text></svg>'
)
_WEBP = b"WEBPVP8L" + struct.pack("<I", 5) + b"\x2f" + struct.pack("<I", 0x3FFF | 0x3FFF << 14) + b"\0"

PICTURES = {
    "png bomb": HostileFile(png(_header(60_000, 60_000), _pixels(10, 10), (b"IEND", b"")), "png", "far too large"),
    "png of no pixels": HostileFile(png(_header(0, 10), (b"IEND", b"")), "png", "picture"),
    "png text bomb": HostileFile(
        png(_header(9, 9), (b"zTXt", b"a\0\0" + zlib.compress(bytes(90 << 20))), _pixels(9, 9), (b"IEND", b"")),
        "png",
        "picture",
    ),
    "png that lacks rows": HostileFile(png(_header(90, 90), _pixels(9, 9), (b"IEND", b"")), "png", "picture"),
    "gif bomb": HostileFile(
        b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\1\1\0;", "gif", "far too large"
    ),
    "webp bomb": HostileFile(b"RIFF" + struct.pack("<I", len(_WEBP)) + _WEBP, "webp", "16384 x 16384"),
    "tiff bomb": HostileFile(_tiff(60_000, 60_000), "tiff", "far too large"),
    "bmp bomb": HostileFile(
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 100, 0, 54, 40, 40_000, 40_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "bmp",
        "far too large",
    ),
    "jpeg bomb": HostileFile(
        picture("JPEG").replace(struct.pack(">HH", 8, 12), b"\xff\xf0\xff\xf0"), "jpg", "far too large"
    ),
    "jpeg of many scans": HostileFile(_jpeg_of_many_scans(2000), "jpg", "scans"),
    "svg bomb": HostileFile(_SVG.encode(), "png", "not a picture"),
    "page named as a picture": HostileFile(b"<!doctype html><title>404</title>", "png", "not a picture"),
    "zip named as a picture": HostileFile(b"PK\3\4" + bytes(60), "jpg", "not a picture"),
    "empty picture": HostileFile(b"", "png", "is empty"),
    "truncated jpeg": HostileFile(picture("JPEG", size=(40, 30))[:400], "jpg", "picture"),
    "truncated webp": HostileFile(picture("WEBP", size=(40, 30))[:200], "webp", "picture"),
    "sound named as a picture": HostileFile(sound(), "png", "is a sound"),
}
SOUNDS = {
    "opus that ends elsewhere": HostileFile(_ogg("OPUS", 1 << 40), "ogg", "cannot be read"),
    "flac bomb": HostileFile(_flac(0xFFFFFFFF), "flac", "lasts"),
    "wav that says more": HostileFile(
        wav(bytes(2), 8000, 1, 8, 1)[:40] + struct.pack("<I", 2**31) + bytes(2), "wav", "ends before its end"
    ),
    "a thousand channels": HostileFile(wav(bytes(2000), 8000, 1000, 8, 1), "wav", "1000 channels"),
    "no rate": HostileFile(wav(bytes(100), 0, 1, 16, 1), "wav", "cannot be right"),
    "rate of 4": HostileFile(wav(bytes(100), 4, 1, 16, 1), "wav", "4 samples a second"),
    "samples that are no numbers": HostileFile(wav(_NAN, 8000, 1, 32, 3), "wav", "no numbers"),
    "no samples": HostileFile(wav(b"", 8000, 1, 16, 1), "wav", "no samples"),
    "empty sound": HostileFile(b"", "wav", "is empty"),
    "truncated ogg": HostileFile(_sound("OGG", subtype="VORBIS")[:300], "ogg", "cannot be read"),
    "truncated aiff": HostileFile(_sound("AIFF")[:40], "aiff", "sound"),
    "text named as a sound": HostileFile(b"hello" * 20, "mp3", "not a picture or a sound"),
    "picture named as a sound": HostileFile(picture(), "wav", "is a picture"),
}
ODD_PICTURES = {
    "animated gif": (picture("GIF", save_all=True, append_images=[Image.new("RGB", (12, 8), "red")] * 50), "gif"),
    "animated png": (picture("PNG", save_all=True, append_images=[Image.new("RGB", (12, 8), "red")] * 5), "png"),
    "animated webp": (picture("WEBP", save_all=True, append_images=[Image.new("RGB", (12, 8), "red")] * 5), "webp"),
    "cmyk": (picture("JPEG", mode="CMYK"), "jpg"),
    "16 bits": (picture("PNG", mode="I;16"), "png"),
    "alpha": (picture("PNG", mode="RGBA"), "png"),
    "palette": (picture("PNG", mode="P"), "png"),
    "one bit": (picture("TIFF", mode="1"), "tiff"),
    "png named jpg": (picture("PNG"), "jpg"),
}
"""Pictures that are unlike most, and whole."""
