"""Personal data in the text of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from luthier.chat.media_codec import KeptMedia, decode_image
from luthier.core.component import BasicMarker
from luthier.data.media.operator import MediaFinding, MediaOperator
from luthier.data.media.redact import cover_boxes, encode_image
from luthier.data.media.text import ImageText, read_image_text
from luthier.data.operator import Column, Reads
from luthier.pii.detect import find_pii
from luthier.pii.recognizer import Recognizer
from luthier.pii.span import PATTERN_KINDS, PiiKind

_MARGIN = 0.15
"""So much of a word's height is covered above and below it, twice as much beside it."""
_SECONDS_A_BYTE = 1e-5
"""Of one core: about half a second for a picture of 50 KB."""


class ImagePii(MediaOperator):
    """Read the text in pictures by OCR, find personal data in it as `pii` does, and cover it, drop the row, or report.

    Covered pixels have the color around them and cannot be brought back; the picture becomes PNG. Events name kinds and
    digests, never what was read. Text that OCR misses (handwriting, tiny or turned text) stays: measure recall on
    pictures like yours. It never suggests itself: it takes about half a second for each picture.
    """

    kind: Literal["image_pii"] = "image_pii"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt",)
    writes: ClassVar[Mapping[str, Column]] = {"found": "count"}
    is_private: ClassVar[bool] = True
    medium: ClassVar[Literal["image", "audio"]] = "image"
    libraries: ClassVar[Mapping[str, str]] = {"PIL": "images", "rapidocr": "ocr", "onnxruntime": "ocr"}
    suggested_at: ClassVar[int] = 21

    action: Annotated[Literal["redact", "drop", "flag"], BasicMarker()] = "redact"
    """`redact` covers the words, `drop` leaves the row out, `flag` only counts."""
    kinds: tuple[PiiKind, ...] = PATTERN_KINDS
    """What is looked for by patterns; what `ner` knows comes to it."""
    ner: Recognizer | None = None
    """A model that finds persons and more, as in `pii`."""

    @property
    def outcome(self) -> Literal["redact", "drop", "flag"]:
        return self.action

    def model_s(self, size: int) -> float:
        """What OCR takes."""
        return size * _SECONDS_A_BYTE

    def find(self, content: bytes) -> list[MediaFinding]:
        """The words of each find; a find of several words is several findings of its kind."""
        found = read_image_text(decode_image(content))
        joined = found.join_broken_words()
        readings = [found] if joined == found else [found, joined]
        findings = [finding for reading in readings if reading.text for finding in self._find_in_text(reading)]
        return list(dict.fromkeys(findings))

    def _find_in_text(self, found: ImageText) -> Iterator[MediaFinding]:
        named = self.ner.find_names([found.text])[0] if self.ner else []
        requested = (*self.kinds, *(self.ner.finds if self.ner else ()))
        for span in find_pii(found.text, requested, named):
            for box in _join_boxes(found.boxes(span.start, span.end)):
                yield MediaFinding(span.kind, box)

    def redact(self, content: bytes, findings: Sequence[MediaFinding]) -> KeptMedia:
        boxes = [(position[0], position[1], position[2], position[3]) for _, position in findings]
        return encode_image(cover_boxes(decode_image(content), boxes, _MARGIN))


def _join_boxes(boxes: Sequence[tuple[float, float, float, float]]) -> list[tuple[float, float, float, float]]:
    """Boxes of words that stand side by side as one, so that the gaps between them tell nothing, either."""
    joined: list[tuple[float, float, float, float]] = []
    for left, top, right, bottom in boxes:
        if joined:
            before = joined[-1]
            shared = min(bottom, before[3]) - max(top, before[1])
            if shared > 0.5 * min(bottom - top, before[3] - before[1]) and left >= before[0]:
                joined[-1] = (before[0], min(top, before[1]), max(right, before[2]), max(bottom, before[3]))
                continue
        joined.append((left, top, right, bottom))
    return joined
