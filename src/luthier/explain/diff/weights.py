"""Weight changes: distance, singular directions, effective rank and intruder dimensions of each matrix."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.artifacts.model_diff import MatrixChange
from luthier.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

TOP = 10
"""Left singular vectors after tuning in which intruders are looked for (Shuttleworth et al. 2024)."""
COSINE = 0.5
"""A vector whose cosine with every one before is below this is an intruder."""
SHOWN_VALUES = 8
_LAYER = re.compile(r"\.(\d+)\.")
_MATRIX = 2
_PIECE = 1 << 24
_WRITERS = ("o_proj", "down_proj", "c_proj", "out_proj", "dense_4h_to_h", "wo", "w2", "fc2")
"""Matrices that write into the hidden state."""


@dataclass(frozen=True)
class WeightChange:
    """One parameter before and after. A low-rank change is given by its factors, `up @ down`."""

    name: str
    before: Callable[[], Tensor]
    """(out, in) of a linear layer; brought back to numbers where it is quantized."""
    after: Callable[[], Tensor] | None = None
    factors: tuple[Tensor, Tensor] | None = None

    @property
    def layer(self) -> int | None:
        """The number of its layer from 1; None outside of the layers."""
        found = _LAYER.search(self.name)
        return int(found[1]) + 1 if found else None

    @property
    def is_matrix(self) -> bool:
        """Whether it has singular directions."""
        return self.factors is not None or self.before().ndim == _MATRIX

    def change(self) -> Tensor:
        """after - before, in float64."""
        if self.factors is not None:
            up, down = self.factors
            return up.double() @ down.double()
        assert self.after is not None
        return self.after().double() - self.before().double()


def list_adapter_changes(model: Any) -> Iterator[WeightChange]:
    """Return the change of each weight by PEFT's active adapter; empty for virtual tokens and bottlenecks, which do not
    change weights.
    """
    from peft.tuners.ia3 import IA3Layer
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LoraLayer):
            yield from _lora_changes(name, module)
        elif isinstance(module, IA3Layer):
            yield from _ia3_changes(name, module)
        elif isinstance(module, ModulesToSaveWrapper):
            own = dict(module.original_module.named_parameters())
            for adapter in module.active_adapters:
                for part, after in module.modules_to_save[adapter].named_parameters():
                    yield WeightChange(f"{name}.{part}", own[part].detach, after.detach)


def _lora_changes(name: str, layer: Any) -> Iterator[WeightChange]:
    import torch

    def before() -> Tensor:
        return _plain_weight(layer)

    for adapter in layer.active_adapters:
        if adapter in layer.lora_A:
            up, down = layer.lora_B[adapter].weight, layer.lora_A[adapter].weight
        elif adapter in layer.lora_embedding_A:
            up, down = layer.lora_embedding_A[adapter].T, layer.lora_embedding_B[adapter].T
        else:
            continue
        factors = (up.detach() * layer.scaling[adapter], down.detach())
        if adapter not in layer.lora_magnitude_vector:
            yield WeightChange(name, before, factors=factors)
            continue
        magnitude = layer.lora_magnitude_vector[adapter].weight.detach()

        def after(magnitude: Tensor = magnitude, factors: tuple[Tensor, Tensor] = factors) -> Tensor:
            whole = before().double() + factors[0].double() @ factors[1].double()
            scale: Tensor = magnitude.double() / torch.linalg.norm(whole, dim=1)
            return whole * scale[:, None]

        yield WeightChange(name, before, after)


def _ia3_changes(name: str, layer: Any) -> Iterator[WeightChange]:
    for adapter in layer.active_adapters:
        if adapter in layer.ia3_l:
            scale = layer.ia3_l[adapter].detach().double()
            scale = scale.reshape(1, -1) if layer.is_feedforward else scale.reshape(-1, 1)

            def after(scale: Tensor = scale) -> Tensor:
                return _plain_weight(layer).double() * scale

            yield WeightChange(name, lambda: _plain_weight(layer), after)


def _plain_weight(layer: Any) -> Tensor:
    """(out, in) weight of the module under an adapter, as numbers."""
    import torch

    from luthier.models.quantization import QuantizedLinear

    base = layer.get_base_layer()
    if isinstance(base, QuantizedLinear):
        return base.plain(torch.float32).weight.detach()
    weight: Tensor = base.weight.detach()
    return weight.T if getattr(layer, "fan_in_fan_out", False) else weight


def list_parameter_changes(after: Any, before: Any) -> Iterator[WeightChange]:
    """The parameters of two models that have the same shapes, by name; a transposed linear layer is turned."""
    mine, its = dict(after.named_parameters()), dict(before.named_parameters())
    transposed = {
        f"{name}.weight" for name, module in after.named_modules() if type(module).__name__ == "Conv1D"
    }  # GPT-2's
    for name, parameter in mine.items():
        if name in its and its[name].shape == parameter.shape:

            def read(one: Any, turned: bool = name in transposed) -> Callable[[], Tensor]:
                return lambda: one.detach().T if turned else one.detach()

            yield WeightChange(name, read(its[name]), read(parameter))


def measure_weight_changes(
    changes: Iterator[WeightChange], *, decompose: int, head: Callable[[Tensor], Sequence[str]] | None = None
) -> tuple[list[MatrixChange], Mapping[int, float], float, int]:
    """Every matrix that moved, the distance of each layer, that of all weights together, and how many were decomposed.

    `decompose` matrices, of layers evenly from the first to the last, are compared with what they were by singular
    directions; factors of low rank have their singular values in any case. `head` names the tokens that a direction
    of the hidden state writes towards, and away from.

    Raises:
        ModelError: a weight that is not finite.
    """
    listed = list(changes)
    inside = [at for at, change in enumerate(listed) if change.layer is not None and change.is_matrix]
    steps = min(decompose, len(inside))
    chosen = {inside[round(at * (len(inside) - 1) / max(1, steps - 1))] for at in range(steps)}
    found: list[MatrixChange] = []
    moved, was = dict[int, float](), dict[int, float]()
    every = [0.0, 0.0]
    decomposed = 0
    for at, change in enumerate(listed):
        squares = _sum_squares(change.before())
        matrix = _measure(change, squares, whole=at in chosen, head=head)
        if matrix is None:
            raise ModelError(f"the weight {change.name} is not finite", hint="its training has diverged")
        norm = matrix.distance**2 * squares
        every[0] += norm
        every[1] += squares
        if change.layer is not None:
            moved[change.layer] = moved.get(change.layer, 0.0) + norm
            was[change.layer] = was.get(change.layer, 0.0) + squares
        decomposed += matrix.intruders is not None
        if matrix.distance:
            found.append(matrix)
    layers = {layer: math.sqrt(norm / was[layer]) if was[layer] else 0.0 for layer, norm in sorted(moved.items())}
    total = math.sqrt(every[0] / every[1]) if every[1] else 0.0
    return sorted(found, key=lambda matrix: (-matrix.distance, matrix.name)), layers, total, decomposed


def _measure(
    change: WeightChange, squares: float, *, whole: bool, head: Callable[[Tensor], Sequence[str]] | None
) -> MatrixChange | None:
    import torch

    tokens: Sequence[str] = ()
    values = torch.zeros(0, dtype=torch.float64)
    if change.factors is not None:
        directions, values = decompose_factors(*change.factors)
        norm = float(values.square().sum())
        tokens = _name_tokens(change, directions, head) if norm else ()
    else:
        assert change.after is not None
        norm = _sum_squares(change.after(), change.before())
        if whole and norm:
            directions, values = decompose_matrix(change.change())
            tokens = _name_tokens(change, directions, head)
    if not math.isfinite(norm) or not math.isfinite(squares):
        return None
    intruders = None
    if whole:
        after = change.before().double() + change.change()
        intruders = count_intruders(change.before().double(), after)
    largest = values[:SHOWN_VALUES].tolist()
    return MatrixChange(
        name=change.name,
        layer=change.layer,
        distance=math.sqrt(norm / squares) if squares else math.sqrt(norm),
        singular_values=tuple(largest),
        effective_rank=compute_effective_rank(values) if norm and len(values) else None,
        top_share=float(values[0] ** 2 / values.square().sum()) if norm and len(values) else None,
        intruders=intruders,
        tokens=tuple(tokens),
    )


def _name_tokens(
    change: WeightChange, directions: Tensor, head: Callable[[Tensor], Sequence[str]] | None
) -> Sequence[str]:
    writes = change.name.removesuffix(".weight").endswith(_WRITERS)
    return head(directions[:, 0]) if head is not None and writes else ()


def _sum_squares(one: Tensor, other: Tensor | None = None) -> float:
    """The sum of squares of a weight, or of a difference of two, in float64, a stretch of rows at a time."""
    total = 0.0
    rows = max(1, _PIECE // max(1, one[0].numel())) if one.ndim else 1
    for at in range(0, one.shape[0], rows):
        piece = one[at : at + rows].double()
        total += float((piece if other is None else piece - other[at : at + rows].double()).square().sum())
    return total


def decompose_factors(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """(out, r) left singular vectors and (r,) values of `up @ down`, without the product; the largest first."""
    import torch

    left, inner = torch.linalg.qr(up.double())
    _, outer = torch.linalg.qr(down.double().T)
    turned, values, _ = torch.linalg.svd(inner @ outer.T)
    return left @ turned[:, : values.shape[0]], values


def decompose_matrix(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(out, k) left singular vectors and (k,) values, k the shorter side, the largest first.

    They come from the Gram matrix of that side: several times as quick as a whole decomposition, and as exact for
    values above 1e-7 of the largest.
    """
    import torch

    tall = matrix.shape[0] > matrix.shape[1]
    gram = matrix.T @ matrix if tall else matrix @ matrix.T
    squares, vectors = torch.linalg.eigh(gram)
    values = squares.flip(0).clamp_min(0).sqrt()
    vectors = vectors.flip(1)
    if not tall:
        return vectors, values
    left = matrix @ vectors
    return left / left.norm(dim=0).clamp_min(torch.finfo(left.dtype).tiny), values


def compute_effective_rank(values: Tensor) -> float:
    """exp(H(p)), p the singular values over their sum."""
    import torch

    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def count_intruders(before: Tensor, after: Tensor, top: int = TOP, cosine: float = COSINE) -> int:
    """Count the first left singular vectors after training that are unlike all before (Shuttleworth et al. 2024)."""
    was, _ = decompose_matrix(before)
    now, _ = decompose_matrix(after)
    likeness = (was.T @ now[:, :top]).abs().amax(0)
    return int((likeness < cosine).sum())
