"""Worker processes give back what a loop would, in order; they start late, hold little, and let errors through."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from luthier.core.errors import DataError
from luthier.data.passes.workers import Workers


def times(number: int, by: int) -> tuple[int, int]:
    """A product, and the process that made it."""
    return number * by, os.getpid()


def refuse(number: int) -> int:
    """A mistake of the user's at 3."""
    if number == 3:
        raise DataError("three is wrong", remedy="take four")
    return number


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_made_comes_in_order(count: int) -> None:
    with Workers(count) as workers:
        made = list(workers.map(times, ((number, 3) for number in range(40))))
        again = list(workers.map(times, [(5, 5)]))
    assert [one for one, _ in made] == [number * 3 for number in range(40)]
    assert again[0][0] == 25
    own = {process == os.getpid() for _, process in [*made, *again]}
    assert own == {count == 1}


def test_errors_of_a_worker_are_the_users_errors() -> None:
    with Workers(2) as workers, pytest.raises(DataError, match="three is wrong") as caught:
        list(workers.map(refuse, ((number,) for number in range(9))))
    assert caught.value.remedy == "take four"


def test_a_process_starts_with_the_first_job_and_few_jobs_are_asked_for_ahead() -> None:
    taken: list[int] = []

    def asked() -> Iterator[tuple[int, int]]:
        for number in range(100):
            taken.append(number)
            yield number, 1

    with Workers(2) as workers:
        assert workers._pool is None
        found = workers.map(times, asked())
        assert not taken
        next(found)
        assert len(taken) <= 7
    with Workers(1) as alone:
        list(alone.map(times, [(1, 1)]))
        assert alone._pool is None
