"""Small copies of pictures and sounds for pages that people look at: bounded, and without any address."""

from __future__ import annotations

import base64
import io
from contextlib import suppress
from typing import Final, NamedTuple

from luthier.chat.media_codec import decode_audio, decode_image, encode_wav, resample_audio
from luthier.chat.messages import Media
from luthier.core.errors import MissingExtra

PREVIEW_SIDE: Final = 320
"""Pixels of a small picture's longer side."""
PREVIEW_SECONDS: Final = 15.0
_QUALITY = 80
_RATE = 16_000


class MediaPreview(NamedTuple):
    """A small copy of a medium."""

    type: str
    """`image/jpeg` or `audio/wav`."""
    content: bytes

    @property
    def url(self) -> str:
        """The copy as a data URL."""
        return f"data:{self.type};base64,{base64.b64encode(self.content).decode()}"


def preview_media(media: Media, content: bytes, side: int = PREVIEW_SIDE) -> MediaPreview:
    """A picture of at most `side` pixels a side as JPEG, or the first 15 seconds of a sound at 16 kHz as WAV.

    `DataError` for bytes that cannot be read; `MissingExtra` without the library that reads them.
    """
    if media.kind == "image":
        image = decode_image(content)
        image.thumbnail((side, side))
        made = io.BytesIO()
        image.save(made, "JPEG", quality=_QUALITY)
        return MediaPreview("image/jpeg", made.getvalue())
    samples, rate = decode_audio(content)
    samples = samples[: int(rate * PREVIEW_SECONDS)]
    if rate > _RATE:
        with suppress(MissingExtra):  # it is played at its own rate then
            samples, rate = resample_audio(samples, rate, _RATE), _RATE
    return MediaPreview("audio/wav", encode_wav(samples, rate))
