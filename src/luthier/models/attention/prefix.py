"""What several packs begin with: computed once, and found again by those that come after."""

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
        """How many first tokens need not be computed again."""
        return len(self._ids) if self._layers else 0

    def fits(self, pack: Pack) -> bool:
        """Whether a pack begins so, and goes on, and nobody reads what comes next before its end."""
        count = len(self._ids)
        begins = pack.tokens > count and torch.equal(pack.ids[:count].cpu(), self._ids)
        return begins and pack.sources.shape[0] > 0 and int(pack.sources.min()) >= count

    def whole(self, layer: int, query: Tensor, key: Tensor, value: Tensor, tokens: int) -> tuple[Tensor, ...]:
        """Queries, keys and values (1, heads, T, d) of all of a pack's tokens, from those that were computed.

        Nobody asks again what the beginning attends to: its queries are zero.
        """
        missing = tokens - query.shape[2]
        if not missing:
            count = len(self._ids)
            self._layers[layer] = key[:, :, :count].clone(), value[:, :, :count].clone()
            return query, key, value
        keys, values = self._layers[layer]
        nobody = query.new_zeros(*query.shape[:2], missing, query.shape[3])
        return torch.cat([nobody, query], 2), torch.cat([keys, key], 2), torch.cat([values, value], 2)


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
    """What a pack stands on."""
    now = _NOW.get()
    return now if now is not None and not torch.is_grad_enabled() and now.fits(pack) else None
