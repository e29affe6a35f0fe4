"""Makes `digits.parquet`: spoken digits, said by a small formant synthesizer in voices of their own.

python speak.py

Each sound is a source (pulses of the voice, or noise) through resonators whose frequencies move from one speech sound
to the next, after Klatt (1980). The numbers are common averages of formants of American English.
"""

import io
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa  # noqa: TID253  # a script of its own
import pyarrow.parquet as pq  # noqa: TID253
import soundfile
from scipy.signal import lfilter  # noqa: TID253

RATE = 8_000
"""Samples in a second, as on a telephone."""
COUNT = 200
WIDTHS = (60.0, 90.0, 150.0)
"""Bandwidths of the three resonators, in Hz."""


class Phone(NamedTuple):
    """A speech sound: its three formants in Hz, how loud voice and noise are, and how long it lasts in ms."""

    formants: tuple[float, float, float]
    voice: float
    noise: float
    length: float


PHONES = {
    "z": Phone((300, 1700, 2900), 0.3, 0.5, 90), "i": Phone((280, 2250, 2900), 1.0, 0.0, 130),
    "r": Phone((340, 1150, 1600), 0.8, 0.0, 80), "o": Phone((500, 850, 2400), 1.0, 0.0, 170),
    "w": Phone((300, 650, 2200), 0.7, 0.0, 80), "V": Phone((640, 1200, 2400), 1.0, 0.0, 140),
    "n": Phone((260, 1500, 2500), 0.5, 0.0, 100), "t": Phone((400, 1800, 2800), 0.0, 0.5, 40),
    "u": Phone((310, 900, 2250), 1.0, 0.0, 180), "T": Phone((400, 1400, 2600), 0.0, 0.25, 100),
    "f": Phone((400, 1100, 2300), 0.0, 0.25, 110), "O": Phone((570, 850, 2450), 1.0, 0.0, 160),
    "a": Phone((730, 1150, 2450), 1.0, 0.0, 130), "I": Phone((400, 1950, 2600), 1.0, 0.0, 110),
    "v": Phone((280, 1100, 2300), 0.5, 0.15, 70), "s": Phone((500, 2200, 3600), 0.0, 0.6, 130),
    "k": Phone((400, 1700, 2400), 0.0, 0.5, 45), "E": Phone((540, 1800, 2500), 1.0, 0.0, 120),
    "e": Phone((460, 2000, 2600), 1.0, 0.0, 120), "-": Phone((400, 1500, 2500), 0.0, 0.0, 50),
}  # fmt: skip
WORDS = {
    "zero": "zIro", "one": "wVn", "two": "tu", "three": "Tri", "four": "fOr", "five": "faIv", "six": "sI-ks",
    "seven": "sEvVn", "eight": "eI-t", "nine": "naIn",
}  # fmt: skip


def say(word: str, chance: random.Random) -> np.ndarray:
    """A word in a voice of its own: pitch, size of the throat, pace, loudness, and the hiss of the line."""
    noises = np.random.default_rng(chance.randrange(1 << 30))
    pitch, size, pace = chance.uniform(90, 230), chance.uniform(0.92, 1.15), chance.uniform(0.8, 1.3)
    tracks, voice, noise = [], [], []
    for name in WORDS[word]:
        phone = PHONES[name]
        samples = int(phone.length * pace * RATE / 1000)
        tracks.append(np.tile(np.array(phone.formants) * size, (samples, 1)))
        voice.append(np.full(samples, phone.voice))
        noise.append(np.full(samples, phone.noise))
    smooth = np.hanning(int(0.04 * RATE))
    smooth /= smooth.sum()
    formants = np.stack([_smoothed(np.concatenate(tracks)[:, at], smooth) for at in range(3)], 1)
    loud, hiss = _smoothed(np.concatenate(voice), smooth), _smoothed(np.concatenate(noise), smooth)
    falling = pitch * np.linspace(1.1, 0.85, len(loud)) * (1 + 0.01 * noises.standard_normal(len(loud)))
    phase = np.cumsum(falling / RATE)
    pulses = np.diff(np.floor(phase), prepend=0.0)
    source = loud * lfilter([1.0], [1.0, -0.9], pulses) + 0.15 * hiss * noises.standard_normal(len(loud))
    sound = _resonate(source, formants)
    sound *= chance.uniform(0.3, 0.8) / max(1e-9, np.abs(sound).max())
    quiet = np.zeros(int(chance.uniform(0.03, 0.12) * RATE))
    whole = np.concatenate([quiet, sound, quiet])
    return np.clip(whole + chance.uniform(0.0005, 0.004) * noises.standard_normal(len(whole)), -1, 1)


def _smoothed(values: np.ndarray, window: np.ndarray) -> np.ndarray:
    padded = np.pad(values, len(window) // 2, mode="edge")
    return np.convolve(padded, window, "valid")[: len(values)]


def _resonate(source: np.ndarray, formants: np.ndarray, step: int = 40) -> np.ndarray:
    """The source through three resonators in a row, whose frequencies change every `step` samples."""
    found = source
    for at, width in enumerate(WIDTHS):
        out, state = np.zeros(len(found)), np.zeros(2)
        radius = np.exp(-np.pi * width / RATE)
        for begin in range(0, len(found), step):
            turn = 2 * np.pi * min(formants[begin, at], 0.47 * RATE) / RATE
            poles = [1.0, -2 * radius * np.cos(turn), radius**2]
            out[begin : begin + step], state = lfilter([sum(poles)], poles, found[begin : begin + step], zi=state)
        found = out
    return found


def main() -> None:
    """Write the file beside this one."""
    chance = random.Random(7)
    rows = []
    for number in range(COUNT):
        word = list(WORDS)[number % 10]
        file = io.BytesIO()
        soundfile.write(file, say(word, chance), RATE, format="FLAC", subtype="PCM_16")
        rows.append((word, {"bytes": file.getvalue(), "path": None}))
    chance.shuffle(rows)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"audio": pa.array([sound for _, sound in rows], kind), "text": [word for word, _ in rows]})
    pq.write_table(table, Path(__file__).with_name("digits.parquet"))


if __name__ == "__main__":
    main()
