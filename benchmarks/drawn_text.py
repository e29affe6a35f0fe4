"""Pictures of text with known places: letters as forms, labels and screens show them, drawn from a seed."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFilter, ImageFont

Box = tuple[float, float, float, float]
_MARGIN = 24
_WIDTH = 44
"""Characters of a line at most."""


class DrawnText(NamedTuple):
    """A picture as PNG or JPEG, and the boxes of each span of its text."""

    content: bytes
    boxes: list[list[Box]]


def draw_text(text: str, spans: Sequence[tuple[int, int]], seed: int, *, hard: bool = False) -> DrawnText:
    """Draw a text in lines; `hard` pictures are small, gray, blurred and strongly compressed."""
    chance = random.Random(seed)
    font = ImageFont.load_default(chance.choice((13, 15)) if hard else chance.choice((18, 22, 28)))
    lines = _break_lines(text)
    height = round(font.size * 1.6)
    size = (2 * _MARGIN + round(font.size * 0.62 * _WIDTH), 2 * _MARGIN + height * len(lines))
    paper, ink = ((214, 210, 200), (80, 80, 92)) if hard else chance.choice(_COLORS)
    image = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(image)
    boxes: list[list[Box]] = [[] for _ in spans]
    for number, (begin, end) in enumerate(lines):
        top = _MARGIN + number * height
        draw.text((_MARGIN, top), text[begin:end], font=font, fill=ink)
        for index, (start, stop) in enumerate(spans):
            low, high = max(start, begin), min(stop, end)
            if low < high:
                left = _MARGIN + font.getlength(text[begin:low])
                _, upper, _, lower = font.getbbox(text[low:high])
                right = _MARGIN + font.getlength(text[begin:high])
                boxes[index].append((left, top + upper, right, top + lower))
    out = io.BytesIO()
    if hard:
        image = image.filter(ImageFilter.GaussianBlur(0.6))
        image.save(out, "JPEG", quality=45)
    else:
        image.save(out, "PNG")
    return DrawnText(out.getvalue(), boxes)


_COLORS = (
    ((255, 255, 255), (0, 0, 0)),
    ((250, 246, 232), (20, 30, 110)),
    ((28, 32, 44), (235, 235, 235)),
    ((226, 236, 226), (120, 20, 20)),
)
"""Paper and ink."""


def _break_lines(text: str) -> list[tuple[int, int]]:
    """Spans of lines, cut at spaces where there are some."""
    found: list[tuple[int, int]] = []
    begin = 0
    while begin < len(text):
        line = text.find("\n", begin)
        end = min(len(text), begin + _WIDTH, line if line >= 0 else len(text))
        if end < len(text) and text[end] != "\n" and (space := text.rfind(" ", begin, end)) > begin:
            end = space
        found.append((begin, end))
        begin = end + (end < len(text) and text[end] in " \n")
    return found
