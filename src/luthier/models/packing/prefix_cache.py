"""What all rows of one reading begin with is read once, in however many packs they stand, and where somebody keeps it,
once in all."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from luthier.models.adapters import compute_soft_prompt
from luthier.models.attention.prefix import PackPrefixKV, use_prefix_kv
from luthier.models.media.row_forward import refuses_chunked_prefill
from luthier.models.packing.logprobs import compute_prefix_kv, detect_forward_mode
from luthier.models.packing.pack import TokenRow, common_prefix_length
from luthier.models.sequence_head import unwrap_peft_model

LEAST = 32
"""Beginnings shorter than this many tokens are read with each pack."""
UNIT = 16
"""A beginning that is kept has a multiple of so many tokens, so that rows which by chance go on alike still find it."""
MOST = 4
"""Beginnings that are kept at once."""


class PrefixCache:
    """A cache of keys and values of prefixes for one model, valid while its weights and adapters do not change.

    Each is read by itself, so that numbers do not depend on which rows met it first.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, ...], PackPrefixKV] = OrderedDict()

    def worth(self, ids: Sequence[int]) -> Sequence[int]:
        """How much of what the rows of a reading begin with is kept: all, as the next reading begins so too."""
        return ids[: len(ids) // UNIT * UNIT]

    def of(self, model: Any, ids: Sequence[int]) -> PackPrefixKV:
        """What a model made of these tokens, now or before."""
        key = tuple(ids)
        if key not in self._kept:
            self._kept[key] = compute_prefix_kv(model, ids)
        self._kept.move_to_end(key)
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)
        return self._kept[key]


class RecurringPrefixCache(PrefixCache):
    """A prefix cache for requests that come one by one: it keeps the prefixes that two of them had in common."""

    def __init__(self) -> None:
        super().__init__()
        self._before: deque[Sequence[int]] = deque(maxlen=MOST)

    def worth(self, ids: Sequence[int]) -> Sequence[int]:
        """What an earlier reading began with as well; what is kept already, where that is nearly as long."""
        shared = super().worth(ids[: max((common_prefix_length(ids, entry) for entry in self._before), default=0)])
        self._before.append(tuple(ids))
        known = [len(key) for key in self._kept if tuple(ids[: len(key)]) == key]
        longest = max(known, default=0)
        return ids[:longest] if longest >= LEAST and len(shared) - longest < LEAST else shared


@contextmanager
def share_prefixes(model: Any, rows: Sequence[TokenRow], kept: PrefixCache | None = None) -> Iterator[None]:
    """Let a model, while nothing is learnt, read only once what all of these rows begin with."""
    ids = _find_common_prefix(rows)
    if kept is not None:
        ids = kept.worth(ids)
    if len(ids) < LEAST or not _supports_prefix_cache(model):
        yield
        return
    with use_prefix_kv(compute_prefix_kv(model, ids) if kept is None else kept.of(model, ids)):
        yield


def _find_common_prefix(rows: Sequence[TokenRow]) -> Sequence[int]:
    """What all rows begin with, up to the token before the first that predicts something learnt."""
    read = [row for row in rows if row.targets]
    if not read:
        return ()
    ids = read[0].ids[: min(row.targets[0] for row in read) - 1]
    for row in read[1:]:
        ids = ids[: common_prefix_length(ids, row.ids)]
    return ids


def _supports_prefix_cache(model: Any) -> bool:
    how = detect_forward_mode(model)
    whole = refuses_chunked_prefill(unwrap_peft_model(model))  # a beginning may end within a picture
    return how.packed and how.turn is None and not whole and not compute_soft_prompt(model).count
