"""Gradients of a pack's log-probabilities with respect to the embeddings of its tokens.

Embeddings enter as leaves where the embeddings of virtual tokens enter, for language models, sequence heads, adapters
and models that are read in padded rows. A pack can be read at several embeddings of the same tokens at once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from luthier.models.media.inputs import embed_ids
from luthier.models.packing.logprobs import compute_pack_logprobs, detect_forward_mode, disable_dropout
from luthier.models.packing.pack import Pack
from luthier.models.sequence_head import unwrap_peft_model


class EmbeddingGradients(NamedTuple):
    """The weighted sum of a pack's log-probabilities, and its gradient with respect to the embeddings."""

    values: Tensor
    """(C,) one for each copy of the pack."""
    gradients: Tensor
    """(C, T, width)."""


def get_pack_embeddings(model: Any, pack: Pack) -> Tensor:
    """(T, width) embeddings of a pack's tokens, before they are read."""
    inner = unwrap_peft_model(model)
    with torch.no_grad():
        return embed_ids(inner, pack.on(next(inner.parameters()).device).ids[None])[0]


def compute_embedding_gradients(model: Any, pack: Pack, embeddings: Tensor) -> EmbeddingGradients:
    """Read a pack once for each of (C, T, width) embeddings of its tokens; its `weights` weigh the log-probabilities.

    Nothing in the model gets a gradient. Values and gradients are in the type in which the model computes, at least
    fp32 the values.
    """
    inner = unwrap_peft_model(model)
    detect_forward_mode(model)
    copies = embeddings.shape[0]
    many = repeat_pack(pack.on(next(inner.parameters()).device), copies)
    leaf = embeddings.detach().flatten(0, 1).requires_grad_()
    with torch.enable_grad(), disable_dropout(inner):
        logps = compute_pack_logprobs(model, many, embeddings=leaf)
        weighted = (logps * many.weights.to(logps.dtype)).view(copies, -1).sum(1)
        (gradient,) = torch.autograd.grad(weighted.sum(), leaf)
    return EmbeddingGradients(weighted.detach(), gradient.view_as(embeddings))


def repeat_pack(pack: Pack, copies: int) -> Pack:
    """A forest that stands several times side by side; nothing is shared between the copies."""
    if copies == 1:
        return pack
    if pack.choices is not None or pack.token_values:
        raise ValueError("only packs without choices and values of tokens can be repeated")
    tokens, segments, rows = pack.tokens, pack.parent.shape[0], pack.rows
    at = range(copies)
    return replace(
        pack,
        ids=pack.ids.repeat(copies),
        positions=pack.positions.repeat(copies),
        parent=torch.cat([torch.where(pack.parent < 0, pack.parent, pack.parent + copy * segments) for copy in at]),
        starts=torch.cat([pack.starts[:1], *(pack.starts[1:] + copy * tokens for copy in at)]),
        sources=torch.cat([pack.sources + copy * tokens for copy in at]),
        targets=pack.targets.repeat(copies),
        weights=pack.weights.repeat(copies),
        path=torch.cat([pack.path + copy * rows for copy in at]),
        leaf=torch.cat([torch.where(pack.leaf < 0, pack.leaf, pack.leaf + copy * segments) for copy in at]),
        lesson=torch.cat([pack.lesson + copy * (int(pack.lesson.max()) + 1) for copy in at]),
        keys=pack.keys * copies,
    )
