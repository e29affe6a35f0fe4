"""Pictures and sounds that show or play nothing, or not what was recorded."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from luthier.artifacts.findings import FindingTable
from luthier.chat.media_codec import decode_audio, decode_image, encode_wav
from luthier.chat.messages import Media
from luthier.core.errors import DataError
from luthier.core.messages import gettext_noop
from luthier.data.check import Check, CheckResult, PlantedFaults, Summed
from luthier.data.media.findings import MediaFindingWords, plant_media, report_faulty_media
from luthier.data.media.measures import measure_bandwidth, measure_blur
from luthier.data.validate.context import CheckData, CheckRow

_FULL = 0.999
"""The amplitude at which a sample is cut off."""
_FLOOR_DB = -80.0
"""Power below the loudest frequency's at which nothing is heard: noise of recordings and of 16 bits lies above."""
_SHARPNESS_SIDE = 48
"""The least length of the shorter side, in pixels, at which sharpness is measured."""
_RATED_SECONDS = 0.2
"""The least duration, in seconds, at which the spectrum is measured."""
_WORDS = MediaFindingWords(
    title=gettext_noop("Faulty media"),
    clean_title=gettext_noop("Media"),
    media=gettext_noop("media"),
    singular=gettext_noop("has a faulty picture or sound"),
    plural=gettext_noop("have a faulty picture or sound"),
    hint=gettext_noop("Look at them; what shows or plays nothing teaches a model to guess."),
    reason="faulty_media",
)


