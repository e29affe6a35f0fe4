"""Text in pictures: words with their places, read by OCR, and personal data among them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""
_ROW_OVERLAP = 0.5
"""Lines of text are in one row when they share so much of the lower one's height."""


_LONG_WORD = 10
"""Characters of a word that may have been broken."""


class ImageWord(NamedTuple):
    """A word in a picture, and the span of the whole text that it is."""

    start: int
    end: int
    box: Box


class ImageText(NamedTuple):
    """The text of a picture in reading order: rows from the top, in each from the left."""

    text: str
    words: tuple[ImageWord, ...]

    def boxes(self, start: int, end: int) -> list[Box]:
        """The boxes of the words that a span of the text touches."""
        return [word.box for word in self.words if word.start < end and start < word.end]

    def join_broken_words(self) -> ImageText:
        """The same text, in which a long word that ends at the right edge goes on with the next row's first word."""
        edge = max((word.box[2] for word in self.words), default=0.0)
        words: list[ImageWord] = []
        text, moved = self.text, 0
        for word in self.words:
            if words and self.text[word.start - 1] == "\n":
                start, end, (_, top, right, bottom) = words[-1]
                if end - start >= _LONG_WORD and right >= edge - (bottom - top):
                    at = word.start - 1 - moved
                    text, moved = text[:at] + text[at + 1 :], moved + 1
            words.append(ImageWord(word.start - moved, word.end - moved, word.box))
        return ImageText(text, tuple(words))


class _Line(NamedTuple):
    words: list[tuple[str, Box]]
    box: Box


def read_image_text(image: Image) -> ImageText:
    """The text that OCR finds in a picture (RapidOCR with the PP-OCR models of its wheel, on one thread)."""
    import numpy as np

    result = _open_reader()(np.asarray(image.convert("RGB"))[:, :, ::-1])
    if result.boxes is None or result.txts is None:
        return ImageText("", ())
    lines = []
    words_of_lines: Sequence[Any] = result.word_results or ((),) * len(result.txts)
    for text, corners, found in zip(result.txts, result.boxes, words_of_lines, strict=True):
        box = _bounds(corners)
        words = [(word, _bounds(points)) for word, _, points in found if word.strip() and points is not None]
        lines.append(_Line(_widen_to_line(words, box) or [(text, box)], box))
    return _join_lines(lines)


def _widen_to_line(words: list[tuple[str, Box]], line: Box) -> list[tuple[str, Box]]:
    """Words as high as their line, the first and the last as far as it reaches: OCR is surer of lines than of words."""
    left, top, right, bottom = line
    last = len(words) - 1
    return [
        (
            word,
            (
                min(box[0], left) if number == 0 else box[0],
                min(box[1], top),
                max(box[2], right) if number == last else box[2],
                max(box[3], bottom),
            ),
        )
        for number, (word, box) in enumerate(words)
    ]


def _bounds(corners: Any) -> Box:
    xs, ys = zip(*corners, strict=True)
    return float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))


def _join_lines(lines: Sequence[_Line]) -> ImageText:
    """Lines as one text: those that stand side by side are one row, so that a label stands before its value."""
    rows: list[list[_Line]] = []
    for line in sorted(lines, key=lambda line: (line.box[1] + line.box[3]) / 2):
        _, top, _, bottom = line.box
        _, row_top, _, row_bottom = rows[-1][-1].box if rows else (0.0, 0.0, 0.0, 0.0)
        shared = min(bottom, row_bottom) - max(top, row_top)
        if rows and shared >= _ROW_OVERLAP * (bottom - top):
            rows[-1].append(line)
        else:
            rows.append([line])
    parts: list[str] = []
    words: list[ImageWord] = []
    at = 0
    for row in rows:
        named = _merge_row(row)
        for number, (word, box) in enumerate(named):
            parts += [word, "\n" if number == len(named) - 1 else " "]
            words.append(ImageWord(at, at + len(word), box))
            at += len(word) + 1
    return ImageText("".join(parts).rstrip("\n"), tuple(words))


def _merge_row(row: Sequence[_Line]) -> list[tuple[str, Box]]:
    """The words of a row from the left; where lines overlap, what both have read stands once."""
    found: list[tuple[str, Box]] = []
    edge = 0.0
    for line in sorted(row, key=lambda line: line.box[0]):
        found += [(word, box) for word, box in line.words if (box[0] + box[2]) / 2 >= edge]
        edge = max(edge, line.box[2])
    return found


@lru_cache(maxsize=1)
def _open_reader() -> Any:
    """RapidOCR with the models of its wheel: nothing is fetched, nothing is logged."""
    from rapidocr import RapidOCR

    threads = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
    return RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.return_word_box": True,
            **{f"EngineConfig.onnxruntime.{name}": value for name, value in threads.items()},
        }
    )
