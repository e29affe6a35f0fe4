"""Numbers of pictures and sounds: how blurred, and up to which frequency there is anything to hear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
