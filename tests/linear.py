"""Whether work takes no longer than its text is long: in processor seconds, by the least of several tries, since what
else a process or a machine does can only make a try longer."""

from __future__ import annotations

import time
from collections.abc import Callable

TRIES = 5


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of one try."""
    start = time.process_time()
    work()
    return time.process_time() - start


def assert_linear(
    work: Callable[[str], object], piece: str, chars: int, times: int = 10, floor_s: float = 0.02
) -> None:
    """A text of `times` as many characters may take three times `times` as long; the square would take `times` times.

    Args:
        floor_s: what is too short to be told from noise.
    """
    text = piece * (10 * chars // len(piece) + 1)
    short, long = text[:chars], text[: 10 * chars]
    work(short)  # what is loaded once is loaded
    least = [float("inf"), float("inf")]
    for _ in range(TRIES):
        least = [min(least[0], seconds(lambda: work(short))), min(least[1], seconds(lambda: work(long)))]
        if least[1] < 30 * (least[0] + floor_s):
            return
    raise AssertionError(f"ten times {piece!r} took {least[1]:.3f} s for {least[0]:.3f}")


def assert_quick(work: Callable[[], object], limit_s: float) -> None:
    """It takes less than a limit which the square of its text's length would pass by far."""
    took = [seconds(work)]
    while min(took) >= limit_s and len(took) < TRIES:
        took.append(seconds(work))
    assert min(took) < limit_s, took
