"""A ring that two processes share: whole records in their order, whatever their sizes, and never more than fits."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.traffic import ring_buffer
from luthier.traffic.ring_buffer import Placed, RingBuffer


@pytest.fixture
def small() -> Iterator[RingBuffer]:
    ring = RingBuffer.new(100)
    yield ring
    ring.close()


def emptied(ring: RingBuffer, taken: list[Placed]) -> list[bytes]:
    """What was taken, and let go of."""
    if taken:
        ring.let_go(taken[-1].end)
    return [one.record for one in taken]


@given(st.lists(st.one_of(st.binary(max_size=60), st.none()), max_size=60), st.sampled_from([0, 32, 1000]))
def test_what_was_put_in_comes_out_in_its_order(doings: list[bytes | None], warm: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring_buffer, "_WARM", warm)
        _put_and_take(doings)


def _put_and_take(doings: list[bytes | None]) -> None:
    ring = RingBuffer.new(100)
    other = RingBuffer(os.dup(ring.file))  # as the other process has it
    wanted, found = list[bytes](), list[bytes]()
    for doing in doings:
        was_empty = ring.waiting_bytes == 0
        if doing is None:
            found += emptied(other, other.take(30))
        elif ring.put(doing):
            wanted.append(doing)
        else:
            assert not was_empty or len(doing) > 96, "what fits into it has room when nothing waits"
        assert 0 <= ring.waiting_bytes <= 104
    found += emptied(other, other.take())
    assert found == wanted
    assert ring.waiting_bytes == 0
    ring.close()
    other.close()
    assert not ring.put(b"late")


def test_what_does_not_fit_is_refused_and_the_rest_stays(small: RingBuffer) -> None:
    assert not small.put(b"x" * 97)
    assert small.waiting_bytes == 0
    assert small.put(b"a" * 40)
    assert small.put(b"b" * 32)
    assert not small.put(b"c" * 9)
    assert small.put(b"") is True  # its length alone fits
    assert [one.record for one in small.take()] == [b"a" * 40, b"b" * 32, b""]


def test_what_was_not_let_go_of_is_taken_again(small: RingBuffer) -> None:
    small.put(b"one")
    (first,) = small.take()
    small.put(b"two")
    assert [one.record for one in small.take()] == [b"one", b"two"]
    small.let_go(first.end)
    assert [one.record for one in small.take()] == [b"two"]


def test_an_empty_ring_begins_again_where_memory_is_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_buffer, "_WARM", 256)
    ring = RingBuffer.new(1 << 16)
    for number in range(1000):
        assert ring.put(b"%04d" % number * 10)
        assert emptied(ring, ring.take()) == [b"%04d" % number * 10]
    assert not any(ring._memory[64 + 256 + 48 :]), "the rest of it was never touched"
    ring.close()


def test_going_on_at_the_beginning_takes_no_room_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_buffer, "_WARM", 256)
    ring = RingBuffer.new(1 << 16)
    while ring._counts[ring_buffer._TO] == 0:
        assert emptied(ring, ring.take()) in ([], [b"x" * 40])
        ring.put(b"x" * 40)
    count = 1
    while ring.put(b"y" * 40):
        count += 1
    assert count == (1 << 16) // 48, "the whole ring, and not what lay before the place where it was gone on"
    assert [one.record for one in ring.take()] == [b"x" * 40, *[b"y" * 40] * (count - 1)]
    ring.close()
