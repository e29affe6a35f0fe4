"""Gradients of a target's value with respect to the embeddings of the prompt's tokens."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from luthier.explain.patches import list_picture_tokens
from luthier.explain.scorer import LocalPromptScorer, build_not_finite_error

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.packing.pack import Pack

_DEEP = (
    "This model adds features of pictures in deeper layers, too (DeepStack): gradients tell of those at its entry alone"
)


class PromptGradients:
    """Reads gradients for one prompt; the answers of a contrast share the prompt's tokens in one pack."""

    def __init__(self, scorer: LocalPromptScorer) -> None:
        self._scorer = scorer

    @property
    def model(self) -> Any:
        """The model."""
        return self._scorer.model

    @cached_property
    def _pack(self) -> Pack:
        from luthier.models.packing.pack import TokenRow, build_pack

        ids = self._scorer.ids
        rows = [
            TokenRow([*ids, *target.ids], [*[0.0] * len(ids), *target.weights], str(number))
            for number, target in enumerate(self._scorer.targets)
        ]
        return build_pack(rows, share_from=1)  # the prompt, which all rows begin with, are its first tokens

    @cached_property
    def embeddings(self) -> Tensor:
        """(P, width) embeddings of the prompt's tokens."""
        return self._embeddings[: len(self._scorer.ids)]

    @cached_property
    def _embeddings(self) -> Tensor:
        from luthier.models.packing.gradients import get_pack_embeddings

        return get_pack_embeddings(self.model, self._pack)

    @property
    def notes(self) -> tuple[str, ...]:
        """Limits of gradients by embeddings for this prompt."""
        import torch

        from luthier.models.media.inputs import build_decoder_inputs
        from luthier.models.sequence_head import unwrap_peft_model

        inner = unwrap_peft_model(self.model)
        device = next(inner.parameters()).device
        with torch.no_grad():
            deep = "deepstack_visual_embeds" in build_decoder_inputs(inner, self._pack.on(device).ids[None])
        return (_DEEP,) if deep else ()

    def build_baseline(self, vector: Tensor) -> Tensor:
        """Return (P, width) baseline embeddings: a vector for each text token, and the mean of its image's features for
        each image feature.
        """
        found = vector.to(self.embeddings).expand_as(self.embeddings).clone()
        for tokens in list_picture_tokens(self._scorer.ids):
            found[tokens] = self.embeddings[tokens].mean(0)
        return found

    def read(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """(C,) values and (C, P, width) gradients at (C, P, width) embeddings of the prompt's tokens; those of the
        answer's tokens stay. In float64, whatever the model computes in.
        """
        import torch

        from luthier.models.packing.gradients import compute_embedding_gradients

        prompt, values, gradients = len(self._scorer.ids), list[Any](), list[Any]()
        for some in self._split(embeddings):
            found = compute_embedding_gradients(self.model, self._pack, some)
            values.append(found.values.double().cpu())
            gradients.append(found.gradients[:, :prompt].double().cpu())
        value, gradient = torch.cat(values), torch.cat(gradients)
        if not (torch.isfinite(value).all() and torch.isfinite(gradient).all()):
            raise build_not_finite_error()
        return value, gradient

    def read_values(self, embeddings: Tensor) -> Tensor:
        """(C,) the values alone."""
        import torch

        from luthier.models.packing.gradients import compute_embedding_values

        some = [compute_embedding_values(self.model, self._pack, part) for part in self._split(embeddings)]
        value = torch.cat(some).double().cpu()
        if not torch.isfinite(value).all():
            raise build_not_finite_error()
        return value

    def _split(self, embeddings: Tensor) -> Iterator[Tensor]:
        """Return embeddings of the whole pack in chunks that need no activation checkpointing."""
        import torch

        from luthier.models.packing.gradients import CHECKPOINT_FROM

        at_once = max(1, (CHECKPOINT_FROM - 1) // self._pack.tokens)
        for some in torch.split(embeddings, at_once):
            rest = self._embeddings[None, len(self._scorer.ids) :].expand(some.shape[0], -1, -1)
            yield torch.cat([some.to(rest), rest], 1)