class MediaQuality(Check):
    """Pictures that are blank, blurred or tiny, sounds that are silent, clipped or wrongly rated.

    A picture is blank when its gray values hardly vary, and blurred when a further blur takes few of its edges away
    (Crete and others, 2007). A sound is silent below an energy, and clipped where many of its samples are as loud as
    can be. Its rate is wrong where most sounds have another one, or where its spectrum ends far below what the rate
    can carry: it was recorded at a lower one, or a narrow line. Bytes that cannot be read count, too.
    """

    kind: Literal["media_quality"] = "media_quality"
    measures: ClassVar[Mapping[str, str]] = {
        "media.faulty": gettext_noop("share of rows with a faulty picture or sound")
    }
    false_alarms: ClassVar[float] = 0.005
    summed: ClassVar[Summed] = "within"

    blank: float = Field(default=2.0, ge=0, le=128)
    """Standard deviation of the gray values (0 to 255) below which a picture is blank."""
    pixels: int = Field(default=8, ge=1)
    """A picture with fewer in width or height shows nothing."""
    blurred: float = Field(default=0.65, gt=0, le=1)
    """Share of the edges that a further blur leaves from which a picture is blurred; sharp ones have 0.2 to 0.45. 1:
    none is."""
    silent_db: float = Field(default=-60.0, le=0)
    """Energy, in decibels of the loudest sound that can be written, below which a sound is silent."""
    clipped: float = Field(default=0.01, gt=0, le=1)
    """Share of the samples as loud as can be from which a sound is clipped."""
    usual_rate: float = Field(default=0.8, gt=0.5, le=1)
    """Where at least so many sounds have one rate, others have a wrong one."""
    bandwidth: float = Field(default=0.55, ge=0, lt=1)
    """Share of what its rate can carry below which a sound's spectrum ends when the rate is too high; 0: none is."""
    warning: float = Field(default=0.001, ge=0, le=1)
    """Share of rows from which it is a warning."""
    serious: float = Field(default=0.1, ge=0, le=1)
    """Share of rows from which it is serious."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        rate = self._usual_rate(data.rows)
        faults: dict[str, str | None] = {}
        found: list[tuple[CheckRow, float | None, str]] = []
        holding = 0
        for row in data.rows:
            media = [one for message in row.messages for one in message.media]
            holding += bool(media)
            problems = [fault for one in media if (fault := self._fault(one, data, rate, faults)) is not None]
            if problems:
                found.append((row, None, "; ".join(dict.fromkeys(problems))))
        counts = Counter(note.partition(":")[0] for _, _, note in found)
        table = FindingTable(
            title=gettext_noop("Rows by fault"), columns=("fault", "rows"), rows=tuple(sorted(counts.items()))
        )
        yield report_faulty_media(
            self.kind,
            _WORDS,
            next(iter(self.measures.items())),
            found,
            holding,
            warning=self.warning,
            serious=self.serious,
            tables=(table,) if counts else (),
        )

    def _usual_rate(self, rows: Sequence[CheckRow]) -> int | None:
        """The rate that most sounds have."""
        rates = Counter(one.rate for row in rows for message in row.messages for one in message.media if one.rate)
        if not rates:
            return None
        rate, count = min(rates.items(), key=lambda item: (-item[1], item[0]))
        return rate if count >= self.usual_rate * rates.total() else None

    def _fault(self, one: Media, data: CheckData, rate: int | None, known: dict[str, str | None]) -> str | None:
        if one.digest not in known:
            known[one.digest] = self._look_at(one, data)
        if known[one.digest] is None and one.kind == "audio" and rate is not None and one.rate != rate:
            return f"wrong rate: {one.rate} samples a second, where most sounds have {rate}"
        return known[one.digest]

    def _look_at(self, one: Media, data: CheckData) -> str | None:
        if data.read_media is None:
            return None
        try:
            content = data.read_media(one.digest)
            return self._picture(content) if one.kind == "image" else self._sound(content)
        except DataError as error:
            return f"broken: {error.message}"

    def _picture(self, content: bytes) -> str | None:
        import numpy as np

        image = decode_image(content)
        if min(image.size) < self.pixels:
            return f"tiny: {image.width} x {image.height} pixels"
        spread = float(np.asarray(image.convert("L"), np.float32).std())
        if spread < self.blank:
            return f"blank: gray values vary by {spread:.1f} of 255"
        if min(image.size) < _SHARPNESS_SIDE or self.blurred == 1:
            return None
        blur = measure_blur(image)
        return f"blurred: a further blur leaves {blur:.0%} of its edges" if blur >= self.blurred else None

    def _sound(self, content: bytes) -> str | None:
        import numpy as np

        samples, rate = decode_audio(content)
        energy = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
        if energy < 10 ** (self.silent_db / 20):
            return f"silent: {20 * np.log10(max(energy, 1e-12)):.0f} dB"
        cut = float((np.abs(samples) >= _FULL).mean())
        if cut >= self.clipped:
            return f"clipped: {cut:.1%} of the samples are as loud as can be"
        if len(samples) < _RATED_SECONDS * rate or not self.bandwidth:
            return None
        highest = measure_bandwidth(samples, rate, _FLOOR_DB)
        if highest >= self.bandwidth * rate / 2:
            return None
        return (
            f"rated too high: nothing is heard above {highest:.0f} Hz, where {rate} samples a second carry {rate // 2}"
        )

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """Of rows with pictures and sounds, every twentieth shows one color, is tiny, blurred, silent, clipped, at
        another rate, or recorded at a lower one."""
        return plant_media(rows, lambda index, bad: _planted(index, bad=bad))


_PLANTED = ("blank", "tiny", "blurred", "silent", "clipped", "other rate", "rated too high")


def _planted(index: int, *, bad: bool) -> bytes:
    """A small picture or sound, whole or with one of the faults."""
    import numpy as np

    chance = np.random.default_rng(index)
    fault = _PLANTED[index // 20 % len(_PLANTED)] if bad else ("sharp", "clean")[index % 2]
    if fault in ("blank", "tiny", "blurred", "sharp"):
        from PIL import Image, ImageFilter

        side = {"tiny": 4, "blurred": 64}.get(fault, 12)
        pixels = chance.integers(0, 256, (side, side), np.uint8)
        image = Image.fromarray(np.full_like(pixels, 77) if fault == "blank" else pixels)
        out = io.BytesIO()
        (image.filter(ImageFilter.GaussianBlur(5)) if fault == "blurred" else image).save(out, "PNG")
        return out.getvalue()
    loud = {"silent": 0.0001, "clipped": 4.0}.get(fault, 0.3)
    values = np.clip(chance.normal(0, loud, 2000), -1, 1)
    if fault == "rated too high":
        values = np.fft.irfft(np.fft.rfft(values) * (np.arange(1001) < 200), 2000)
    return encode_wav(values, 11025 if fault == "other rate" else 8000)
