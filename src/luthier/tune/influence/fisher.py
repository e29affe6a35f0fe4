"""The Fisher matrix in a Kronecker-factored eigenbasis with corrected eigenvalues (EK-FAC), estimated from training
rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from luthier.models.kernels.lora import install_fused_lora, restore_peft_forward
from luthier.models.packing.logprobs import compute_pack_states, detect_forward_mode, disable_dropout
from luthier.models.sequence_head import ends_in_sequence_head, score_hidden_states, unwrap_peft_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.models.packing.pack import Pack
    from luthier.tune.influence.study import InfluenceStudy

WIDEST = 4096
"""Maximum side of a matrix that gets an eigenbasis; wider ones are treated weight by weight."""
_UNSHARED = 1 << 40


@dataclass(frozen=True)
class FisherBlock:
    """The Fisher matrix of some weights: eigenvalues in a basis of gradients (out, in), or one value for
    each weight.
    """

    span: slice
    values: Tensor
    out_basis: Tensor | None = None
    in_basis: Tensor | None = None

    def turn(self, gradient: Tensor) -> Tensor:
        """Return a part of a gradient in the eigenbasis."""
        if self.out_basis is None or self.in_basis is None:
            return gradient
        shaped = gradient.view(self.out_basis.shape[0], self.in_basis.shape[0])
        return (self.out_basis.T @ shaped @ self.in_basis).reshape(-1)

    def turn_back(self, turned: Tensor) -> Tensor:
        """Return a gradient in the eigenbasis in the weights' own coordinates."""
        if self.out_basis is None or self.in_basis is None:
            return turned
        shaped = turned.view(self.out_basis.shape[0], self.in_basis.shape[0])
        return (self.out_basis @ shaped @ self.in_basis.T).reshape(-1)


class EkfacPreconditioner:
    """The inverse of the damped Fisher matrix, block by block."""

    def __init__(self, blocks: Sequence[FisherBlock], damping: float) -> None:
        self._blocks, self._damping = blocks, damping

    def _damp(self, block: FisherBlock) -> Tensor:
        return block.values + self._damping * block.values.mean().clamp_min(1e-30)

    def apply(self, gradient: Tensor) -> Tensor:
        """Return the product (P,)."""
        return torch.cat(
            [block.turn_back(block.turn(gradient[block.span]) / self._damp(block)) for block in self._blocks]
        )

    def apply_root(self, gradient: Tensor) -> Tensor:
        """Return the product (P,) with the square root."""
        return torch.cat(
            [block.turn_back(block.turn(gradient[block.span]) / self._damp(block).sqrt()) for block in self._blocks]
        )


class FisherEstimate:
    """Estimates the Kronecker factors, then the eigenvalues, from the same rows and sampled targets."""

    def __init__(self, study: InfluenceStudy, *, rows: int, sampled: bool) -> None:
        """Read at most `rows` rows, evenly spaced; `sampled`: with targets sampled from the model."""
        self._study, self.notes = study, list[str]()
        reader = study.reader
        count = len(study.keys)
        take = min(rows, count)
        numbers = sorted({at * count // take for at in range(take)})
        self.packs = [reader.build_packs(study.rows_of([number]), _UNSHARED) for number in numbers]
        """The packs of each row that is read, alone."""
        self._total = study.objective.denominator(study.rows_of(numbers))
        generator = torch.Generator().manual_seed(study.work.seed)
        if sampled:
            drawn = [[self._draw(pack, generator) for pack in packs] for packs in self.packs]
            if all(pack is not None for packs in drawn for pack in packs):
                self.packs = [[pack for pack in packs if pack is not None] for packs in drawn]
            else:
                self.notes.append(f"the Fisher matrix is that of the rows' own answers under {study.objective.kind}")

    @torch.no_grad()
    def _draw(self, pack: Pack, generator: torch.Generator) -> Pack | None:
        """Return the pack with targets sampled from the model; None where the loss depends on more than targets."""
        model, inner = self._study.reader.model, unwrap_peft_model(self._study.reader.model)
        headed = ends_in_sequence_head(inner)
        if self._study.objective.kind != "sft" and not (self._study.objective.kind == "classify" and headed):
            return None
        with disable_dropout(model):
            states = compute_pack_states(model, pack)
            head = detect_forward_mode(model).head
            if headed:
                scores = score_hidden_states(inner, states)
            elif head is not None:
                scores = head.logits(states)
            else:
                return None
        shares = torch.softmax(scores.double(), -1).cpu()
        return replace(pack, targets=torch.multinomial(shares, 1, generator=generator)[:, 0])

    def blocks(self) -> list[FisherBlock]:
        """Return the matrix of each trainable weight."""
        reader = self._study.reader
        bases = self._find_bases()
        blocks = [
            FisherBlock(span, torch.zeros_like(reader.weights.get()[span]), *bases.get(name, (None, None)))
            for name, span in reader.weights.spans.items()
        ]
        for number, packs in enumerate(self.packs, start=1):
            gradient = reader.gradient(packs)
            for block in blocks:
                block.values.add_(block.turn(gradient[block.span]).square(), alpha=1.0 / self._total)
            self._study.work.events.progress(number, len(self.packs), "rows (ekfac)")
        return blocks

    def _find_bases(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the eigenvectors of each layer's inputs and output gradients, by the name of its weight."""
        model, reader = self._study.reader.model, self._study.reader
        layers = {
            f"{name}.weight": module
            for name, module in model.named_modules()
            if type(module) is torch.nn.Linear
            and f"{name}.weight" in reader.weights.moving
            and max(module.weight.shape) <= WIDEST
        }
        watched = {name: _Watched(module) for name, module in layers.items()}
        restore_peft_forward(model)
        try:
            for packs in self.packs:
                reader.gradient(packs)
        finally:
            for own in watched.values():
                own.close()
            install_fused_lora(model)
        if unseen := [name for name, own in watched.items() if own.into is None or own.back is None]:
            self.notes.append(f"{len(unseen)} matrices are taken weight by weight, {unseen[0]} among them")
        return {
            name: (_vectors(own.back), _vectors(own.into))
            for name, own in watched.items()
            if own.into is not None and own.back is not None
        }


def _vectors(matrix: Tensor) -> Tensor:
    vectors: Tensor = torch.linalg.eigh(matrix.double()).eigenvectors
    return vectors.to(matrix.dtype)


class _Watched:
    """Sums of outer products of a layer's inputs and of its output gradients, over the positions that the loss depends
    on.

    Padding in a pack, and positions of a last layer that nothing reads, do not count.
    """

    def __init__(self, layer: torch.nn.Module) -> None:
        self.into: Tensor | None = None
        self.back: Tensor | None = None
        self._hook = layer.register_forward_hook(self._enter)

    def close(self) -> None:
        """Remove the hook."""
        self._hook.remove()

    def _enter(self, layer: Any, inputs: Any, output: Any) -> None:
        if output.requires_grad:
            output.register_hook(partial(self._return, inputs[0].detach().flatten(0, -2)))

    def _return(self, states: Tensor, gradient: Tensor) -> None:
        flat = gradient.detach().flatten(0, -2)
        counted = flat.any(1)
        into, back = ((some := rows[counted]).T @ some for rows in (states, flat))
        self.into = into if self.into is None else self.into + into
        self.back = back if self.back is None else self.back + back
