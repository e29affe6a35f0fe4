"""Speech in recordings of people who say digits, and none in noise; the recordings are used where they are here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from luthier.chat.media_codec import decode_audio
from luthier.data.checks.no_speech import _planted
from luthier.data.media.speech import measure_speech

pytest.importorskip("silero_vad")
RECORDINGS = Path(__file__).resolve().parents[4] / "shared" / "data" / "fsdd" / "recordings"


def test_noise_tones_and_silence_hold_no_speech() -> None:
    chance = np.random.default_rng(0)
    for samples in (chance.normal(0, 0.1, 16000), np.zeros(16000), np.sin(np.arange(16000) / 5)):
        assert measure_speech(samples.astype(np.float32), 16000, 0.5) == 0


def test_a_voice_is_heard_at_any_rate() -> None:
    voice = _planted(0, bad=False).astype(np.float32)
    assert measure_speech(voice, 16000, 0.5) > 0.8
    assert measure_speech(voice[::2].copy(), 8000, 0.5) > 0.6


@pytest.mark.data
def test_spoken_digits_are_speech() -> None:
    files = sorted(RECORDINGS.glob("*.wav"))[:200:4]
    if not files:
        pytest.skip("the recordings are not beside the repository")
    heard = [measure_speech(*decode_audio(file.read_bytes()), 0.5) for file in files]
    assert np.mean(np.array(heard) > 0.1) > 0.9
