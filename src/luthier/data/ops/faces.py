"""Faces in pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.chat.media_codec import KeptMedia, decode_image
from luthier.core.component import BasicMarker
from luthier.data.media.operator import MediaFinding, MediaOperator
from luthier.data.media.redact import encode_image, pixelate_boxes
from luthier.data.operator import Column, Reads

_CASCADES = ("haarcascade_frontalface_default.xml", "haarcascade_profileface.xml")
_STEP = 1.1
"""Each pass looks for faces so much larger than the last one."""
_SECONDS_A_BYTE = 2e-6
"""Of one core."""


class FaceOperator(MediaOperator):
    """Find faces in pictures by the cascades of OpenCV (Viola and Jones 2001), and blur them, drop the row, or report.

    A blurred face is a few blocks of mean colors; the picture becomes PNG. The cascades know upright faces seen from
    the front or the left and right, of 24 pixels and more: others stay. It never suggests itself: whether faces may
    stay depends on what the pictures are for.
    """

    kind: Literal["faces"] = "faces"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt",)
    writes: ClassVar[Mapping[str, Column]] = {"found": "count"}
    is_private: ClassVar[bool] = True
    medium: ClassVar[Literal["image", "audio"]] = "image"
    libraries: ClassVar[Mapping[str, str]] = {"PIL": "images", "cv2": "faces"}
    suggested_at: ClassVar[int] = 22

    action: Annotated[Literal["blur", "drop", "flag"], BasicMarker()] = "blur"
    """`blur` averages faces over large blocks, `drop` leaves the row out, `flag` only counts."""
    min_neighbors: int = Field(default=3, ge=1, le=50)
    """So many windows near each other must hold a face: lower finds more faces, and more that are none."""
    min_pixels: int = Field(default=24, ge=20)
    """The width of the smallest face."""

    @property
    def outcome(self) -> Literal["redact", "drop", "flag"]:
        return "redact" if self.action == "blur" else self.action

    def model_s(self, size: int) -> float:
        """What the cascades take."""
        return size * _SECONDS_A_BYTE

    def find(self, content: bytes) -> list[MediaFinding]:
        """Faces from the front, from either side; one that several cascades see counts once."""
        import cv2
        import numpy as np

        gray = cv2.equalizeHist(np.asarray(decode_image(content).convert("L")))
        front, profile = map(_open_cascade, _CASCADES)
        options = {"scaleFactor": _STEP, "minNeighbors": self.min_neighbors, "minSize": (self.min_pixels,) * 2}
        width = gray.shape[1]
        found = [_corners(*box) for box in front.detectMultiScale(gray, **options)]
        found += [_corners(*box) for box in profile.detectMultiScale(gray, **options)]
        mirrored = profile.detectMultiScale(np.ascontiguousarray(gray[:, ::-1]), **options)
        found += [_corners(width - x - w, y, w, h) for x, y, w, h in mirrored]
        return [MediaFinding("face", box) for box in _without_repeats(found)]

    def redact(self, content: bytes, findings: Sequence[MediaFinding]) -> KeptMedia:
        boxes = [(position[0], position[1], position[2], position[3]) for _, position in findings]
        return encode_image(pixelate_boxes(decode_image(content), boxes, 0.1))


def _corners(x: int, y: int, width: int, height: int) -> tuple[float, float, float, float]:
    return float(x), float(y), float(x + width), float(y + height)


def _without_repeats(boxes: Sequence[tuple[float, float, float, float]]) -> list[tuple[float, float, float, float]]:
    """Boxes without those whose middle lies in an earlier one."""
    kept: list[tuple[float, float, float, float]] = []
    for box in boxes:
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        if not any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in kept):
            kept.append(box)
    return kept


@lru_cache(maxsize=len(_CASCADES))
def _open_cascade(name: str) -> Any:
    import cv2

    return cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / name))
