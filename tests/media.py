"""Tiny pictures and sounds, made where they are needed."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from PIL import Image


def picture(
    name: str = "PNG", *, seed: int = 0, size: tuple[int, int] = (12, 8), mode: str = "RGB", **more: Any
) -> bytes:
    """A picture of random pixels as a file."""
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(values).convert(mode).save(out, name, **more)
    return out.getvalue()


def sound(seconds: float = 0.1, rate: int = 8000, *, seed: int = 0, channels: int = 1, chunks: bytes = b"") -> bytes:
    """A sound of random samples as a WAV file of 16 bits; `chunks` stand before its samples."""
    values = np.random.default_rng(seed).integers(-20000, 20000, (round(seconds * rate), channels), dtype=np.int16)
    return wav(values.astype("<i2").tobytes(), rate, channels, 16, 1, chunks)


def wav(data: bytes, rate: int, channels: int, bits: int, codec: int, chunks: bytes = b"") -> bytes:
    """A WAV file of these samples as they are."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", codec, channels, rate, rate * block, block, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + chunks + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body
