"""Freed memory is given back where it would not be found again, and kept where it would."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHILD = """
from concurrent.futures import ThreadPoolExecutor
from luthier.core.system.process import trim_malloc_heap, resident_bytes
from luthier.tune.training.memory import AllocatorCacheTrimmer

MB = 1 << 20
kept = []

def work(number):
    "Fill memory of this thread with small pieces and free all but each hundredth, which holds the heaps in place."
    pieces = [bytearray(b"x") * 60_000 for _ in range(number * MB // 60_000)]
    kept.extend(pieces[::100])

with ThreadPoolExecutor(1) as thread:
    leftovers = AllocatorCacheTrimmer()
    leftovers.before(1)
    bare = resident_bytes()
    thread.submit(work, 200).result()
    leftovers.before(1)
    after_one = resident_bytes()
    thread.submit(work, 200).result()
    leftovers.before(1)
    after_two = resident_bytes()
    thread.submit(work, 800).result()
    much = resident_bytes()
    leftovers.before(1)
    after_much = resident_bytes()
    thread.submit(work, 200).result()
    leftovers.before(1)
    found = resident_bytes()
    leftovers.before(2)
    print(*(round((one - bare) / MB) for one in (after_one, after_two, much, after_much, found, resident_bytes())))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is given back by glibc")
def test_it_is_given_back_when_packs_are_read_otherwise_or_too_much_is_held() -> None:
    ran = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    after_one, after_two, much, after_much, found, last = map(int, ran.stdout.split())
    assert after_one > 150, "what the same thread asks for again is kept"
    assert after_two < 1.5 * after_one, "and found again"
    assert much > 700
    assert after_much < 100, "more than was needed before is given back"
    assert found > 150
    assert last < 100, "packs in other threads would not find it"
