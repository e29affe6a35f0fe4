"""Parts of the rows: all of them together are the rows, and no two share a prompt."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from luthier.chat.messages import Message
from luthier.data.ops.part import ShardOperator
from luthier.data.row import Row
from vision_models import picture, shown


def rows() -> list[Row]:
    """Every prompt twice, with two answers."""
    return [
        Row(at, f"{at:016x}", "csv", "f.csv", at + 2, "chat",
            (Message(role="user", content=f"question {at // 2}"), Message(role="assistant", content=str(at))))
        for at in range(200)
    ]  # fmt: skip


def test_parts_share_nothing_and_leave_nothing_out() -> None:
    given = rows()
    kept = [
        {row.id for at, row in enumerate(given) if at not in ShardOperator(number=number, of=3).apply(given).drops}
        for number in (1, 2, 3)
    ]
    assert sum(map(len, kept)) == len(set().union(*kept)) == 200
    assert all(40 < len(some) < 100 for some in kept)
    prompts = [{row.prompt for row in given if row.id in some} for some in kept]
    assert not prompts[0] & prompts[1] | prompts[1] & prompts[2] | prompts[0] & prompts[2]
    dropped = ShardOperator(number=2, of=3).apply(given).drops
    assert {drop.reason for drop in dropped.values()} == {
        "of part 1, and part 2 is kept", "of part 3, and part 2 is kept"
    }  # fmt: skip


def test_parts_of_rows_with_pictures_share_no_picture() -> None:
    """One question about each of many pictures, and another about each: the picture decides."""
    given = [
        Row(2 * at + turn, f"{2 * at + turn:016x}", "csv", "f.csv", at + 2, "chat",
            (*shown(f"question {turn}", media, answer="yes"),))
        for at, media in enumerate(picture(seed, 4, 4)[0] for seed in range(60)) for turn in range(2)
    ]  # fmt: skip
    kept = [
        {row.media_key for at, row in enumerate(given) if at not in ShardOperator(number=number).apply(given).drops}
        for number in (1, 2)
    ]
    assert not kept[0] & kept[1]
    assert sum(map(len, kept)) == 60
    assert all(15 < len(some) < 45 for some in kept)


def test_a_part_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValidationError, match="there are 2 parts and part 3 is wanted"):
        ShardOperator(number=3)
