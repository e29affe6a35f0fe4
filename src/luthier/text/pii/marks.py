"""What a look at many texts at once tells of each: which finders of personal data are worth their time, and where.

Where something may be so, it is said to be so; what is told of numbers is told exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

from luthier.text.flat import Flat, blocks
from luthier.text.pii import secrets
from luthier.text.pii.found import BEFORE, BEHIND, DIGITS, Area

if TYPE_CHECKING:
    from numpy.typing import NDArray

Mark = Literal["digits", "long", "keys", "places"]
"""Digits; a word as long as a key; one with letters and digits, as passwords have; one that a street without a number
or a box of the post office is told by."""
_NAMES: tuple[Mark, ...] = get_args(Mark)
_MISSING = [
    frozenset(name for bit, name in enumerate(_NAMES) if not code >> bit & 1) for code in range(1 << len(_NAMES))
]
_STREET_ENDS = ("rue", "nue", "rua", "lle", "ida", "min", "ard", "sse", "ale", "zza", "ica")
"""How words end that a street without a number is told by: *venue*, *calle*, *avenida*, *chemin*, *boulevard* …"""
_BOX_ENDS = ("ach", "ale", "bus", "oks", "ado", "eos")
"""How the names of post-office boxes end, besides *box*: *Postfach*, *boîte postale*, *postbus* …"""
_SMALL = 32
_MOST_BETWEEN = 4


class Marks(NamedTuple):
    """What is known of one text."""

    missing: frozenset[Mark] = frozenset()
    """What it surely has not."""
    areas: list[Area] | None = None
    """Where numbers of some length stand; None: that was not looked for."""


ANY = Marks()


def marks(texts: Sequence[str]) -> list[Marks]:
    """The marks of each text."""
    found: list[Marks] = []
    for _, flat in blocks(texts):
        found += [ANY] if flat is None else _of_block(flat)
    return found


def _of_block(flat: Flat) -> list[Marks]:
    digits = flat.has("digit")
    keys = digits & flat.has("letter") & (flat.lengths >= secrets.SHORTEST_NAMED)
    if secrets.KEY_BEGIN in flat.joined:
        keys |= True
    has = np.zeros(len(flat.texts), dtype=np.int64)
    for bit, words in enumerate((digits, flat.lengths >= secrets.SHORTEST_KEY, keys, _may_name_a_place(flat))):
        has |= (flat.total(words) > 0).astype(np.int64) << bit
    return [Marks(_MISSING[code], areas) for code, areas in zip(has.tolist(), _areas(flat), strict=True)]


def _may_name_a_place(flat: Flat) -> NDArray[np.bool_]:
    """(words,): by their last letters, and by what may be *s/n*."""
    last = [flat.codes[np.maximum(flat.ends - back, 0)].astype(np.int64) | _SMALL for back in (1, 2, 3)]
    three = last[2] << 16 | last[1] << 8 | last[0]
    found: NDArray[np.bool_] = (last[1] == ord("o")) & (last[0] == ord("x"))
    for end in dict.fromkeys((*_STREET_ENDS, *_BOX_ENDS)):
        found |= three == int.from_bytes(end.encode(), "big")
    if "/n" in flat.joined or "/N" in flat.joined:
        found |= True
    return found


def _areas(flat: Flat) -> list[list[Area] | None]:
    """What `found.areas` says of each text; None where characters are not known well enough."""
    starts, ends = _numbers(flat)
    text_of = np.searchsorted(flat.begins, starts, side="right") - 1
    begins = flat.begins[text_of]
    same = text_of[1:] == text_of[:-1]
    low, high = starts - begins - BEFORE, ends - begins + BEHIND
    low = np.maximum(low, np.concatenate([[0], np.where(same, ends[:-1] - begins[:-1], 0)])[: len(low)])
    until = np.concatenate(
        [np.where(same, starts[1:] - begins[1:], flat.chars[text_of[:-1]]), flat.chars[text_of[-1:]]]
    )
    found = list(map(Area, low.tolist(), np.minimum(high, until).tolist(), (ends - starts).tolist()))
    edges = np.searchsorted(text_of, np.arange(len(flat.texts) + 1)).tolist()
    known = flat.all_known.tolist()
    return [found[one:two] if is_known else None for (one, two), is_known in zip(pairwise(edges), known, strict=True)]


def _numbers(flat: Flat) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where runs of digits with little between them begin and end, over all texts."""
    at = np.flatnonzero(flat.is_decimal)
    goes_on = _goes_on(flat, at)
    breaks = np.flatnonzero(~goes_on)
    first, last = np.concatenate([[0], breaks + 1]), np.concatenate([breaks, [len(at) - 1]])
    long = last - first + 1 >= DIGITS
    return at[first[long]], at[last[long]] + 1


def _goes_on(flat: Flat, at: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(digits - 1,): whether a digit and the next have `[^\\w\\n]{0,3}[A-Za-z]?` between them."""
    between = at[1:] - at[:-1] - 1
    found: NDArray[np.bool_] = between == 0
    near = np.flatnonzero((between > 0) & (between <= _MOST_BETWEEN))
    end, count = at[near + 1], between[near]
    is_between = ~flat.is_word & (flat.codes != ord("\n"))
    odd = np.zeros(len(flat.codes) + 1, dtype=np.int32)
    np.cumsum(~is_between, out=odd[1:])
    before = odd[end - 1] == odd[end - count]  # all but the last
    found[near] = before & ((is_between[end - 1] & (count < _MOST_BETWEEN)) | flat.is_ascii_letter[end - 1])
    return found
