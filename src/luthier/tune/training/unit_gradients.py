"""Per-unit gradients in one pass: forward and backward once over a pack, then a small product for each layer.

A linear layer's gradient is the sum over tokens of its output gradient times its input. Over the tokens of one unit
alone, that sum is the unit's own gradient (Goodfellow 2015; Li et al. 2022, "ghost clipping"). It is stored for each
unit, since the layers that adapters train are small. Rows share no prefixes in these packs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from luthier.models.kernels.lora import send_weight_gradients
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import Pack, TokenRow, build_pack
from luthier.tune.cost import PackWorkload
from luthier.tune.objective import REFERENCE, Objective, read_pack_logprobs

UNSHARED = 1 << 60
"""More tokens than any prefix has."""
KEPT_NUMBERS = 1 << 27
"""Maximum numbers of units' gradients stored at once: half a gigabyte in fp32."""
ENOUGH_TOKENS = 2048
"""Tokens of a pack from which a larger one is no faster."""


ROUNDING = 0.02
"""Maximum difference of sums, as a share of the units' norms, in a dtype with 8 bits of precision."""


class UnitsRead(NamedTuple):
    """The gradients and losses of the units of a pack."""

    gradients: list[Tensor | None]
    """(units, …) for each trainable parameter, in at least fp32; None where the loss does not depend on it."""
    losses: list[float]
    """The loss of each unit, divided by its denominator."""
    computed: PackWorkload
    measures: dict[str, float]
    """Sums of terms, each divided by its unit's denominator."""
    example_losses: dict[str, float]


class UnitReader:
    """Computes the gradients of many units at once, where all trainable parameters are plain linear layers."""

    def __init__(self, model: Any, objective: Objective, moving: Mapping[str, torch.nn.Parameter]) -> None:
        self._model, self._objective = model, objective
        self._moving = list(moving.values())
        self._layers = _find_layers(model, self._moving)
        self.applies = self._layers is not None
        """Whether this can be had: false once a layer was seen to read tokens in another order."""
        self._most_units = max(1, KEPT_NUMBERS // max(1, sum(parameter.numel() for parameter in self._moving)))

    def split(self, units: Sequence[list[TokenRow]], tokens: int) -> Iterator[list[list[TokenRow]]]:
        """Yield groups of units to read at once: at most `tokens` tokens, and as many gradients as may be stored."""
        most, part, size = min(tokens, ENOUGH_TOKENS), list[list[TokenRow]](), 0
        for unit in units:
            own = sum(row.needed for row in unit)
            if part and (size + own > most or len(part) >= self._most_units):
                yield part
                part, size = [], 0
            part.append(unit)
            size += own
        if part:
            yield part

    def read(self, units: Sequence[list[TokenRow]], prepare: Callable[[Pack], Pack]) -> UnitsRead | None:
        """Return the gradient of each unit; None where one pass cannot compute it, which is remembered."""
        assert self._layers is not None, "asked only where it applies"
        rows = [row for unit in units for row in unit]
        pack = prepare(build_pack(rows, UNSHARED))
        indices = _list_indices(pack, [len(unit) for unit in units])
        if indices is None:
            return None
        watched = _Watched(indices, pack.tokens)
        hooks = [layer.register_forward_hook(partial(watched.enter, layer)) for layer in self._layers]
        try:
            with send_weight_gradients(watched):
                read = partial(compute_pack_logprobs, whole=True)
                logp, pack = read_pack_logprobs(self._model, self._objective, pack, read)
                loss = self._objective.loss(logp, pack, pack.token_values.get(REFERENCE))
                examples = loss.by_example(pack)
                owner, denominators = self._list_owners(pack, units)
                divided = examples / denominators.to(examples)
                whole = torch.autograd.grad(divided.sum(), self._moving, allow_unused=True)
        finally:
            for hook in hooks:
                hook.remove()
        if watched.unknown or not watched.agrees(dict(zip(self._moving, whole, strict=True))):
            self.applies = False
            return None
        losses = divided.new_zeros(len(units)).index_add(0, owner.to(divided.device), divided.detach())
        return UnitsRead(
            [watched.found.get(parameter) for parameter in self._moving],
            losses.tolist(),
            PackWorkload.of(pack),
            {name: _divide(value, pack, denominators) for name, value in loss.measures.items()},
            dict(zip(pack.example_keys, divided.tolist(), strict=True)),
        )

    def _list_owners(self, pack: Pack, units: Sequence[list[TokenRow]]) -> tuple[Tensor, Tensor]:
        """Return (E,) the unit of each of the pack's examples, and that unit's denominator."""
        of_row = [number for number, unit in enumerate(units) for _ in unit]
        owner = [0] * len(pack.example_keys)
        for row, example in enumerate(pack.example_index.tolist()):
            owner[example] = of_row[row]
        own = [self._objective.denominator(unit) for unit in units]
        return torch.tensor(owner), torch.tensor([own[number] for number in owner], dtype=torch.float64)


def _divide(values: Tensor, pack: Pack, denominators: Tensor) -> float:
    """Return the sum of a measure's terms, one for each example or trained token, each divided by its unit's
    denominator.
    """
    by = denominators.to(values.device)
    if len(values) != len(by):
        by = by[pack.example_index.to(values.device)[pack.path.to(values.device)]]
    return float((values.double() / by).sum())


def _find_layers(model: Any, moving: Sequence[torch.nn.Parameter]) -> list[torch.nn.Linear] | None:
    """Return the linear layers with all trainable parameters; None where another module is trained."""
    expected = {id(parameter) for parameter in moving}
    layers = [
        module
        for module in model.modules()
        if type(module) is torch.nn.Linear and any(id(own) in expected for own in module.parameters(recurse=False))
    ]
    held = [id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)]
    once = len(held) == len(set(held))
    return layers if once and expected <= set(held) and expected else None


