"""Containers of pictures and sounds: what a header says before anything is decoded, and the file without metadata.

Nothing here decodes a pixel or a sample: the parts of a file are walked once, and those that say where, when, by whom
or with what it was made (EXIF with its position, XMP, IPTC, comments, tags) are left out; the rest is copied.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from luthier.core.errors import DataError

AGAIN = "replace the file, or set `on_error: drop` in the source to leave its row out and list it"
_PNG = b"\x89PNG\r\n\x1a\n"
_FRAMES_OF_MP3 = [bytes([0xFF, second]) for second in (0xE2, 0xE3, 0xF2, 0xF3, 0xFA, 0xFB)]
_SIGNATURES: list[tuple[str, int, Sequence[bytes]]] = [
    ("png", 0, [_PNG]),
    ("jpeg", 0, [b"\xff\xd8\xff"]),
    ("gif", 0, [b"GIF87a", b"GIF89a"]),
    ("tiff", 0, [b"II*\0", b"MM\0*"]),
    ("riff", 0, [b"RIFF"]),
    ("flac", 0, [b"fLaC"]),
    ("ogg", 0, [b"OggS"]),
    ("mp3", 0, [b"ID3", *_FRAMES_OF_MP3]),
    ("form", 0, [b"FORM"]),
    ("bmp", 0, [b"BM"]),
]
_FORMS = {
    "riff": {b"WEBP": "webp", b"WAVE": "wav"},
    "form": {b"AIFF": "aiff", b"AIFC": "aiff"},
}
"""What the name behind the length says of files that many formats share."""
_PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT"})
_WEBP_METADATA = {b"EXIF": 0x08, b"XMP ": 0x04}
"""The chunks that are left out, and the bit of the header that announces each."""
_WAV_CODECS = {1: "i", 3: "f"}
"""Whole numbers and floating point; others need the library."""
_EXTENSIBLE = 0xFFFE
_STREAMED = frozenset({0xFFFFFFFF, 0x7FFFF000})
"""The lengths that programs write which do not know it yet (the second one: sox, espeak-ng): all that follows."""
_MOST_BYTES_A_SECOND = 0xFFFFFFFF


class WavHeader(NamedTuple):
    """What a WAV file says of its samples, and where they stand in it."""

    codec: int
    channels: int
    rate: int
    block: int
    """Bytes of one frame: a sample of each channel."""
    bits: int
    begin: int
    end: int

    @property
    def frames(self) -> int:
        """Samples of one channel."""
        return (self.end - self.begin) // self.block


def sniff_media_format(content: bytes) -> str | None:
    """What a file is by its first bytes, whatever its name says; None for what is neither a picture nor a sound."""
    for name, begin, signatures in _SIGNATURES:
        if any(content.startswith(signature, begin) for signature in signatures):
            form = _FORMS.get(name)
            return name if form is None else form.get(content[8:12])
    return None


def strip_png(content: bytes) -> bytes:
    """A PNG with nothing but its picture: no text, time or EXIF, no frames after the first, nothing behind its end."""
    kept, begin = [_PNG], len(_PNG)
    while begin + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, begin)
        name, end = content[begin + 4 : begin + 8], begin + 12 + length
        if end > len(content):
            break
        if name in _PNG_CHUNKS:
            kept.append(content[begin:end])
        if name == b"IEND":
            return b"".join(kept)
        begin = end
    raise DataError("the PNG ends before its end", hint=AGAIN)


def strip_jpeg(content: bytes) -> bytes:
    """A JPEG with nothing but its picture: no EXIF, XMP, IPTC or comment, nothing behind its end.

    What readers need to show the right colors stays: JFIF's header, Adobe's, the color profile.
    """
    kept, begin = [content[:2]], 2
    while begin + 4 <= len(content):
        if content[begin] != 0xFF:
            break
        marker = content[begin + 1]
        if marker == 0xFF:  # bytes that only fill
            begin += 1
            continue
        if marker == 0xD9:
            return b"".join([*kept, b"\xff\xd9"])
        (length,) = struct.unpack_from(">H", content, begin + 2)
        end = begin + 2 + max(2, length)
        if marker == 0xDA:
            end = _end_of_scan(content, end)
        segment = content[begin:end]
        profile = marker == 0xE2 and segment[4:15] == b"ICC_PROFILE"
        if profile or marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(segment)
        begin = end
    if content[begin : begin + 2] == b"\xff\xd9":
        return b"".join([*kept, b"\xff\xd9"])
    raise DataError("the JPEG ends before its end", hint=AGAIN)


def count_jpeg_scans(content: bytes) -> int:
    """How many scans a JPEG holds, up to where it is broken."""
    count, begin = 0, 2
    while begin + 4 <= len(content) and content[begin] == 0xFF and content[begin + 1] != 0xD9:
        if content[begin + 1] == 0xFF:
            begin += 1
            continue
        (length,) = struct.unpack_from(">H", content, begin + 2)
        end = begin + 2 + max(2, length)
        if content[begin + 1] == 0xDA:
            count += 1
            end = _end_of_scan(content, end)
        begin = end
    return count


def _end_of_scan(content: bytes, begin: int) -> int:
    """Where the compressed data end: at a marker that is none of their own."""
    while (begin := content.find(b"\xff", begin)) != -1 and begin + 1 < len(content):
        following = content[begin + 1]
        if following != 0 and not 0xD0 <= following <= 0xD7 and following != 0xFF:
            return begin
        begin += 1 if following == 0xFF else 2
    return len(content)


def _riff_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The chunks of a RIFF file: name, and where what it holds begins and ends; the last one may be cut short."""
    begin = 12
    while begin + 8 <= len(content):
        (length,) = struct.unpack_from("<I", content, begin + 4)
        yield content[begin : begin + 4], begin + 8, begin + 8 + length
        begin += 8 + length + (length & 1)


