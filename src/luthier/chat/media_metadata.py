"""List the metadata of an image or a recording (EXIF, XMP, IPTC, tags), without decoding it.

Names only are told, never values. `keep_media` leaves all of it out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Literal

from luthier.chat.media_bytes import sniff_media_format

MetadataKind = Literal["position", "exif", "xmp", "iptc", "comment", "tags"]
_GPS = 0x8825
"""The tag of a TIFF's first directory that leads to the position."""
_TIFF_TAGS: dict[int, MetadataKind] = {
    _GPS: "position",
    0x8769: "exif",
    0x02BC: "xmp",
    0x83BB: "iptc",
    0x010E: "comment",
    0x013B: "tags",
}
_PNG_CHUNKS: dict[bytes, MetadataKind] = {
    b"tEXt": "comment",
    b"zTXt": "comment",
    b"iTXt": "comment",
    b"tIME": "tags",
}
_WAV_CHUNKS = frozenset({b"LIST", b"bext", b"iXML", b"id3 ", b"ID3 ", b"_PMX"})
_FLAC_TAGS = frozenset({4, 5, 6})
"""Comments, cue sheets, pictures."""


def list_metadata(content: bytes) -> list[MetadataKind]:
    """The kinds of metadata in a file, in order of their names; what is broken is told as far as it can be read."""
    walk = {
        "png": _walk_png,
        "jpeg": _walk_jpeg,
        "webp": _walk_webp,
        "tiff": _walk_tiff,
        "gif": _walk_gif,
        "wav": _walk_wav,
        "flac": _walk_flac,
        "mp3": _walk_mp3,
    }.get(sniff_media_format(content) or "")
    return sorted(set(walk(content))) if walk else []


def _walk_png(content: bytes) -> Iterator[MetadataKind]:
    begin = 8
    while begin + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, begin)
        name, body = content[begin + 4 : begin + 8], content[begin + 8 : begin + 8 + length]
        if name == b"eXIf":
            yield from _walk_exif(body)
        elif name == b"iTXt" and body.startswith(b"XML:com.adobe.xmp"):
            yield "xmp"
        elif name in _PNG_CHUNKS:
            yield _PNG_CHUNKS[name]
        begin += 12 + length


def _walk_jpeg(content: bytes) -> Iterator[MetadataKind]:
    begin = 2
    while begin + 4 <= len(content) and content[begin] == 0xFF and content[begin + 1] not in (0xD9, 0xDA):
        marker = content[begin + 1]
        if marker == 0xFF:
            begin += 1
            continue
        (length,) = struct.unpack_from(">H", content, begin + 2)
        body = content[begin + 4 : begin + 2 + length]
        if marker == 0xE1 and body.startswith(b"Exif\0"):
            yield from _walk_exif(body[6:])
        elif marker == 0xE1:
            yield "xmp"
        elif marker == 0xED:
            yield "iptc"
        elif marker == 0xFE:
            yield "comment"
        begin += 2 + max(2, length)


def _walk_webp(content: bytes) -> Iterator[MetadataKind]:
    for name, body in _riff_bodies(content):
        if name == b"EXIF":
            yield from _walk_exif(body.removeprefix(b"Exif\0\0"))
        elif name == b"XMP ":
            yield "xmp"


def _walk_exif(body: bytes) -> Iterator[MetadataKind]:
    """EXIF is a TIFF without a picture."""
    yield "exif"
    yield from (kind for kind in _walk_tiff(body) if kind == "position")


def _walk_tiff(content: bytes) -> Iterator[MetadataKind]:
    """The tags of the first directory."""
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None or len(content) < 8:
        return
    (begin,) = struct.unpack_from(f"{order}I", content, 4)
    if begin + 2 > len(content):
        return
    (count,) = struct.unpack_from(f"{order}H", content, begin)
    for at in range(begin + 2, min(begin + 2 + 12 * count, len(content) - 11), 12):
        (tag,) = struct.unpack_from(f"{order}H", content, at)
        if tag in _TIFF_TAGS:
            yield _TIFF_TAGS[tag]


def _walk_gif(content: bytes) -> Iterator[MetadataKind]:
    if b"\x21\xfe" in content:
        yield "comment"
    if b"XMP DataXMP" in content:
        yield "xmp"


def _walk_wav(content: bytes) -> Iterator[MetadataKind]:
    if any(name in _WAV_CHUNKS for name, _ in _riff_bodies(content)):
        yield "tags"


def _riff_bodies(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    begin = 12
    while begin + 8 <= len(content):
        (length,) = struct.unpack_from("<I", content, begin + 4)
        yield content[begin : begin + 4], content[begin + 8 : begin + 8 + length]
        begin += 8 + length + (length & 1)


def _walk_flac(content: bytes) -> Iterator[MetadataKind]:
    begin = 4
    while begin + 4 <= len(content):
        head = content[begin]
        if head & 0x7F in _FLAC_TAGS:
            yield "tags"
        if head & 0x80:
            return
        begin += 4 + int.from_bytes(content[begin + 1 : begin + 4], "big")


def _walk_mp3(content: bytes) -> Iterator[MetadataKind]:
    if content.startswith(b"ID3") or content[-128:-125] == b"TAG":
        yield "tags"
