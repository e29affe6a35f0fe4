"""Processes of a run give back what a loop would, in order; they start late, hold little, and let errors through."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from luthier.core.errors import DataError
from luthier.data.engine.workers import Workers


def times(number: int, by: int) -> tuple[int, int]:
    """A product, and the process that made it."""
    return number * by, os.getpid()


def met(folder: Path, number: int) -> int:
    """The number, when jobs were done by two processes; who does one waits for the other."""
    (folder / str(os.getpid())).touch()
    _wait_for(lambda: len(list(folder.iterdir())) == 2)
    return number


def beside(folder: Path, number: int) -> int:
    """How many jobs are being done while this one is."""
    mine = folder / str(number)
    mine.touch()
    time.sleep(0.05)
    found = len(list(folder.iterdir()))
    mine.unlink()
    return found


def after(folder: Path, number: int, other: int) -> int:
    """The number, when the job with the other one was begun."""
    (folder / str(number)).touch()
    _wait_for((folder / str(other)).exists)
    return number


def refuse_after(folder: Path, number: int, other: int) -> int:
    """Refuse each number in this way."""
    raise DataError(f"{after(folder, number, other)} is wrong")


def _wait_for(there: Callable[[], bool]) -> None:
    for _ in range(6000):
        if there():
            return
        time.sleep(0.01)
    raise AssertionError("what is waited for does not come")


def refuse(number: int) -> int:
    """A mistake of the user's at 3."""
    if number == 3:
        raise DataError("three is wrong", hint="take four")
    return number


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_made_comes_in_order(count: int) -> None:
    with Workers(count) as workers:
        made = list(workers.map(times, ((number, 3) for number in range(40))))
        again = list(workers.map(times, [(5, 5)]))
    assert [one for one, _ in made] == [number * 3 for number in range(40)]
    assert again[0][0] == 25
    own = {process == os.getpid() for _, process in [*made, *again]}
    assert own == {True} or count == 2


def test_no_more_jobs_than_asked_for_are_done_at_once(tmp_path: Path) -> None:
    with Workers(4) as workers:
        assert max(workers.map(beside, ((tmp_path, number) for number in range(24)), 2)) <= 2


def test_this_process_works_beside_the_others(tmp_path: Path) -> None:
    with Workers(2) as workers:
        assert list(workers.map(met, ((tmp_path, number) for number in range(9)))) == list(range(9))
    assert (tmp_path / str(os.getpid())).exists()


def test_what_no_other_process_has_begun_is_done_here(tmp_path: Path) -> None:
    with Workers(2) as workers:
        made = list(workers.map(after, [(tmp_path, 0, 2), (tmp_path, 1, 1), (tmp_path, 2, 2)]))
    assert made == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 2])
def test_of_errors_the_first_is_told_and_nothing_is_left_behind(tmp_path: Path, count: int) -> None:
    marks, scratch = tmp_path / "marks", tmp_path / "scratch"
    marks.mkdir()
    scratch.mkdir()
    asked = [(marks, number, 0 if count == 1 else 3) for number in range(4)]
    with Workers(count, scratch) as workers, pytest.raises(DataError, match="0 is wrong"):
        list(workers.map(refuse_after, asked))
    assert list(scratch.iterdir()) == []


def test_errors_of_a_worker_are_the_users_errors() -> None:
    with Workers(2) as workers, pytest.raises(DataError, match="three is wrong") as caught:
        list(workers.map(refuse, ((number,) for number in range(9))))
    assert caught.value.hint == "take four"


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
        "import time; from luthier.data.engine.workers import Workers\n"
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
