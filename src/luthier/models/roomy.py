"""A key-value cache with room to grow: a new token is written beside the others, which are not copied each time."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens for which there is room whenever a layer moves."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """A layer of `DynamicCache` whose keys and values are the beginning of something larger."""

    keys: Tensor
    values: Tensor
    _room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add (rows, heads, tokens, d) keys and values; give all back."""
        if not self.is_initialized or not self.keys.numel():
            return super().update(key_states, value_states, *args, **kwargs)  # type: ignore[no-any-return]
        have, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if not self._fits(end):
            self._room = _larger(self.keys, end + ROOM), _larger(self.values, end + ROOM)
        assert self._room is not None
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, have:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values

    def _fits(self, end: int) -> bool:
        """Whether what is here stands at the beginning of the room, and the room is large enough."""
        if self._room is None or self._room[0].shape[-2] < end or self._room[0].shape[0] != self.keys.shape[0]:
            return False
        return all(
            mine.data_ptr() == room.data_ptr() for mine, room in zip((self.keys, self.values), self._room, strict=True)
        )


def with_room(cache: DynamicCache) -> DynamicCache:
    """The same empty cache, its plain layers with room; others (sliding windows, states) as they are."""
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    if getattr(cache, "layer_class_to_replicate", None) is DynamicLayer:
        cache.layer_class_to_replicate = RoomyLayer
    return cache


def _larger(states: Tensor, tokens: int) -> Tensor:
    room = states.new_empty(*states.shape[:2], tokens, states.shape[-1])
    room[:, :, : states.shape[-2]] = states
    return room