def webp_size(content: bytes) -> tuple[int, int]:
    """Width and height that the header of a WebP file gives: its library takes memory for them when it opens it."""
    name = content[12:16]
    if name == b"VP8X" and len(content) >= 30:
        return (int.from_bytes(content[24:27], "little") + 1, int.from_bytes(content[27:30], "little") + 1)
    if name == b"VP8L" and len(content) >= 25:
        bits = int.from_bytes(content[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if name == b"VP8 " and len(content) >= 30:
        width, height = struct.unpack_from("<HH", content, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise DataError("the WebP has no header that can be read", hint=AGAIN)


def strip_webp(content: bytes) -> bytes:
    """A WebP without EXIF and XMP, and with nothing behind its end."""
    kept, end = [], 0
    for name, begin, end in _riff_chunks(content):
        if end > len(content):
            raise DataError("the WebP ends before its end", hint=AGAIN)
        if name in _WEBP_METADATA:
            continue
        body = content[begin:end]
        if name == b"VP8X" and body:
            body = bytes([body[0] & ~sum(_WEBP_METADATA.values())]) + body[1:]
        kept.append(name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1))
        if name in (b"VP8 ", b"VP8L") and kept[0][:4] != b"VP8X":
            break  # a plain file is one chunk
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def read_wav_header(content: bytes) -> WavHeader:
    """The header of a WAV file; `DataError` for one without format or samples, and one that says more than it holds."""
    form: tuple[int, int, int, int, int, int] | None = None
    for name, begin, stated_end in _riff_chunks(content):
        end = stated_end
        if name == b"fmt " and end - begin >= 16 and end <= len(content):
            form = struct.unpack_from("<HHIIHH", content, begin)
            if form[0] == _EXTENSIBLE and end - begin >= 26:
                form = (struct.unpack_from("<H", content, begin + 24)[0], *form[1:])
        if name == b"data":
            if form is None:
                break
            codec, channels, rate, _, block, bits = form
            if end - begin in _STREAMED:
                end = len(content)
            if end > len(content):
                missing = f"{end - begin} bytes of samples are announced and {len(content) - begin} are there"
                raise DataError(f"the WAV ends before its end: {missing}", hint=AGAIN)
            matching = codec not in _WAV_CODECS or block * 8 == channels * bits
            if not channels or not block or not 0 < rate * block <= _MOST_BYTES_A_SECOND or not matching:
                what = f"{channels} channels of {bits} bits at {rate} samples a second in blocks of {block} bytes"
                raise DataError(f"the header of the WAV cannot be right: {what}", hint=AGAIN)
            return WavHeader(codec, channels, rate, block, bits, begin, end)
    raise DataError("the WAV has no samples", hint=AGAIN)


def strip_wav(content: bytes) -> bytes:
    """A WAV with nothing but its format and samples."""
    header = read_wav_header(content)
    form = struct.pack(
        "<HHIIHH", header.codec, header.channels, header.rate, header.rate * header.block, header.block, header.bits
    )
    return join_wav(form, content[header.begin : header.begin + header.frames * header.block])


def join_wav(form: bytes, data: bytes) -> bytes:
    """A WAV file of a format chunk and samples."""
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body) + (len(data) & 1)) + body + b"\0" * (len(data) & 1)


def strip_flac(content: bytes) -> bytes:
    """A FLAC with nothing but its stream: no comments, pictures or cue sheets."""
    begin, kept = 4, []
    while begin + 4 <= len(content):
        head, length = content[begin], int.from_bytes(content[begin + 1 : begin + 4], "big")
        end = begin + 4 + length
        if end > len(content):
            break
        if head & 0x7F == 0:
            kept.append(content[begin + 1 : end])
        begin = end
        if head & 0x80:
            blocks = [bytes([0x80 if at == len(kept) - 1 else 0]) + block for at, block in enumerate(kept)]
            return b"fLaC" + b"".join(blocks) + content[begin:]
    raise DataError("the FLAC ends before its end", hint=AGAIN)
