"""Makes `commands.parquet`: ten spoken commands, synthesized here by formants, each by a voice of its own.

python speak.py

Voiced sounds are harmonics of a gliding pitch under three resonances (Peterson and Barney, 1952, for the vowels);
fricatives are noise in a band, stops a silence and a burst. Voices differ in pitch, length of the vocal tract, pace and
loudness; each sound lies over noise of its own strength.
"""

import random
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa  # noqa: TID253  # a script of its own
import pyarrow.parquet as pq  # noqa: TID253

RATE = 8000
ROWS = 500
QUESTION = "Which command is spoken?\n<audio>"
VOICED = {  # resonances in Hz, loudness
    "i": (270, 2290, 3010, 1.0), "ih": (390, 1990, 2550, 1.0), "eh": (530, 1840, 2480, 1.0),
    "ae": (660, 1720, 2410, 1.0), "uh": (640, 1190, 2390, 1.0), "ah": (730, 1090, 2440, 1.0),
    "aw": (570, 840, 2410, 1.0), "u": (440, 1020, 2240, 0.9), "oo": (300, 870, 2240, 0.9),
    "n": (250, 1700, 2300, 0.3), "l": (360, 1300, 2700, 0.5), "r": (420, 1300, 1600, 0.6),
}  # fmt: skip
NOISE = {"s": (2800, 3950, 0.25), "f": (1200, 3900, 0.08)}  # band in Hz, loudness
BURST = {"p": (300, 1200), "t": (2500, 3900), "d": (2000, 3500), "g": (1200, 2200)}  # band in Hz
COMMANDS = {
    "yes": "i:5 eh:11 s:13", "no": "n:8 aw:10 oo:9", "up": "uh:13 p:9", "down": "d:7 ae:9 u:8 n:10",
    "left": "l:7 eh:10 f:8 t:7", "right": "r:7 ah:8 i:9 t:7", "on": "ah:14 n:12", "off": "aw:13 f:14",
    "stop": "s:11 t:6 ah:11 p:8", "go": "g:6 aw:11 oo:11",
}  # fmt: skip
"""Phonemes with their lengths in hundredths of a second."""


def band_noise(length: int, low: float, high: float, chance: np.random.Generator) -> np.ndarray:
    """Noise between two frequencies, of unit strength."""
    spectrum = np.fft.rfft(chance.standard_normal(length))
    frequencies = np.fft.rfftfreq(length, 1 / RATE)
    spectrum[(frequencies < low) | (frequencies > high)] = 0
    found = np.fft.irfft(spectrum, length)
    return found / max(1e-9, float(np.sqrt(np.mean(found**2))))


def speak(command: str, seed: int) -> np.ndarray:
    """A command in a voice that the seed decides, as samples between -1 and 1."""
    chance = np.random.default_rng(seed)
    pitch, tract, pace = chance.uniform(90, 240), chance.uniform(0.87, 1.18), chance.uniform(0.75, 1.3)
    tracks, noise = [], []
    for spoken in COMMANDS[command].split():
        name, hundredths = spoken.split(":")
        length = max(80, round(int(hundredths) / 100 * pace * chance.uniform(0.85, 1.15) * RATE))
        own = np.zeros(length)
        if name in VOICED:
            *formants, loudness = VOICED[name]
            tracks.append(np.tile([*(tract * value for value in formants), loudness], (length, 1)))
        else:
            around = tracks[-1][-1, :3] if tracks else np.array([500.0, 1500.0, 2500.0]) * tract
            tracks.append(np.tile([*around, 0.0], (length, 1)))
            if name in NOISE:
                low, high, loudness = NOISE[name]
                own = loudness * band_noise(length, low, high, chance) * np.hanning(length) ** 0.3
            else:
                burst = length // 3
                own[-burst:] = 0.3 * band_noise(burst, *BURST[name], chance) * np.linspace(1, 0, burst) ** 2
        noise.append(own)
    track, rest = np.concatenate(tracks), np.concatenate(noise)
    kernel = np.hanning(320) / np.hanning(320).sum()
    track = np.stack([np.convolve(np.pad(column, 160, "edge"), kernel, "same")[160:-160] for column in track.T], axis=1)
    frequency = pitch * (1 + chance.uniform(-0.25, 0.1) * np.linspace(0, 1, len(track)))
    phase, voiced = 2 * np.pi * np.cumsum(frequency) / RATE, np.zeros(len(track))
    for harmonic in range(1, int(3900 / frequency.max())):
        height = harmonic * frequency
        gain = np.ones(len(track)) / harmonic**0.7
        for resonance, width in zip(track.T[:3], (80, 110, 160), strict=True):
            gain = gain * resonance**2 / np.sqrt((resonance**2 - height**2) ** 2 + (width * height) ** 2)
        voiced += gain * np.sin(harmonic * phase)
    whole = track[:, 3] * voiced / max(1e-9, np.abs(voiced).max()) + rest
    before, after = chance.integers(0, 800, size=2)
    whole = np.concatenate([np.zeros(before), whole, np.zeros(after)])
    whole += 10 ** chance.uniform(-2.2, -1.3) * chance.standard_normal(len(whole)) * 0.5
    return whole / np.abs(whole).max() * chance.uniform(0.3, 0.95)


def write_wav(samples: np.ndarray) -> bytes:
    """A WAV file of one channel and 8 bits."""
    data = np.round(samples * 127 + 128).astype(np.uint8).tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, RATE, 1, 8)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", len(data)) + data + b"\0" * (len(data) % 2)
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def main() -> None:
    """Write the table beside this file."""
    names = [list(COMMANDS)[at % len(COMMANDS)] for at in range(ROWS)]
    random.Random(7).shuffle(names)
    rows = [
        {"audio": {"bytes": write_wav(speak(name, at)), "path": f"{at:03}.wav"}, "question": QUESTION, "command": name}
        for at, name in enumerate(names)
    ]
    pq.write_table(pa.Table.from_pylist(rows), Path(__file__).parent / "commands.parquet", compression="zstd")


if __name__ == "__main__":
    main()
