"""Redact media: cover or pixelate regions of images, and redact media outside of datasets."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.chat.media_codec import KeptMedia, keep_media
from luthier.chat.messages import Media
from luthier.core.component import components_by_kind
from luthier.core.errors import InputError, SourceLocation, did_you_mean
from luthier.data.media.operator import MediaOperator
from luthier.data.operator import Operator

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
        border = values[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2].reshape(-1, values.shape[-1])
        values[top:bottom, left:right] = np.median(border, axis=0).astype(np.uint8)
    return Images.fromarray(values)


def pixelate_boxes(image: Image, boxes: Iterable[Box], margin: float) -> Image:
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


class MediaRedactor:
    """Applies operators such as `image_pii` and `faces` to one medium after the other."""

    def __init__(self, settings: Sequence[Mapping[str, Any]], recipe_dir: Path) -> None:
        """`InputError` for what is no operator on media; `MissingExtra` for one whose libraries are not installed."""
        known = [kind for kind, member in components_by_kind(Operator).items() if issubclass(member, MediaOperator)]
        self._operators: list[MediaOperator] = []
        for entry in settings:
            if entry.get("kind") not in known:
                what = f"no operator {entry.get('kind')!r} looks at pictures or sounds"
                hint = did_you_mean(str(entry.get("kind")), known)
                raise InputError(what, where=SourceLocation(field="media_ops"), hint=hint)
            operator = Operator.parse(dict(entry))
            assert isinstance(operator, MediaOperator)
            operator.check_installed(recipe_dir)
            self._operators.append(operator)

    def __call__(self, media: Media, content: bytes) -> KeptMedia | None:
        """The medium without what was found; None where an operator would drop its row."""
        kept = KeptMedia(media, content)
        for operator in self._operators:
            if operator.medium == media.kind and (findings := operator.find(kept.content)):
                if operator.outcome == "drop":
                    return None
                if operator.outcome == "redact":
                    kept = operator.redact(kept.content, findings)
        return kept
