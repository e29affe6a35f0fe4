"""Films as pictures: some of their frames, evenly spread, each a JPEG.

Only containers that PyAV is told by name are opened, so that no playlist or list of files is read, which could name
other files or addresses. Width, height and seconds are bounded by what the header says before a frame is decoded.
"""

from __future__ import annotations

import io
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from luthier.chat.media_bytes import AGAIN
from luthier.chat.media_codec import MAX_PIXELS
from luthier.core.component import add_field_descriptions
from luthier.core.errors import DataError, MissingExtra

MAX_FILM_BYTES: Final = 256 << 20
"""Bytes of one film."""
MAX_FILM_SECONDS: Final = 4 * 3600.0
_QUALITY = 95
_SKIP_S = 5.0
"""A frame that is further ahead than so is sought by the container's index, and not by decoding all before it."""
_MOST_DECODED = 20_000
"""Frames of a film that are decoded at most, those that are not kept included."""


class FrameSampling(BaseModel):
    """Which frames of a film become pictures: so many a second, at most so many, evenly spread over the whole film."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    fps: float = Field(default=1.0, gt=0, le=60)
    """Frames of each second."""
    max_frames: int = Field(default=8, ge=1, le=256)
    """At most so many of a film; of a longer one, frames are further apart."""


def sniff_film_format(content: bytes) -> str | None:
    """The container of a film by its first bytes; None for what is none."""
    if content[4:8] == b"ftyp":
        return "mp4"
    if content[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    return "avi" if content[:4] == b"RIFF" and content[8:12] == b"AVI " else None


def read_film_frames(content: bytes, sampling: FrameSampling) -> list[bytes]:
    """Frames of a film as JPEG, in order; `DataError` for what is no film, is broken, too large or too long."""
    name = sniff_film_format(content)
    if name is None:
        raise DataError("the file is not a film, whatever its name says", hint="known: MP4, MOV, WebM, MKV, AVI")
    try:
        import av
    except ImportError as error:
        raise MissingExtra("films need PyAV", hint="pip install 'luthier[video]'") from error
    faults = (av.error.FFmpegError, ValueError, TypeError, EOFError, MemoryError, ArithmeticError)
    try:
        with av.open(io.BytesIO(content), format=name, metadata_errors="replace") as film:
            return _read_frames(film, sampling)
    except faults as error:
        raise DataError(f"the film cannot be read: {error}", hint=AGAIN) from error


def _read_frames(film: Any, sampling: FrameSampling) -> list[bytes]:
    if not film.streams.video:
        raise DataError("the film has no pictures", hint="name sounds in the column `audio`")
    stream = film.streams.video[0]
    stream.thread_type = "NONE"
    width, height = stream.codec_context.width, stream.codec_context.height
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        what = f"the film says that it has {width} x {height} pixels; at most {MAX_PIXELS} are read"
        raise DataError(what, hint="make it smaller, or leave its row out")
    seconds = _measure_seconds(film, stream)
    if seconds > MAX_FILM_SECONDS:
        what = f"the film says that it lasts {seconds:.0f} seconds; at most {MAX_FILM_SECONDS:.0f} are read"
        raise DataError(what, hint="cut it into pieces")
    count = min(sampling.max_frames, max(1, round(seconds * sampling.fps)))
    times = [(at + 0.5) * seconds / count for at in range(count)]
    frames = _FrameReader(film, stream)
    return [_encode(frame) for time in times if (frame := frames.at(time)) is not None]


def _measure_seconds(film: Any, stream: Any) -> float:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if film.duration is not None:
        return float(film.duration) / 1_000_000
    raise DataError("the film does not say how long it is", hint="write it anew, with `ffmpeg -i FILM -c copy NEW.mp4`")


class _FrameReader:
    """Frames by their times, which only grow."""

    def __init__(self, film: Any, stream: Any) -> None:
        self._film, self._stream = film, stream
        self._frames = iter(film.decode(stream))
        self._begin = float((stream.start_time or 0) * stream.time_base)
        self._current: Any = None
        self._decoded = 0

    def at(self, time: float) -> Any:
        """The first frame at a time or after it, else the last one; None where there is none."""
        reached = -1.0 if self._current is None else self._time(self._current)
        if time - reached > _SKIP_S:
            self._film.seek(int((time + self._begin) / self._stream.time_base), stream=self._stream)
            self._frames = iter(self._film.decode(self._stream))
        while self._current is None or self._time(self._current) < time:
            frame = next(self._frames, None)
            if frame is None:
                break
            self._decoded += 1
            if self._decoded > _MOST_DECODED:
                what = f"more than {_MOST_DECODED} frames of the film had to be decoded"
                raise DataError(what, hint="cut it into pieces, or write it anew with more key frames")
            if frame.width * frame.height > MAX_PIXELS:
                raise DataError(f"a frame has {frame.width} x {frame.height} pixels", hint="make the film smaller")
            self._current = frame
        if self._current is None:
            raise DataError("the film holds no frame that can be read", hint=AGAIN)
        return self._current

    def _time(self, frame: Any) -> float:
        return float(frame.time or 0.0) - self._begin


def _encode(frame: Any) -> bytes:
    made = io.BytesIO()
    image = frame.to_image()
    if turned := getattr(frame, "rotation", 0):
        image = image.rotate(turned, expand=True)  # both count counterclockwise
    image.save(made, "JPEG", quality=_QUALITY, subsampling=0)
    return made.getvalue()
