"""Measure media: blur of images, bandwidth and speech of recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from luthier.chat.media_codec import decode_audio, resample_audio
from luthier.data.checks.no_speech import _planted
from luthier.data.media.measures import measure_bandwidth, measure_blur, measure_speech


@pytest.mark.parametrize(
    ("radius", "value"), [(0, 0.17171717171717252), (2, 0.2604284841913809), (4, 0.5212467290314946)]
)
def test_blur_is_that_of_scikit_image(radius: int, value: float) -> None:
    """`skimage.measure.blur_effect` of version 0.26 says the same of this picture."""
    rows, columns = np.mgrid[0:96, 0:128]
    image = Image.fromarray(((columns // 7 + rows // 5) % 2 * 180 + 20).astype(np.uint8))
    assert measure_blur(image.filter(ImageFilter.GaussianBlur(radius))) == pytest.approx(value, abs=1e-9)


def test_a_picture_without_edges_is_not_blurred() -> None:
    assert measure_blur(Image.new("RGB", (64, 64), "gray")) == 0


def test_bandwidth_is_where_the_spectrum_ends() -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, 8000).astype(np.float32)
    assert measure_bandwidth(noise, 8000, -80) > 3900
    for rate in (16000, 22050, 44100):
        raised = np.round(resample_audio(noise, 8000, rate) * 32767) / 32768
        assert 3700 < measure_bandwidth(raised, rate, -80) < 4400
    tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    assert measure_bandwidth(tone, 8000, -80) == pytest.approx(440, abs=60)
    assert measure_bandwidth(np.zeros(8000), 8000, -80) == 0


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
