"""Orders drawn into pictures and spoken into sounds, for probes of injection."""

from __future__ import annotations

import io
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from luthier.chat.media_codec import KeptMedia, decode_audio, encode_wav, keep_media, resample_audio
from luthier.core.errors import MissingExtra, SystemResourceError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

SYNTHESIZERS = ("espeak-ng", "espeak")
"""Programs that speak a text, the first that is here."""
_SPOKEN_S = 60.0
_FAINT = 0.35
"""Share of the full contrast that faint letters have."""


def draw_order(ground: Image, how: str, text: str) -> KeptMedia:
    """A picture with an order in it.

    `how`: `caption` (below the picture), `banner` (across it), `sign` (a plate in its middle), `faint` (little
    contrast), `small` (in a corner), `turned` (upright at the left edge).
    """
    from PIL import Image, ImageDraw

    ground = ground.convert("RGB")
    width, height = ground.size
    share = {"small": 0.5, "turned": 0.9}.get(how, 0.9)
    line = _render_line(text, round((height if how == "turned" else width) * share))
    if how == "turned":
        line = line.rotate(90, expand=True)
    positions = {
        "caption": ((width - line.width) // 2, height),
        "banner": ((width - line.width) // 2, height // 4),
        "sign": ((width - line.width) // 2, (height - line.height) // 2),
        "faint": ((width - line.width) // 2, height // 2),
        "small": (width - line.width, height - line.height),
        "turned": (0, (height - line.height) // 2),
    }
    left, top = positions[how]
    shown = Image.new("RGB", (width, height + (line.height if how == "caption" else 0)), "white")
    shown.paste(ground, (0, 0))
    box = (left, top, left + line.width, top + line.height)
    if how == "faint":
        shown.paste(Image.blend(shown.crop(box), line.convert("RGB"), _FAINT), box[:2])
    elif how == "sign":
        ImageDraw.Draw(shown).rectangle((left - 3, top - 3, box[2] + 2, box[3] + 2), outline="red", width=2)
        shown.paste(line, box[:2])
    else:
        shown.paste(line, box[:2])
    out = io.BytesIO()
    shown.save(out, "PNG")
    return keep_media(out.getvalue())


def _render_line(text: str, width: int) -> Image:
    """Black letters on white, brought to a width."""
    from PIL import Image, ImageDraw, ImageFont
    from PIL.Image import Resampling

    font = ImageFont.load_default(32)
    _, _, right, bottom = font.getbbox(text)
    line = Image.new("L", (round(right) + 12, round(bottom) + 12), 255)
    ImageDraw.Draw(line).text((6, 4), text, font=font, fill=0)
    return line.resize((max(1, width), max(6, round(line.height * width / line.width))), Resampling.LANCZOS)


def find_synthesizer() -> str | None:
    """The program that speaks texts; None where there is none."""
    return next((path for name in SYNTHESIZERS if (path := shutil.which(name))), None)


def speak(text: str) -> tuple[np.ndarray[Any, Any], int]:
    """A text as a voice says it, and its samples in a second; `MissingExtra` without a synthesizer."""
    program = find_synthesizer()
    if program is None:
        hint = "install it (`apt install espeak-ng`), or leave `audio` out of `kinds`"
        raise MissingExtra("orders are spoken by espeak-ng, which is not here", hint=hint)
    command = [program, "-v", "en", "-s", "150", "--stdout"]
    done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=_SPOKEN_S, check=False)  # noqa: S603  # a fixed program; the text is its input
    if done.returncode or not done.stdout:
        why = done.stderr.decode(errors="replace").strip()[:200] or f"it ended with {done.returncode}"
        raise SystemResourceError(f"{program} spoke nothing: {why}", hint="try it by hand")
    return decode_audio(done.stdout)


def speak_order(ground: tuple[np.ndarray[Any, Any], int] | None, how: str, text: str) -> KeptMedia:
    """A sound with a spoken order `before` it, `after` it or `over` it, as loud as it is; None: the order alone."""
    import numpy as np

    order, rate = speak(text)
    if ground is None:
        return keep_media(encode_wav(order, rate))
    samples, own = ground
    order = resample_audio(order, rate, own)
    loud = float(np.sqrt(np.mean(np.square(samples)))) or 0.05
    order = order * min(loud / max(float(np.sqrt(np.mean(np.square(order)))), 1e-9), 1 / max(np.abs(order).max(), 1e-9))
    if how == "over":
        mixed = np.zeros(max(len(samples), len(order)), np.float32)
        mixed[: len(samples)] += samples
        mixed[: len(order)] += order
        return keep_media(encode_wav(mixed, own))
    pause = np.zeros(own // 4, np.float32)
    parts = [samples, pause, order] if how == "after" else [order, pause, samples]
    return keep_media(encode_wav(np.concatenate(parts), own))
