"""EVA: LoRA's A begins with the directions in which the first rows excite each layer most (Paischer et al., 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from luthier.core.errors import ModelError, SourceLocation
from luthier.models.generation.cpu_decoder import disable_adapters
from luthier.models.packing.logprobs import clear_forward_mode, compute_pack_logprobs, detect_forward_mode
from luthier.models.packing.pack import Pack
from luthier.tune.techniques.lora import WATCHED

PACKS = 4
"""Number of packs from which the sampled tokens come."""
_NOTHING = 1e-12
"""Share of the largest squared singular value below which a direction is rounding error."""


def initialize_with_eva(model: Any, packs: Iterator[Pack], rank: int) -> None:
    """Set every A to the first `rank` principal directions of its layer's inputs; B stays zero."""
    layer_inputs = _inputs(model, [pack for pack, _ in zip(packs, range(PACKS), strict=False)])
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    directions: dict[tuple[int, ...], Tensor] = {}
    for name, pieces in layer_inputs.items():
        key = tuple(piece.data_ptr() for piece in pieces)  # layers that read the same input share its directions
        if key not in directions:
            directions[key] = _directions(torch.cat(pieces).double(), rank, name)
        down = layers[name].lora_A[model.active_adapter]  # a critic's stands beside it
        down.weight.data.copy_(directions[key])


def _inputs(model: Any, packs: list[Pack]) -> dict[str, list[Tensor]]:
    """Return some rows of every adapted layer's input, from each pack, as the unchanged model computes them."""
    layer_inputs: dict[str, list[Tensor]] = {}
    last: list[tuple[Tensor, Tensor]] = []
    tokens = 0  # of the pack, without what it is rounded up with

    def watch(name: str, given: Tensor) -> None:
        if not last or last[0][0] is not given:
            rows = given.detach().reshape(-1, given.shape[-1])[:tokens]
            chosen = torch.linspace(0, rows.shape[0] - 1, min(rows.shape[0], WATCHED // PACKS)).long()
            last[:] = [(given, rows[chosen])]
        layer_inputs.setdefault(name, []).append(last[0][1])

    detect_forward_mode(model)
    with ExitStack() as undo, torch.no_grad(), disable_adapters(model):
        for name, module in model.named_modules():
            if isinstance(module, LoraLayer):
                hook = module.register_forward_pre_hook(lambda _, args, name=name: watch(name, args[0]))
                undo.callback(hook.remove)
        for pack in packs:
            tokens = pack.tokens
            compute_pack_logprobs(model, pack, whole=True)
    clear_forward_mode(model)
    return layer_inputs


def _directions(rows: Tensor, rank: int, name: str) -> Tensor:
    """Return the (rank, inputs) right singular vectors of centered (rows, inputs)."""
    if min(rows.shape) < rank:
        where = SourceLocation(field="technique.init_lora_weights")
        what = f"eva saw {rows.shape[0]} tokens of {rows.shape[1]} inputs at {name}, too few for rank {rank}"
        raise ModelError(what, where=where, hint="lower r, give more rows, or leave init_lora_weights at default")
    rows = rows - rows.mean(0)
    wide = rows.shape[1] > rows.shape[0]
    squares, vectors = _largest(rows @ rows.t() if wide else rows.t() @ rows, rank)
    if not wide:
        return vectors.t()
    if squares[-1] <= _NOTHING * squares[0]:  # the rows have fewer directions: any others will do
        whole: Tensor = torch.linalg.svd(rows, full_matrices=False).Vh
        return whole[:rank]
    return (rows.t() @ vectors / squares.sqrt()).t()


def _largest(square: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest eigenvalues of a symmetric matrix and their eigenvectors as columns, in a tenth of the time of
    a full decomposition.
    """
    from scipy.linalg import eigh

    last = len(square) - 1
    values, vectors = eigh(square.cpu().numpy(), subset_by_index=[last + 1 - count, last])
    return torch.from_numpy(values[::-1].copy()).to(square), torch.from_numpy(vectors[:, ::-1].copy()).to(square)
