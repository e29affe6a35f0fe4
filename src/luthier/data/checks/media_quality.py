"""Pictures and sounds that show or play nothing, or not what was recorded."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from luthier.artifacts.findings import Finding, FindingTable
from luthier.chat.media_codec import decode_audio, decode_image, encode_wav, keep_media
from luthier.chat.messages import MEDIA_MARK, Media
from luthier.core.errors import DataError
from luthier.core.events import format_counted_noun
from luthier.data.check import (
    Check,
    CheckResult,
    PlantedFaults,
    format_exclude_setting,
    format_percent,
    severity_of_share,
    share_with_interval,
)
from luthier.data.validate.context import CheckData, CheckRow

_FULL = 0.999
"""The amplitude at which a sample is cut off."""


class MediaQuality(Check):
    """Pictures of one color or of a few pixels, sounds that are silent or clipped, or have another rate than most.

    A picture is blank when its gray values hardly vary, a sound is silent below an energy, and clipped where many of
    its samples are as loud as can be. Bytes that are not there any more, or cannot be read, count, too.
    """

    kind: Literal["media_quality"] = "media_quality"
    measures: ClassVar[Mapping[str, str]] = {"media.faulty": "share of rows with a faulty picture or sound"}
    false_alarms: ClassVar[float] = 0.005

    blank: float = Field(default=2.0, ge=0, le=128)
    """Standard deviation of the gray values (0 to 255) below which a picture is blank."""
    pixels: int = Field(default=8, ge=1)
    """A picture with fewer in width or height shows nothing."""
    silent_db: float = Field(default=-60.0, le=0)
    """Energy, in decibels of the loudest sound that can be written, below which a sound is silent."""
    clipped: float = Field(default=0.01, gt=0, le=1)
    """Share of the samples as loud as can be from which a sound is clipped."""
    usual_rate: float = Field(default=0.8, gt=0.5, le=1)
    """Where at least so many sounds have one rate, others have a wrong one."""
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
        number = share_with_interval(len(found), holding, self.measures["media.faulty"])
        counts = Counter(note.partition(":")[0] for _, _, note in found)
        rows = format_counted_noun(len(found), "row")
        yield CheckResult(
            Finding(
                name=self.kind,
                severity=severity_of_share(number.value, self.warning, self.serious) if found else "info",
                title="Faulty media" if found else "Media",
                sentence=f"{rows} of {holding:,} with media ({format_percent(number.value)}) "
                f"{'has' if len(found) == 1 else 'have'} a faulty picture or sound.",
                rows=len(found),
                numbers={"media.faulty": number},
                hint="Look at them; what shows or plays nothing teaches a model to guess." if found else "",
                mend=format_exclude_setting([row for row, _, _ in found], "faulty_media"),
                tables=(
                    (
                        FindingTable(
                            title="Rows by fault", columns=("fault", "rows"), rows=tuple(sorted(counts.items()))
                        ),
                    )
                    if counts
                    else ()
                ),
            ),
            found,
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
        return f"blank: gray values vary by {spread:.1f} of 255" if spread < self.blank else None

    def _sound(self, content: bytes) -> str | None:
        import numpy as np

        samples, _ = decode_audio(content)
        energy = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
        if energy < 10 ** (self.silent_db / 20):
            return f"silent: {20 * np.log10(max(energy, 1e-12)):.0f} dB"
        cut = float((np.abs(samples) >= _FULL).mean())
        return f"clipped: {cut:.1%} of the samples are as loud as can be" if cut >= self.clipped else None

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """Of rows with pictures and sounds, every twentieth shows one color, is tiny, silent, clipped, or at a wrong
        rate."""
        contents: dict[str, bytes] = {}
        faulty: set[str] = set()
        planted = []
        for index, row in enumerate(rows):
            bad = index % 20 == 0
            kept = keep_media(_planted(index, bad=bad))
            contents[kept.media.digest] = kept.content
            turns = list(row.messages)
            turns[-2] = turns[-2].model_copy(
                update={"content": f"{MEDIA_MARK} {turns[-2].content}", "media": (kept.media,)}
            )
            planted.append(replace(row, messages=tuple(turns)))
            if bad:
                faulty.add(row.id)
        return PlantedFaults(planted, frozenset(faulty), contents)


def _planted(index: int, *, bad: bool) -> bytes:
    """A small picture or sound, whole or with one of the faults."""
    import numpy as np

    chance = np.random.default_rng(index)
    fault = index // 20 % 5 if bad else -1
    if fault in (0, 1) or (fault == -1 and index % 2):
        from PIL import Image

        side = 4 if fault == 1 else 12
        pixels = np.full((side, side), 77, np.uint8) if fault == 0 else chance.integers(0, 256, (side, side), np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        return out.getvalue()
    loud = {2: 0.0001, 3: 4.0}.get(fault, 0.3)
    values = np.clip(chance.normal(0, loud, 400), -1, 1)
    return encode_wav(values, 11025 if fault == 4 else 8000)
