"""Measure media: blur of images, bandwidth and speech of recordings."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from luthier.chat.media_codec import resample_audio

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

_KERNEL = 11
"""Pixels over which a picture is blurred once more."""
_WINDOW = 2048


def measure_blur(image: Image) -> float:
    """How blurred a picture is, from 0 (sharp) to 1: the share of its edges that a further blur leaves.

    The perceptual metric of Crete, Dolmiere, Ladret and Nicolas (2007), the larger of both directions; a picture
    without any edge has 0.
    """
    import numpy as np
    from scipy import ndimage

    values = np.asarray(image.convert("L"), np.float64) / 255
    inner = tuple(slice(2, side - 1) for side in values.shape)
    shares = [0.0]
    for axis in (0, 1):
        again = ndimage.uniform_filter1d(values, _KERNEL, axis=axis)
        edges = np.abs(ndimage.sobel(values, axis=axis))
        lost = np.maximum(0, edges - np.abs(ndimage.sobel(again, axis=axis)))[inner].sum()
        if (total := edges[inner].sum()) > 0:
            shares.append(float(1 - lost / total))
    return max(shares)


def measure_bandwidth(samples: np.ndarray[Any, Any], rate: int, floor_db: float) -> float:
    """The highest frequency, in Hz, at which a sound has more than `floor_db` of its loudest frequency's power; 0 for
    silence."""
    import numpy as np

    length = min(_WINDOW, len(samples))
    if length < 16:
        return 0.0
    starts = np.linspace(0, len(samples) - length, min(256, 1 + len(samples) // length)).astype(int)
    window = np.blackman(length)
    power = np.mean([np.abs(np.fft.rfft(samples[start : start + length] * window)) ** 2 for start in starts], axis=0)
    audible = np.flatnonzero(power > power.max() * 10 ** (floor_db / 10))
    return float(np.fft.rfftfreq(length, 1 / rate)[audible[-1]]) if power.max() > 0 else 0.0


_RATE = 16_000
_AROUND_S = 0.3
_SHORTEST_MS = 30
"""Speech that is shorter is none: a single window of the detector."""


def measure_speech(samples: np.ndarray[Any, Any], rate: int, threshold: float) -> float:
    """Seconds of speech in a sound: those in which the detector is at least so sure.

    The model is the one in silero-vad's wheel, run by onnxruntime on one thread; nothing is fetched. `threshold` is a
    probability.
    """
    import numpy as np
    import torch
    from silero_vad import get_speech_timestamps

    silence = np.zeros(round(_AROUND_S * _RATE), np.float32)  # the detector needs some time to be sure
    audio = torch.from_numpy(np.concatenate([silence, resample_audio(samples, rate, _RATE), silence]))
    spans = get_speech_timestamps(
        audio,
        _open_detector(),
        sampling_rate=_RATE,
        threshold=threshold,
        min_speech_duration_ms=_SHORTEST_MS,
        speech_pad_ms=0,
    )
    return float(sum(span["end"] - span["start"] for span in spans) / _RATE)


@lru_cache(maxsize=1)
def _open_detector() -> Any:
    from silero_vad import load_silero_vad

    return load_silero_vad(onnx=True)
