"""Noise on sounds that turns play: at a chosen ratio to the signal, another speed or loudness, and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.chat.media_codec import KeptMedia, decode_audio, encode_wav, keep_media, resample_audio
from luthier.chat.messages import Media
from luthier.core.errors import DataError, SourceLocation
from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import files_digest
from luthier.core.param_space import ParamDistribution
from luthier.data.augmenter import AugmentContext, AugmentedDraft, Augmenter, AugmentRequest, change_media
from luthier.data.formats.media_files import list_media_paths

if TYPE_CHECKING:
    import numpy as np

_CLEAN_DB = 60.0
"""At so many decibels noise is hardly heard: the weakest that is drawn."""


class AudioNoise(Augmenter):
    """Add noise to the sounds of a row, play them slower or faster, quieter or louder; its texts stay as they are.

    Noise is pink (as much of it in each octave), or a part of a recording in `noise_folder`, of a signal-to-noise ratio
    between `snr_db` and 60 dB. Speed changes the pitch, too, as a tape does. Masks silence bands of frequencies and
    stretches of time (SpecAugment, Park and others 2019), two of each, so that they reach every model through its
    processor. Each strength bounds what is drawn for a row; the made sound is WAV of 16 bits.
    """

    kind: Literal["audio_noise"] = "audio_noise"
    changes: ClassVar[str] = "audio"

    snr_db: Annotated[float, Field(ge=-20, le=60)] = 20.0
    """The lowest ratio of the signal's energy to that of the noise, in decibels; 60: no noise."""
    noise_folder: PathText | None = None
    """Recordings of noise (WAV, FLAC, OGG, MP3), of which one is drawn for each sound; None: pink noise."""
    frequency_mask: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest share of the frequencies, on the mel scale, that each of two masks silences."""
    time_mask: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest share of the time that each of two masks silences."""
    speed: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """By how much of itself the speed goes up or down at most."""
    gain_db: Annotated[float, Field(ge=0, le=40)] = 6.0
    """By how many decibels it becomes quieter or louder at most; no sample is cut off."""

    @model_validator(mode="after")
    def _does_something(self) -> AudioNoise:
        masks = self.frequency_mask or self.time_mask
        if self.snr_db >= _CLEAN_DB and not self.speed and not self.gain_db and not masks:
            raise ValueError("no strength does anything; lower snr_db, or raise speed or gain_db")
        if self.snr_db >= _CLEAN_DB and self.noise_folder is not None:
            raise ValueError("snr_db is 60, so that no noise is added; lower it, or leave noise_folder out")
        return self

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """The recordings of noise."""
        if self.noise_folder is None:
            return None
        folder = resolve_path(self.noise_folder, recipe_dir)
        return files_digest(list_media_paths(folder), folder) if folder.is_dir() else None

    def write(self, requests: Sequence[AugmentRequest], around: AugmentContext) -> list[AugmentedDraft | None]:
        """Each row with other sounds."""
        noises = around.once(self, lambda _: self._list_noises(around.recipe_dir))
        return [self._noisy(request, around, noises) for request in requests]

    def _list_noises(self, recipe_dir: Path) -> list[Path]:
        """The recordings of noise; `DataError` where there are none."""
        if self.noise_folder is None:
            return []
        folder = resolve_path(self.noise_folder, recipe_dir)
        endings = {".wav", ".flac", ".ogg", ".oga", ".mp3", ".aif", ".aiff"}
        found = [path for path in list_media_paths(folder) if path.suffix.lower() in endings]
        if not found:
            where = SourceLocation(file=str(self.noise_folder), field="noise_folder")
            raise DataError("there are no recordings of noise", where=where, hint=f"known endings: {sorted(endings)}")
        return found

    def _noisy(self, request: AugmentRequest, around: AugmentContext, noises: Sequence[Path]) -> AugmentedDraft | None:
        chance = request.chance

        def change(media: Media) -> tuple[KeptMedia, tuple[str, ...]] | None:
            if around.read_media is None:
                return None
            samples, rate = decode_audio(around.read_media(media.digest))
            noise = _read_noise(chance.choice(noises), rate) if noises else None
            after, did = self.noisy(samples, chance, rate, noise)
            return keep_media(encode_wav(after, rate)), did

        return change_media(request.row, "audio", change)

    def noisy(
        self,
        samples: np.ndarray[Any, Any],
        chance: Random,
        rate: int = 16_000,
        recording: np.ndarray[Any, Any] | None = None,
    ) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
        """A sound with noise, and what was done to it; `recording` is noise of the same rate."""
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
            if recording is not None:
                noise = _cut_noise(recording, len(samples), chance)
            energy = float(np.sqrt(np.mean(np.square(samples))))
            samples = samples + noise * energy * 10 ** (-ratio / 20)
            did.append(f"noise at {ratio:.0f} dB below the signal")
        if self.frequency_mask or self.time_mask:
            samples, masks = _masked(samples, rate, self.frequency_mask, self.time_mask, chance)
            did += masks
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