def _list_indices(pack: Pack, rows: Sequence[int]) -> list[list[int]] | None:
    """Return the indices of each unit's tokens; None where two units share one."""
    indices: list[list[int]] = []
    row = 0
    for count in rows:
        own: set[int] = set()
        for at in range(row, row + count):
            if int(pack.leaf[at]) >= 0:
                for span in pack.spans(at):
                    own.update(range(span.start, span.stop))
        indices.append(sorted(own))
        row += count
    return indices if sum(map(len, indices)) == len(set().union(*indices)) else None


class _Watched:
    """Collects the gradients of units while layers are backpropagated."""

    def __init__(self, indices: Sequence[Sequence[int]], tokens: int) -> None:
        self._indices, self._tokens = indices, tokens
        self.found: dict[torch.nn.Parameter, Tensor] = {}
        self.unknown = False
        """Whether a layer read tokens in another order, or twice."""
        self._entered: set[torch.nn.Module] = set()
        self._received: set[torch.nn.Parameter] = set()

    def agrees(self, whole: Mapping[torch.nn.Parameter, Tensor | None]) -> bool:
        """Return whether the units' gradients add up to the pack's, up to rounding."""
        for parameter, gradient in whole.items():
            own = self.found.get(parameter)
            if parameter in self._received:
                continue
            if gradient is None or own is None:
                if gradient is not None or own is not None:
                    return False
                continue
            apart = float((own.sum(0) - gradient.to(own.dtype)).norm())
            if apart > ROUNDING * float(own.flatten(1).norm(dim=1).sum()):
                return False
        return True

    def fits(self, x: Tensor) -> bool:
        """Return whether a layer's input has the pack's tokens in their order."""
        return x.dim() == 3 and x.shape[0] == 1 and x.shape[1] >= self._tokens

    def receive(self, weight: torch.nn.Parameter, states: Tensor, slopes: Tensor) -> None:
        """Compute the gradient of each unit from a weight's input and output gradient."""
        if not weight.requires_grad:
            return
        self.unknown |= weight in self._received
        self._received.add(weight)
        self.found[weight] = self._multiply(slopes, states)

    def enter(self, layer: torch.nn.Linear, _: Any, inputs: Any, output: Tensor) -> None:
        """Register for the gradient of a layer's output."""
        if not output.requires_grad:
            return
        shaped = output.dim() == 2 or (output.dim() == 3 and output.shape[0] == 1)
        if layer in self._entered or not shaped or output.shape[-2] < self._tokens:
            self.unknown = True
            return
        self._entered.add(layer)
        output.register_hook(partial(self._record_gradient, layer, inputs[0].detach()))  # type: ignore[no-untyped-call]

    def _record_gradient(self, layer: Any, states: Tensor, gradient: Tensor) -> None:
        slopes = gradient.detach().flatten(0, -2)
        if layer.weight.requires_grad:
            self.found[layer.weight] = self._multiply(slopes, states.flatten(0, -2))
        if layer.bias is not None and layer.bias.requires_grad:
            self.found[layer.bias] = self._multiply(slopes, slopes.new_ones(slopes.shape[0], 1))[..., 0]

    def _multiply(self, slopes: Tensor, states: Tensor) -> Tensor:
        """Return (units, out, in) from (tokens, out) and (tokens, in), in at least fp32."""
        wide = torch.promote_types(slopes.dtype, torch.float32)
        slopes, states = slopes[: self._tokens].to(wide), states[: self._tokens].to(wide)
        if slopes.device.type != "cpu":  # one launch for all units
            return self._pad(slopes).transpose(1, 2) @ self._pad(states)
        gradients = slopes.new_empty(len(self._indices), slopes.shape[1], states.shape[1])
        for own, out in zip(self._indices, gradients, strict=True):
            at = slice(own[0], own[-1] + 1) if own and own[-1] - own[0] == len(own) - 1 else list(own)
            torch.mm(slopes[at].t(), states[at], out=out)
        return gradients

    def _pad(self, values: Tensor) -> Tensor:
        """Return (units, most tokens of a unit, width) the values of each unit, padded with zeros."""
        padded = torch.cat([values, values.new_zeros(1, values.shape[1])])
        return padded[self._padded_places.to(values.device)]

    @cached_property
    def _padded_places(self) -> Tensor:
        """The indices (units, most tokens of a unit) of each unit's tokens, padded with that of zeros."""
        most = max(1, *map(len, self._indices))
        return torch.tensor([[*own, *[self._tokens] * (most - len(own))] for own in self._indices])
