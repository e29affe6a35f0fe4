"""A ring that two processes share: whole lines in their order, whatever their sizes, and never more than fits."""

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
    return [one.line for one in taken]


_LINES = st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), max_size=60).map(str.encode)


@given(
    st.lists(st.one_of(_LINES, st.none()), max_size=60),
    st.sampled_from([0, 32, 1000]),
    st.sampled_from([0, 48]),
    st.booleans(),
)
def test_what_was_put_in_comes_out_in_its_order(
    doings: list[bytes | None], warm: int, step: int, reorders: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring_buffer, "_WARM", warm)
        patch.setattr(ring_buffer, "_REORDERS", reorders)
        _put_and_take(doings)


def _put_and_take(doings: list[bytes | None]) -> None:
    ring = RingBuffer.new(100)
    other = RingBuffer(os.dup(ring.file))  # as the other process has it
    wanted, found = list[bytes](), list[bytes]()
    for doing in doings:
        was_empty = ring.waiting_bytes == 0
        if doing is None:
            found += emptied(other, other.take(30))
        elif ring.put(doing + b"\n"):
            wanted.append(doing)
        else:
            assert not was_empty or len(doing) > 99, "what fits into it has room when nothing waits"
        assert 0 <= ring.waiting_bytes <= 100
    found += emptied(other, other.take())
    assert found == wanted
    assert ring.waiting_bytes == 0
    ring.close()
    other.close()
    assert not ring.put(b"late\n")


def test_what_does_not_fit_is_refused_and_the_rest_stays(small: RingBuffer) -> None:
    assert not small.put(b"x" * 100 + b"\n")
    assert small.waiting_bytes == 0
    assert small.put(b"a" * 49 + b"\n")
    assert small.put(b"b" * 48 + b"\n")
    assert not small.put(b"c\n")
    assert small.put(b"\n") is True
    assert [one.line for one in small.take()] == [b"a" * 49, b"b" * 48, b""]


def test_a_line_that_is_longer_than_what_is_taken_at_once_comes_whole(small: RingBuffer) -> None:
    small.put(b"a" * 50 + b"\n")
    small.put(b"b\n")
    assert emptied(small, small.take(8)) == [b"a" * 50, b"b"]
    small.put(b"c\n")
    small.put(b"d" * 10 + b"\n")
    assert emptied(small, small.take(8)) == [b"c", b"d" * 10]


def test_what_was_not_let_go_of_is_taken_again(small: RingBuffer) -> None:
    small.put(b"one\n")
    (first,) = small.take()
    small.put(b"two\n")
    assert [one.line for one in small.take()] == [b"one", b"two"]
    small.let_go(first.end)
    assert [one.line for one in small.take()] == [b"two"]


def test_an_empty_ring_begins_again_where_memory_is_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_buffer, "_WARM", 256)
    ring = RingBuffer.new(1 << 16)
    for number in range(1000):
        assert ring.put(b"%04d" % number * 10 + b"\n")
        assert emptied(ring, ring.take()) == [b"%04d" % number * 10]
    assert not any(ring._memory[64 + 256 + 41 :]), "the rest of it was never touched"
    ring.close()


def test_going_on_at_the_beginning_takes_no_room_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_buffer, "_WARM", 256)
    ring = RingBuffer.new(1 << 16)
    while ring._counts[ring_buffer._TO] == 0:
        assert emptied(ring, ring.take()) in ([], [b"x" * 39])
        ring.put(b"x" * 39 + b"\n")
    count = 1
    while ring.put(b"y" * 39 + b"\n"):
        count += 1
    assert count == (1 << 16) // 40, "the whole ring, and not what lay before the place where it was gone on"
    assert [one.line for one in ring.take()] == [b"x" * 39, *[b"y" * 39] * (count - 1)]
    ring.close()
