"""Noise on sounds that turns play: at a chosen ratio to the signal, and another speed or loudness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.chat.media_codec import KeptMedia, decode_audio, encode_wav, keep_media
from luthier.chat.messages import Media
from luthier.core.param_space import ParamDistribution
from luthier.data.augmenter import AugmentContext, AugmentedDraft, Augmenter, AugmentRequest, change_media

if TYPE_CHECKING:
    import numpy as np

_CLEAN_DB = 60.0
"""At so many decibels noise is hardly heard: the weakest that is drawn."""


class AudioNoise(Augmenter):
    """Add noise to the sounds of a row, play them slower or faster, quieter or louder; its texts stay as they are.

    Noise is pink (as much of it in each octave), of a signal-to-noise ratio between `snr_db` and 60 dB. Speed changes
    the pitch, too, as a tape does. Each strength bounds what is drawn for a row; the made sound is WAV of 16 bits.
    """

    kind: Literal["audio_noise"] = "audio_noise"
    changes: ClassVar[str] = "audio"

    snr_db: Annotated[float, Field(ge=-20, le=60)] = 20.0
    """The lowest ratio of the signal's energy to that of the noise, in decibels; 60: no noise."""
    speed: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """By how much of itself the speed goes up or down at most."""
    gain_db: Annotated[float, Field(ge=0, le=40)] = 6.0
    """By how many decibels it becomes quieter or louder at most; no sample is cut off."""

    @model_validator(mode="after")
    def _does_something(self) -> AudioNoise:
        if self.snr_db >= _CLEAN_DB and not self.speed and not self.gain_db:
            raise ValueError("no strength does anything; lower snr_db, or raise speed or gain_db")
        return self

    def write(self, requests: Sequence[AugmentRequest], around: AugmentContext) -> list[AugmentedDraft | None]:
        """Each row with other sounds."""
        return [self._noisy(request, around) for request in requests]

    def _noisy(self, request: AugmentRequest, around: AugmentContext) -> AugmentedDraft | None:
        chance = request.chance

        def change(media: Media) -> tuple[KeptMedia, tuple[str, ...]] | None:
            if around.read_media is None:
                return None
            samples, rate = decode_audio(around.read_media(media.digest))
            after, did = self.noisy(samples, chance)
            return keep_media(encode_wav(after, rate)), did

        return change_media(request.row, "audio", change)

    def noisy(self, samples: np.ndarray[Any, Any], chance: Random) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
        """A sound with noise, and what was done to it."""
        import numpy as np

        did: list[str] = []
        if self.speed:
            factor = 1 + chance.uniform(-self.speed, self.speed)
            times = np.arange(0, len(samples) - 1, factor) if len(samples) > 1 else np.zeros(1)
            samples = np.interp(times, np.arange(len(samples)), samples)
            did.append(f"{factor:.2f} times as fast")
        if self.snr_db < _CLEAN_DB:
            ratio = chance.uniform(self.snr_db, _CLEAN_DB)
            noise = _pink_noise(len(samples), chance)
            energy = float(np.sqrt(np.mean(np.square(samples))))
            samples = samples + noise * energy * 10 ** (-ratio / 20)
            did.append(f"noise at {ratio:.0f} dB below the signal")
        if self.gain_db:
            gain = chance.uniform(-self.gain_db, self.gain_db)
            peak = float(np.abs(samples).max(initial=0.0)) or 1.0
            factor = min(10 ** (gain / 20), max(1.0, 1 / peak) if gain > 0 else 1.0)
            samples = samples * factor
            did.append(f"{20 * np.log10(factor):+.1f} dB")
        return samples, tuple(did)

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Rows of each row, and how strong the noise is."""
        return {**super().search_space(), "snr_db": ParamDistribution(5.0, 40.0), "speed": ParamDistribution(0.0, 0.2)}


def _pink_noise(length: int, chance: Random) -> np.ndarray[Any, Any]:
    """Noise of energy 1 whose power falls with the frequency."""
    import numpy as np

    white = np.fft.rfft(np.random.default_rng(chance.getrandbits(64)).normal(size=max(2, length)))
    white[1:] /= np.sqrt(np.arange(1, len(white)))
    white[0] = 0
    noise = np.fft.irfft(white, max(2, length))[:length]
    return noise / max(float(np.sqrt(np.mean(np.square(noise)))), 1e-12)
