"""A prefix that several packs share: computed once, and reused by later packs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from luthier.models.packing.pack import Pack


class PackPrefixKV:
    """The shared first tokens of packs, with the keys and values that each layer computed for them."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = torch.tensor(ids, dtype=torch.int64)
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def known(self) -> int:
        """Number of first tokens that are already computed."""
        return len(self._ids) if self._layers else 0

    def fits(self, pack: Pack) -> bool:
        """Return whether a pack begins with the prefix, continues after it, and predicts no token within it."""
        count = len(self._ids)
        begins = pack.tokens > count and torch.equal(pack.ids[:count].cpu(), self._ids)
        return begins and pack.sources.shape[0] > 0 and int(pack.sources.min()) >= count

    def whole(self, layer: int, query: Tensor, key: Tensor, value: Tensor, tokens: int) -> tuple[Tensor, ...]:
        """Return queries, keys and values (1, heads, T, d) of all of a pack's tokens, from those that were computed.

        Outputs within the prefix are not needed again: its queries are zero.
        """
        missing = tokens - query.shape[2]
        if not missing:
            count = len(self._ids)
            self._layers[layer] = key[:, :, :count].clone(), value[:, :, :count].clone()
            return query, key, value
        keys, values = self._layers[layer]
        zero_queries = query.new_zeros(*query.shape[:2], missing, query.shape[3])
        return torch.cat([zero_queries, query], 2), torch.cat([keys, key], 2), torch.cat([values, value], 2)


_NOW: ContextVar[PackPrefixKV | None] = ContextVar("luthier_begun", default=None)


@contextmanager
def use_prefix_kv(prefix_kv: PackPrefixKV | None) -> Iterator[None]:
    """Context manager: let packs reuse precomputed keys and values of their shared prefix, without gradients."""
    token = _NOW.set(prefix_kv)
    try:
        yield
    finally:
        _NOW.reset(token)


def get_active_prefix_kv(pack: Pack) -> PackPrefixKV | None:
    """Return the active prefix of a pack."""
    now = _NOW.get()
    return now if now is not None and not torch.is_grad_enabled() and now.fits(pack) else None
