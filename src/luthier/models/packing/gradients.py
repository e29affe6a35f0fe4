"""Gradients of a pack's log-probabilities by the embeddings of its tokens.

Embeddings enter as leaves, like those of virtual tokens, for language models, sequence heads, adapters and models that
are read in padded rows. A pack can be read at several embeddings of the same tokens at once. Long packs use activation
checkpointing: only each layer's input is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from luthier.models.media.inputs import embed_ids
from luthier.models.packing.logprobs import compute_pack_logprobs, detect_forward_mode, disable_dropout
from luthier.models.packing.pack import Pack
from luthier.models.sequence_head import unwrap_peft_model

CHECKPOINT_FROM = 1536
"""Minimum tokens for activation checkpointing."""
_CHECKPOINTED: ContextVar[bool] = ContextVar("luthier_checkpointed", default=False)


class EmbeddingGradients(NamedTuple):
    """The weighted sum of a pack's log-probabilities, and its gradient by the embeddings."""

    values: Tensor
    """(C,) one for each copy of the pack."""
    gradients: Tensor
    """(C, T, width)."""


def get_pack_embeddings(model: Any, pack: Pack) -> Tensor:
    """Return (T, width) embeddings of a pack's tokens."""
    inner = unwrap_peft_model(model)
    with torch.no_grad():
        return embed_ids(inner, pack.on(next(inner.parameters()).device).ids[None])[0]


def compute_embedding_gradients(model: Any, pack: Pack, embeddings: Tensor) -> EmbeddingGradients:
    """Read a pack once for each of (C, T, width) embeddings of its tokens; its `weights` weight the log-probabilities.

    No model parameter gets a gradient. Gradients are in the dtype of the model's computation, values in at least fp32.
    """
    inner = unwrap_peft_model(model)
    detect_forward_mode(model)
    copies = embeddings.shape[0]
    many = repeat_pack(pack.on(next(inner.parameters()).device), copies)
    leaf = embeddings.detach().flatten(0, 1).requires_grad_()
    with torch.enable_grad(), disable_dropout(inner), _checkpoint_layers(inner, many.tokens >= CHECKPOINT_FROM):
        logps = compute_pack_logprobs(model, many, embeddings=leaf)
        weighted = (logps * many.weights.to(logps.dtype)).view(copies, -1).sum(1)
        (gradient,) = torch.autograd.grad(weighted.sum(), leaf)
    return EmbeddingGradients(weighted.detach(), gradient.view_as(embeddings))


@torch.no_grad()
def compute_embedding_values(model: Any, pack: Pack, embeddings: Tensor) -> Tensor:
    """Return (C,) the weighted sums alone, at (C, T, width) embeddings of a pack's tokens."""
    inner, copies = unwrap_peft_model(model), embeddings.shape[0]
    many = repeat_pack(pack.on(next(inner.parameters()).device), copies)
    with disable_dropout(inner):
        logps = compute_pack_logprobs(model, many, embeddings=embeddings.flatten(0, 1))
    return (logps * many.weights.to(logps.dtype)).view(copies, -1).sum(1)


class _CheckpointedForward:
    """A layer's forward with activation checkpointing, recomputed in the context of its first computation; in other
    threads, its own forward.
    """

    def __init__(self, own: Any) -> None:
        self.own = own

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not _CHECKPOINTED.get():
            return self.own(*args, **kwargs)
        return checkpoint(partial(copy_context().run, self.own), *args, use_reentrant=False, **kwargs)


@contextmanager
def _checkpoint_layers(inner: Any, enabled: bool) -> Iterator[None]:
    """Checkpoint the layers of a model's deepest stack in this thread."""
    stacks = [module for module in inner.modules() if isinstance(module, torch.nn.ModuleList)] if enabled else []
    layers = list(max(stacks, key=len, default=()))
    before = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = _CheckpointedForward(layer.forward)
    token = _CHECKPOINTED.set(True)
    try:
        yield
    finally:
        _CHECKPOINTED.reset(token)
        for layer, own in zip(layers, before, strict=True):
            del layer.forward
            if own is not None:
                layer.forward = own


def repeat_pack(pack: Pack, copies: int) -> Pack:
    """Return a forest with several independent copies of a pack."""
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
        example_index=torch.cat([pack.example_index + copy * (int(pack.example_index.max()) + 1) for copy in at]),
        keys=pack.keys * copies,
    )
