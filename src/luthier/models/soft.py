"""Soft prompts: the virtual tokens that PEFT's prompt learning puts before every row, as packs and caches need them.

In a pack they stand once, as a segment above every root: all rows share them. `prompt` and `p_tuning` give them
embeddings; `prefix` gives them keys and values in every layer, and nobody reads what else is computed of them.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.models.pack import Pack


@dataclass(frozen=True, eq=False)
class SoftPrompt:
    """Virtual tokens, differentiable, in the dtype that the model computes in; none at all for most models."""

    count: int = 0
    embeddings: Tensor | None = None  # (count, width): what stands in the place of token embeddings
    cached: tuple[tuple[Tensor, Tensor], ...] = ()  # by layer: keys and values (1, key heads, count, d)

    def above(self, pack: Pack) -> Pack:
        """The pack with the virtual tokens over every root; their ids are 0 and mean nothing."""
        if not self.count:
            return pack
        return replace(
            pack,
            ids=torch.cat([pack.ids.new_zeros(self.count), pack.ids]),
            positions=torch.cat([torch.arange(self.count, device=pack.ids.device), pack.positions + self.count]),
            parent=torch.cat([pack.parent.new_full((1,), -1), (pack.parent + 1).clamp_min(0)]),
            starts=torch.cat([pack.starts.new_zeros(1), pack.starts + self.count]),
            sources=pack.sources + self.count,
            leaf=torch.where(pack.leaf < 0, pack.leaf, pack.leaf + 1),
        )

    def inputs(self, model: Any, ids: Tensor) -> dict[str, Tensor]:
        """What a model reads for (rows, tokens) ids that stand after the virtual tokens."""
        if self.embeddings is None:
            return {"input_ids": ids}
        ahead = self.embeddings.expand(ids.shape[0], -1, -1)
        return {"inputs_embeds": torch.cat([ahead, model.get_input_embeddings()(ids)], 1)}

    def inputs_of(self, model: Any, pack: Pack) -> dict[str, Tensor]:
        """What a model reads for a pack below the virtual tokens."""
        return self.inputs(model, pack.ids[None, 0 if self.embeddings is None else self.count :])

    def past(self, model: Any, rows: int) -> dict[str, Any]:
        """A cache that holds nothing but the virtual tokens' keys and values, when they have any, as an argument."""
        from transformers import DynamicCache

        return {cache_name(model): self.fill(DynamicCache(), rows)} if self.cached else {}

    def fill(self, cache: Any, rows: int) -> Any:
        """The cache, begun with the keys and values that the virtual tokens have, for each row."""
        for layer, (keys, values) in enumerate(self.cached):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        return cache


def cache_name(model: Any) -> str:
    """What a model calls its cache: transformers renamed the argument."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


NO_PROMPT = SoftPrompt()


def soft_prompt(model: Any) -> SoftPrompt:
    """The virtual tokens of PEFT's model as its encoder gives them now; none for other models, or when switched off."""
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning or model._adapters_disabled:
        return NO_PROMPT
    count, kind = config.num_virtual_tokens, config.peft_type.value
    if kind not in _KINDS:
        raise ModelError(f"{kind} adapters cannot be read", remedy=f"soft prompts that can: {', '.join(_KINDS)}")
    given = _encoded(model.prompt_encoder[model.active_adapter], config).to(model.get_base_model().dtype)
    if kind != "PREFIX_TUNING":
        return SoftPrompt(count, embeddings=given)
    by_layer = given.view(count, config.num_layers, 2, config.num_attention_heads, -1).permute(1, 2, 3, 0, 4)
    return SoftPrompt(count, cached=tuple((layer[0][None], layer[1][None]) for layer in by_layer))


_KINDS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")


def _encoded(encoder: Any, config: Any) -> Tensor:
    """(count, numbers a token): what was saved, or what the encoder makes of its own parameters while it learns."""
    weight: Tensor = encoder.embedding.weight
    if config.inference_mode:
        return weight
    encoded: Tensor = encoder(torch.arange(config.num_virtual_tokens, device=weight.device)[None])[0]
    return encoded
