"""Blur of pictures and bandwidth of sounds, against numbers of others and sounds whose spectrum is known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from luthier.chat.media_codec import resample_audio
from luthier.data.media.measures import measure_bandwidth, measure_blur


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
