"""Faces in pictures: found on a drawn one, blurred, dropped, and no faces where there are none."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from luthier.chat.media_codec import decode_image
from luthier.data.ops.faces import FaceOperator
from media import picture

pytest.importorskip("cv2")
Make = Callable[..., Any]
LEFT, TOP, SIDE = 60, 40, 120
"""Where the drawn face is."""


def drawn_face() -> bytes:
    """A face as cascades know it: light cheeks and bridge, dark eyes below brows, a mouth."""
    image = Image.new("L", (240, 220), 110)
    draw = ImageDraw.Draw(image)

    def part(shape: str, box: tuple[float, float, float, float], gray: int) -> None:
        left, top, right, bottom = (SIDE * share for share in box)
        getattr(draw, shape)((LEFT + left, TOP + top, LEFT + right, TOP + bottom), fill=gray)

    part("ellipse", (0.0, -0.2, 1.0, 0.6), 60)  # hair
    part("ellipse", (0.05, -0.1, 0.95, 1.15), 190)
    for side in (0.18, 0.58):
        part("rectangle", (side, 0.28, side + 0.24, 0.33), 70)
        part("ellipse", (side, 0.36, side + 0.24, 0.48), 95)
        part("ellipse", (side + 0.07, 0.37, side + 0.17, 0.47), 20)
    part("rectangle", (0.45, 0.35, 0.55, 0.66), 215)
    part("ellipse", (0.4, 0.64, 0.6, 0.71), 130)
    part("ellipse", (0.3, 0.8, 0.7, 0.9), 85)
    out = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(2)).convert("RGB").save(out, "PNG")
    return out.getvalue()


def test_a_face_is_found_where_it_is_and_blurred_for_good() -> None:
    operator = FaceOperator()
    content = drawn_face()
    findings = operator.find(content)
    assert [finding.kind for finding in findings] == ["face"]
    left, top, right, bottom = findings[0].position
    assert left < LEFT + 0.3 * SIDE < LEFT + 0.7 * SIDE < right
    assert top < TOP + 0.4 * SIDE < TOP + 0.8 * SIDE < bottom
    changed = operator.redact(content, findings).content
    assert operator.find(changed) == []
    before, after = (np.asarray(decode_image(one)) for one in (content, changed))
    inside = after[int(top) : int(bottom), int(left) : int(right)].reshape(-1, 3)
    assert len(np.unique(inside, axis=0)) <= 30, "a few blocks of one color each"
    assert np.array_equal(before[:8], after[:8])


def test_pictures_without_a_face_have_none() -> None:
    assert [FaceOperator().find(picture(seed=seed, size=(80, 60))) for seed in range(4)] == [[]] * 4


@pytest.mark.parametrize("action", ["blur", "drop", "flag"])
def test_rows_with_faces_are_blurred_dropped_or_counted(action: str, make: Make, tmp_path: Path) -> None:
    for label, content in (("face", drawn_face()), ("none", picture(seed=1, size=(80, 60)))):
        (tmp_path / "photos" / label).mkdir(parents=True)
        (tmp_path / "photos" / label / "a.png").write_bytes(content)
    source = {"kind": "mediafolder", "path": "photos"}
    made = make(source=source, ops=[{"kind": "faces", "action": action}], split={"test": 0}, task="text")
    assert made.summary.counts == {"faces": {"face": {"image": 1}}}
    assert made.summary.dropped == ({"a picture holds face": 1} if action == "drop" else {})
    assert made.events["action"].to_list() == {"blur": ["edit"], "drop": ["drop"], "flag": []}[action]
    assert made.summary.rows == {"train": 1 if action == "drop" else 2}