def _read_noise(path: Path, rate: int) -> np.ndarray[Any, Any]:
    """A recording of noise at another rate; `DataError` names its file."""
    try:
        samples, own = decode_audio(path.read_bytes())
    except DataError as error:
        raise DataError(error.message, where=SourceLocation(file=str(path)), hint=error.hint) from error
    return resample_audio(samples, own, rate)


def _cut_noise(recording: np.ndarray[Any, Any], length: int, chance: Random) -> np.ndarray[Any, Any]:
    """A part of a recording, from a drawn place on and from its beginning again where it ends, of energy 1."""
    import numpy as np

    start = chance.randrange(max(1, len(recording)))
    noise = np.resize(np.roll(recording, -start), length)
    return noise / max(float(np.sqrt(np.mean(np.square(noise)))), 1e-12)


_MASKS = 2
"""Of frequencies and of time each, as in the paper's policy for LibriSpeech."""
_FRAME_S = 0.032


def _masked(
    samples: np.ndarray[Any, Any], rate: int, most_bands: float, most_time: float, chance: Random
) -> tuple[np.ndarray[Any, Any], list[str]]:
    """A sound without some bands of frequencies and stretches of time, and what was done."""
    import numpy as np
    from scipy.signal import istft, stft

    did: list[str] = []
    length = max(16, min(len(samples), round(_FRAME_S * rate)))
    frequencies, _, spectrum = stft(samples, rate, nperseg=length)
    mels = 2595 * np.log10(1 + frequencies / 700)
    for _ in range(_MASKS if most_bands else 0):
        width = chance.uniform(0, most_bands) * mels[-1]
        low = chance.uniform(0, mels[-1] - width)
        inside = (mels >= low) & (mels <= low + width)
        spectrum[inside] = 0
        if inside.any():
            did.append(f"silenced from {frequencies[inside][0]:.0f} to {frequencies[inside][-1]:.0f} Hz")
    after = istft(spectrum, rate, nperseg=length)[1]
    after = np.resize(np.concatenate([after, np.zeros(max(0, len(samples) - len(after)))]), len(samples))
    for _ in range(_MASKS if most_time else 0):
        width = chance.uniform(0, most_time) * len(samples)
        begin = chance.uniform(0, len(samples) - width)
        after[int(begin) : int(begin + width)] = 0
        did.append(f"silenced from {begin / rate:.2f} to {(begin + width) / rate:.2f} s")
    return after, did


def _pink_noise(length: int, chance: Random) -> np.ndarray[Any, Any]:
    """Noise of energy 1 whose power falls with the frequency."""
    import numpy as np

    white = np.fft.rfft(np.random.default_rng(chance.getrandbits(64)).normal(size=max(2, length)))
    white[1:] /= np.sqrt(np.arange(1, len(white)))
    white[0] = 0
    noise = np.fft.irfft(white, max(2, length))[:length]
    return noise / max(float(np.sqrt(np.mean(np.square(noise)))), 1e-12)
