"""Sounds in which nobody speaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.chat.media_codec import decode_audio, encode_wav
from luthier.core.errors import DataError
from luthier.core.messages import gettext_noop
from luthier.data.check import Check, CheckResult, PlantedFaults, Summed
from luthier.data.media.findings import MediaFindingWords, plant_media, report_faulty_media
from luthier.data.media.measures import measure_speech
from luthier.data.validate.context import CheckData, CheckRow

_RATE = 16_000
_WORDS = MediaFindingWords(
    title=gettext_noop("Sounds without speech"),
    clean_title=gettext_noop("Speech"),
    media=gettext_noop("sounds"),
    singular=gettext_noop("plays one in which nobody speaks"),
    plural=gettext_noop("play one in which nobody speaks"),
    hint=gettext_noop("Listen to them: a transcript of silence teaches a model to make words up."),
    reason="no_speech",
)


class NoSpeech(Check):
    """Recordings that should hold speech and hold silence, noise or music alone, by Silero's voice detector.

    It is for rows whose sounds are spoken; other sounds would all be marked. It takes about 20 milliseconds for a
    second of sound.
    """

    kind: Literal["no_speech"] = "no_speech"
    libraries: ClassVar[Mapping[str, str]] = {"silero_vad": "vad", "onnxruntime": "vad"}
    measures: ClassVar[Mapping[str, str]] = {
        "media.no_speech": gettext_noop("share of rows with a sound in which nobody speaks")
    }
    quick: ClassVar[bool] = False
    false_alarms: ClassVar[float] = 0.02
    summed: ClassVar[Summed] = "within"

    threshold: float = Field(default=0.5, gt=0, lt=1)
    """How sure the detector must be of speech, as a probability."""
    min_speech_s: float = Field(default=0.1, ge=0)
    """Seconds of speech below which there is none."""
    warning: float = Field(default=0.001, ge=0, le=1)
    """Share of rows from which it is a warning."""
    serious: float = Field(default=0.1, ge=0, le=1)
    """Share of rows from which it is serious."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        found: list[tuple[CheckRow, float | None, str]] = []
        known: dict[str, float] = {}
        holding = 0
        for row in data.rows if data.read_media is not None else ():
            sounds = [one for message in row.messages for one in message.media if one.kind == "audio"]
            holding += bool(sounds)
            for one in sounds:
                if one.digest not in known:
                    known[one.digest] = self._measure(data, one.digest)
            least = min((known[one.digest] for one in sounds), default=self.min_speech_s)
            if least < self.min_speech_s:
                found.append((row, least, f"no speech: {least:.2f} seconds of it"))
        yield report_faulty_media(
            self.kind,
            _WORDS,
            next(iter(self.measures.items())),
            found,
            holding,
            warning=self.warning,
            serious=self.serious,
        )

    def _measure(self, data: CheckData, digest: str) -> float:
        """Seconds of speech; what cannot be read is the business of `media_quality`."""
        assert data.read_media is not None
        try:
            samples, rate = decode_audio(data.read_media(digest))
        except DataError:
            return self.min_speech_s
        return measure_speech(samples, rate, self.threshold)

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """Rows with a synthetic voice; every twentieth has noise or silence in its place."""
        return plant_media(rows, lambda index, bad: encode_wav(_planted(index % 7, bad=bad), _RATE))


_VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
"""The first three formants of five vowels, in Hz (Peterson and Barney 1952)."""


def _planted(seed: int, *, bad: bool) -> Any:
    """A second of vowels, or of noise or silence."""
    import numpy as np
    from scipy.signal import lfilter

    chance = np.random.default_rng(seed)
    if bad:
        return chance.normal(0, 0.1, _RATE) if seed % 2 == 0 else np.zeros(_RATE)
    times = np.arange(_RATE) / _RATE
    pitch = chance.uniform(110, 180) * (1 + 0.1 * np.sin(2 * np.pi * 2 * times))
    pulses = np.diff(np.floor(np.cumsum(pitch) / _RATE), prepend=0) + 0.01 * chance.normal(size=_RATE)
    parts = []
    for part in np.array_split(pulses, 6):
        for formant in _VOWELS[int(chance.integers(len(_VOWELS)))]:
            radius = np.exp(-np.pi * 80 / _RATE)
            part = lfilter(  # noqa: PLW2901  # each formant filters what the last one left
                [1 - radius], [1, -2 * radius * np.cos(2 * np.pi * formant / _RATE), radius**2], part
            )
        shaped = part * np.hanning(len(part)) ** 0.3
        parts.append(shaped / np.abs(shaped).max())
    return 0.5 * np.concatenate(parts)
