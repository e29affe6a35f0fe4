"""The small memory of numbers says what a dictionary says."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from luthier.data.passes import seen


@pytest.mark.parametrize("spread", [50, 4000, 2**64 - 1])
def test_it_counts_as_a_dictionary_does(spread: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "_RUN", 64)
    monkeypatch.setattr(seen, "_FILTER_BITS", 1 << 12)  # nearly every look-up passes the filter
    chance = random.Random(spread)
    counts: Counter[int] = Counter()
    found = seen.Seen()
    for _ in range(6000):
        number = chance.randrange(spread)
        assert found.count(number) == counts[number]
        counts[number] += 1


@pytest.mark.parametrize("spread", [50, 4000, 2**64 - 1])
def test_it_tells_with_what_a_number_came_first(spread: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "_RUN", 64)
    monkeypatch.setattr(seen, "_FILTER_BITS", 1 << 12)
    chance = random.Random(spread)
    values: dict[int, int] = {}
    found = seen.First()
    for line in range(6000):
        number = chance.randrange(spread)
        assert found.value(number, line) == values.get(number)
        values.setdefault(number, line)
