"""The prefix that all rows of a reading share is computed once, however many packs they fill, and optionally cached
across readings.
"""

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
"""Minimum tokens of a prefix; shorter ones are read with each pack."""
UNIT = 16
"""Cached prefixes have a multiple of this many tokens, so that rows with a longer accidental match still find them."""
MOST = 4
"""Maximum number of cached prefixes."""


class PrefixCache:
    """A cache of keys and values of prefixes for one model, valid while its weights and adapters do not change.

    Each prefix is computed alone, so that results do not depend on the rows that needed it first.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, ...], PackPrefixKV] = OrderedDict()

    def worth(self, ids: Sequence[int]) -> Sequence[int]:
        """Return how much of a reading's shared prefix is cached: all of it."""
        return ids[: len(ids) // UNIT * UNIT]

    def of(self, model: Any, ids: Sequence[int]) -> PackPrefixKV:
        """Return the keys and values of a prefix, cached or computed now."""
        key = tuple(ids)
        if key not in self._kept:
            self._kept[key] = compute_prefix_kv(model, ids)
        self._kept.move_to_end(key)
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)
        return self._kept[key]


class RecurringPrefixCache(PrefixCache):
    """A prefix cache for single requests: it caches the prefixes that two of them had in common."""

    def __init__(self) -> None:
        super().__init__()
        self._before: deque[Sequence[int]] = deque(maxlen=MOST)

    def worth(self, ids: Sequence[int]) -> Sequence[int]:
        """Return the prefix in common with an earlier reading; the cached one, where that is nearly as long."""
        shared = super().worth(ids[: max((common_prefix_length(ids, entry) for entry in self._before), default=0)])
        self._before.append(tuple(ids))
        known = [len(key) for key in self._kept if tuple(ids[: len(key)]) == key]
        longest = max(known, default=0)
        return ids[:longest] if longest >= LEAST and len(shared) - longest < LEAST else shared


@contextmanager
def share_prefixes(model: Any, rows: Sequence[TokenRow], kept: PrefixCache | None = None) -> Iterator[None]:
    """Let a model compute the common prefix of these rows once, without gradients."""
    ids = _find_common_prefix(rows)
    if kept is not None:
        ids = kept.worth(ids)
    if len(ids) < LEAST or not _supports_prefix_cache(model):
        yield
        return
    with use_prefix_kv(compute_prefix_kv(model, ids) if kept is None else kept.of(model, ids)):
        yield


def _find_common_prefix(rows: Sequence[TokenRow]) -> Sequence[int]:
    """Return the common prefix of all rows, up to the token before the first that predicts a trained one."""
    read = [row for row in rows if row.targets]
    if not read:
        return ()
    ids = read[0].ids[: min(row.targets[0] for row in read) - 1]
    for row in read[1:]:
        ids = ids[: common_prefix_length(ids, row.ids)]
    return ids


def _supports_prefix_cache(model: Any) -> bool:
    mode = detect_forward_mode(model)
    whole = refuses_chunked_prefill(unwrap_peft_model(model))  # a beginning may end within a picture
    return mode.packed and mode.turn is None and not whole and not compute_soft_prompt(model).count
