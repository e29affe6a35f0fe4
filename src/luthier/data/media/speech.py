"""Where somebody speaks in a sound, by Silero's voice detector."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from luthier.chat.media_codec import resample_audio

if TYPE_CHECKING:
    import numpy as np

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
