"""Pictures outside of data sets go through the operators of data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.chat.media_codec import keep_media
from luthier.core.errors import InputError
from luthier.data.media.redact import MediaRedactor
from luthier.data.ops.faces import FaceOperator
from media import picture, sound
from tests.data.ops.test_faces import drawn_face


def test_a_face_is_blurred_dropped_or_let_be_as_in_rows(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    shown, plain, heard = keep_media(drawn_face()), keep_media(picture(seed=3)), keep_media(sound(seed=1))
    kept = MediaRedactor([{"kind": "faces"}], tmp_path)(shown.media, shown.content)
    assert kept is not None
    assert kept.media.digest != shown.media.digest
    assert FaceOperator().find(kept.content) == []
    assert MediaRedactor([{"kind": "faces", "action": "drop"}], tmp_path)(shown.media, shown.content) is None
    assert MediaRedactor([{"kind": "faces", "action": "flag"}], tmp_path)(shown.media, shown.content) == shown
    for other in (plain, heard):
        assert MediaRedactor([{"kind": "faces"}], tmp_path)(other.media, other.content) == other


def test_only_operators_on_media_are_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no operator 'face' looks at pictures") as caught:
        MediaRedactor([{"kind": "face"}], tmp_path)
    assert "faces" in (caught.value.hint or "")
    with pytest.raises(InputError, match="no operator 'normalize'"):
        MediaRedactor([{"kind": "normalize"}], tmp_path)
