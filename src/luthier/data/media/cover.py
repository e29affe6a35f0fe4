"""Pixels of a picture that are to be seen no more: covered by one color, or averaged over large blocks."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

from luthier.chat.media_codec import KeptMedia, keep_media

if TYPE_CHECKING:
    from PIL.Image import Image

    from luthier.data.media.text import Box

_BLOCKS = 4
"""An averaged box has so many blocks in its width: too few to know a face again."""


def cover_boxes(image: Image, boxes: Iterable[Box], margin: float) -> Image:
    """The picture with the median color in and around each box in place of it.

    `margin` is a share of the box's height: so much more is covered above and below, twice as much to the sides.
    """
    import numpy as np
    from PIL import Image as Images

    values = np.array(image)
    for left, top, right, bottom in _widened(image, boxes, margin):
        ring = values[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2].reshape(-1, values.shape[-1])
        values[top:bottom, left:right] = np.median(ring, axis=0).astype(np.uint8)
    return Images.fromarray(values)


def average_boxes(image: Image, boxes: Iterable[Box], margin: float) -> Image:
    """The picture with a few large blocks of mean colors in place of each box."""
    from PIL.Image import Resampling

    changed = image.copy()
    for left, top, right, bottom in _widened(image, boxes, margin):
        part = changed.crop((left, top, right, bottom))
        rows = max(1, round(_BLOCKS * part.height / part.width))
        small = part.resize((min(_BLOCKS, part.width), min(rows, part.height)), Resampling.BOX)
        changed.paste(small.resize(part.size, Resampling.NEAREST), (left, top))
    return changed


def encode_image(image: Image) -> KeptMedia:
    """A changed picture as a data set keeps it: PNG."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return keep_media(out.getvalue())


def _widened(image: Image, boxes: Iterable[Box], margin: float) -> Iterable[tuple[int, int, int, int]]:
    """Boxes in whole pixels with a margin, as far as they lie in the picture."""
    for left, top, right, bottom in boxes:
        more = 1 + margin * (bottom - top)
        found = (
            max(0, int(left - 2 * more)),
            max(0, int(top - more)),
            min(image.width, int(right + 2 * more) + 1),
            min(image.height, int(bottom + more) + 1),
        )
        if found[0] < found[2] and found[1] < found[3]:
            yield found
