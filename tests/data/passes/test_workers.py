"""Worker processes give back what a loop would, in order; they start late, hold little, and let errors through."""

from __future__ import annotations

import os
import subprocess
import sys
import time
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


def test_workers_end_with_a_run_that_is_killed() -> None:
    code = (
        "import time; from luthier.data.passes.workers import Workers\n"
        "with Workers(2) as workers:\n"
        "    print(*workers.map(abs, [(-1,)] * 6), flush=True)\n"
        "    list(workers.map(time.sleep, [(600,)] * 6))"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stdout.readline() == b"1 1 1 1 1 1\n"
    time.sleep(0.3)  # most of the time, workers are at their long jobs by now
    run.kill()
    run.communicate(timeout=120)  # the output ends when the last worker has ended, as each holds it open
