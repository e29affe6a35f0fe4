"""Personal data in pictures: how much of it is covered, on drawn text with known places; and faces.

Texts are the made rows of `pii` (values by Faker and python-stdnum in sentences of seven languages), and look-alikes,
drawn in four colors and three sizes, and once more small, gray, blurred and compressed ("hard"). A value counts as
covered where at least 90 % of its box is; a covered box counts as right where it meets a value. Faces are the 200 crops
of Labeled Faces in the Wild that scikit-image's wheel carries (100 faces, 100 parts of pictures without one), each put
on a gray ground four times as large; without that package they are left out.
"""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.drawn_text import Box, draw_text
from benchmarks.pii_rows import look_alikes, made

from luthier.data.ops.faces import FaceOperator
from luthier.data.ops.image_pii import ImagePii
from luthier.data.pii.benchmark import LabeledPiiText
from luthier.metrics.intervals import wilson_interval

COVERED = 0.9
_SIDE = 100
"""Pixels of a face's crop."""


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """Print a table for each set; yield recall and precision."""
    rows = [*made(2 if quick else 6), *look_alikes(1 if quick else 2)]
    for name, hard in (("plain", False), ("hard", True)):
        yield from _measure_text(rows, name, hard=hard)
    yield from _measure_faces()


def _measure_text(rows: Sequence[LabeledPiiText], name: str, *, hard: bool) -> Iterator[dict[str, Any]]:
    operator = ImagePii()
    expected, covered = Counter[str](), Counter[str]()
    found = right = 0
    start = time.process_time()
    for seed, row in enumerate(rows):
        drawn = draw_text(row.text, [(span.start, span.end) for span in row.spans], seed, hard=hard)
        findings = [tuple(finding.position) for finding in operator.find(drawn.content)]
        for span, boxes in zip(row.spans, drawn.boxes, strict=True):
            expected[span.kind] += 1
            covered[span.kind] += bool(boxes) and all(_covered(box, findings) >= COVERED for box in boxes)
        every = [box for boxes in drawn.boxes for box in boxes]
        found += len(findings)
        right += sum(any(_covered(box, [finding]) > 0.2 for box in every) for finding in findings)
    seconds = (time.process_time() - start) / len(rows)
    print(f"{name}: {len(rows)} pictures, {seconds:.2f} CPU-seconds a picture")
    for kind, count in sorted(expected.items()):
        print(f"  {kind:<12} {covered[kind]:>4} of {count:>4} covered ({covered[kind] / count:.3f})")
    yield _figure(f"image_pii_recall_{name}", covered.total(), expected.total(), 0.9 if not hard else 0.7)
    yield _figure(f"image_pii_precision_{name}", right, found, 0.9)


def _covered(box: Box, findings: Sequence[tuple[float, ...]]) -> float:
    """The share of a box that findings cover, on a grid of a tenth of its width and height."""
    left, top, right, bottom = box
    points = [
        (left + (right - left) * (x + 0.5) / 40, top + (bottom - top) * (y + 0.5) / 8)
        for x in range(40)
        for y in range(8)
    ]
    return sum(any(l <= x <= r and t <= y <= b for l, t, r, b in findings) for x, y in points) / len(points)  # noqa: E741


def _measure_faces() -> Iterator[dict[str, Any]]:
    import numpy as np
    from PIL import Image

    package = find_spec("skimage")
    if package is None or package.origin is None:
        print("faces: not measured, since scikit-image is not installed")
        return
    crops = np.load(Path(package.origin).parent / "data" / "lfw_subset.npy")
    operator = FaceOperator()
    seen = []
    start = time.process_time()
    for crop in crops:
        ground = Image.new("L", (2 * _SIDE, 2 * _SIDE), 128)
        ground.paste(Image.fromarray((crop * 255).astype(np.uint8)).resize((_SIDE, _SIDE)), (_SIDE // 2, _SIDE // 2))
        out = io.BytesIO()
        ground.save(out, "PNG")
        seen.append(bool(operator.find(out.getvalue())))
    seconds = (time.process_time() - start) / len(crops)
    print(f"faces: {sum(seen[:100])} of 100 found, {sum(seen[100:])} of 100 others taken for one, {seconds:.3f} s each")
    yield _figure("faces_recall", sum(seen[:100]), 100, 0.9)
    yield _figure("faces_precision", sum(seen[:100]), sum(seen), 0.95)


def _figure(name: str, right: int, count: int, goal: float) -> dict[str, Any]:
    low, high = wilson_interval(right, count)
    print(f"  {name}: {right} of {count} = {right / count:.3f} ({low:.3f} to {high:.3f})")
    return {
        "figure": name, "value": round(right / count, 3), "low": round(low, 3), "high": round(high, 3), "goal": goal,
        "unit": "share", "peer": "none",
    }  # fmt: skip
