"""The index of near copies finds what comparing with every row finds."""

from __future__ import annotations

import random

from luthier.chat.messages import Message
from luthier.data.dedup.near import NearDuplicate, NearDuplicateIndex, similarity
from luthier.data.row import Row


def _row(n: int, text: str) -> Row:
    messages = (Message(role="user", content=text), Message(role="assistant", content="yes"))
    return Row(n, f"{n:016x}", "csv", "f.csv", n + 2, "chat", messages)


def test_the_nearest_row_is_found_and_no_stranger() -> None:
    chance = random.Random(4)
    words = [f"word{n}" for n in range(300)]
    rows = [_row(n, " ".join(chance.sample(words, 30))) for n in range(120)]
    asked: list[Row] = []
    for n, row in enumerate(rows):
        copy = row.prompt.split()
        for _ in range(n % 5):
            copy[chance.randrange(len(copy))] = chance.choice(words)
        asked.append(_row(n, " ".join(copy)))
    index = NearDuplicateIndex(0.8, iter(rows), rows.__getitem__)
    found = index.nearest_of(asked)
    for row, twin in zip(asked, found, strict=True):
        by_hand = max((round(similarity(other, row), 6), -place) for place, other in enumerate(rows))
        assert twin == (NearDuplicate(-by_hand[1], by_hand[0]) if by_hand[0] >= 0.8 else None)
        assert index.nearest(row) == twin
    assert 40 < sum(twin is not None for twin in found) < 120


def test_an_empty_index_knows_nobody() -> None:
    assert NearDuplicateIndex(0.8, iter([]), [].__getitem__).nearest(_row(0, "text")) is None
