"""Rows with one text and other pictures are no copies of each other."""

from __future__ import annotations

from luthier.chat.messages import MEDIA_MARK, Media, Message
from luthier.data.validate.context import CheckData, CheckRow


def test_rows_with_one_question_and_other_pictures_are_no_family() -> None:
    rows = [
        CheckRow(
            f"{number:016x}",
            "train",
            (
                Message(
                    role="user",
                    content=MEDIA_MARK,
                    media=(Media(kind="image", digest=f"{number // 2:064x}", format="png", size=1),),
                ),
                Message(role="assistant", content="a"),
            ),
            "a",
        )
        for number in range(8)
    ]
    assert CheckData(rows, task="label").heads.tolist() == [0, 0, 2, 2, 4, 4, 6, 6]
