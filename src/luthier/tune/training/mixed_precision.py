"""Updates on fp32 masters of whatever moves: small ones are never lost to bf16, whatever the model computes in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luthier.core.errors import ModelError, SourceLocation
from luthier.tune.optimizer import Optimizer, TrainableParameter


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """The optimizer with gradient clipping and learning rate factors by parameter name."""

    optimizer: Optimizer
    clip: float | None
    """Largest norm of the whole gradient; None: any."""
    rate_of: Callable[[str], float] = lambda name: 1.0
    """A factor on the learning rate, by the parameter's name."""


_AVERAGES = ("exp_avg/", "momentum_buffer/")
"""Before the names of averaged gradients in a state."""


class GradientSum:
    """A sum of gradients as one vector for each dtype, with a view for each weight."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        """Zero for weights like these."""
        sizes: dict[torch.dtype, int] = {}
        begins = []
        for weight in weights:
            begins.append(sizes.get(weight.dtype, 0))
            sizes[weight.dtype] = begins[-1] + weight.numel()
        device = weights[0].device if weights else None
        self.flat = {dtype: torch.zeros(size, dtype=dtype, device=device) for dtype, size in sizes.items()}
        """The vector of each dtype."""
        self.views = [
            self.flat[weight.dtype][begin : begin + weight.numel()].view(weight.shape)
            for weight, begin in zip(weights, begins, strict=True)
        ]
        """The part of each weight."""

    def gather(self, gradients: Sequence[Tensor | None]) -> None:
        """Add the gradients of one pack, in at least fp32."""
        for total, gradient in zip(self.views, gradients, strict=True):
            if gradient is not None:
                total.add_(gradient)

    def add(self, other: GradientSum) -> GradientSum:
        """This sum, to which another was added."""
        for dtype, vector in self.flat.items():
            vector.add_(other.flat[dtype])
        return self


class MixedPrecisionOptimizer:
    """An optimizer over a master of each parameter that moves, in at least fp32."""

    def __init__(self, model: torch.nn.Module, settings: OptimizerSettings) -> None:
        self._settings = settings
        self._moving = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._masters = {name: _master(parameter) for name, parameter in self._moving.items()}
        self._sums = {name: torch.zeros_like(master) for name, master in self._masters.items()}
        moving = [TrainableParameter(name, master, settings.rate_of(name)) for name, master in self._masters.items()]
        self._optimizers = settings.optimizer.begin(moving) if moving else []
        self._anchors: dict[str, Tensor] = {}
        self._pull = 0.0
        self._owners = {
            id(weight): optimizer
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for weight in group["params"]
        }

    @property
    def numbers(self) -> int:
        """How many numbers move."""
        return sum(parameter.numel() for parameter in self._moving.values())

    @property
    def parameters(self) -> list[Tensor]:
        """Those that move."""
        return list(self._moving.values())

    def gradients(self, loss: Tensor, leaves: Sequence[Tensor] = ()) -> list[Tensor | None]:
        """How a loss falls with each parameter that moves, then with each leaf; None where it does not depend on it."""
        return list(torch.autograd.grad(loss, [*self._moving.values(), *leaves], allow_unused=True))

    def gather(self, gradients: Sequence[Tensor | None]) -> None:
        """Add the gradients of one pack to the step's, in at least fp32."""
        for total, gradient in zip(self._sums.values(), gradients, strict=True):
            if gradient is not None:
                total.add_(gradient)

    def build_sum(self) -> GradientSum:
        """A sum of gradients that is zero yet."""
        return GradientSum(list(self._masters.values()))

    def take(self, gradients: GradientSum) -> None:
        """Take the gradient of a step that was summed elsewhere."""
        for total, view in zip(self._sums.values(), gradients.views, strict=True):
            total.copy_(view)

    def norm(self) -> float:
        """Norm of the step's whole gradient."""
        return float(torch.linalg.vector_norm(torch.stack([entry.norm() for entry in self._sums.values()])))

    def update(self, rate: float, norm: float) -> None:
        """Clip, move, and clear the step's gradient."""
        if self._settings.clip is not None and norm > self._settings.clip:
            for total in self._sums.values():
                total.mul_(self._settings.clip / norm)
        for name, anchor in self._anchors.items():
            self._sums[name].add_(self._masters[name].detach() - anchor, alpha=self._pull)
        for name, master in self._masters.items():
            master.grad = self._sums[name]
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            optimizer.step()
        for name, master in self._masters.items():
            master.grad = None
            self._sums[name].zero_()
        self._follow()

    def start_from(self, weights: Mapping[str, Tensor], pull: float = 0.0) -> None:
        """Set the masters by name; with a pull, so much of the way from there is added to each gradient."""
        for name, master in self._masters.items():
            master.data.copy_(weights[name])
        self._pull = pull
        self._anchors = {name: master.detach().clone() for name, master in self._masters.items()} if pull else {}
        self._follow()

    def weights(self) -> dict[str, Tensor]:
        """The weights that count for answers and for the file, by name: the masters, or an average of theirs."""
        kept = self._settings.optimizer.kept
        return {name: kept(master.detach(), self._state_of(master)) for name, master in self._masters.items()}

    def drop(self) -> None:
        """Clear the step's gradient without moving."""
        for total in self._sums.values():
            total.zero_()

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, by name."""
        found = {f"master/{name}": master.data for name, master in self._masters.items()} | {
            self._mark: torch.zeros(())
        }
        for name, master in self._masters.items():
            found |= {f"{kind}/{name}": value for kind, value in self._state_of(master).items()}
        numbers = {f"group/{at}": group[key] for at, group, key in self._carried()}
        return found | {at: torch.tensor(number, dtype=torch.float64) for at, number in numbers.items()}

    def moments(self) -> dict[str, Tensor]:
        """The weights, and what the optimizer remembers of them but the averaged gradient, by name."""
        kept = {name: value for name, value in self.state().items() if not name.startswith(_AVERAGES)}
        return {name: value for name, value in kept.items() if not name.startswith(("group/", "optimizer/"))}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a state; the model's parameters follow. `ModelError` when another optimizer left it."""
        if self._mark not in state:
            what = "the state to go on from was left by another optimizer"
            raise ModelError(
                what, where=SourceLocation(field="optimizer"), hint="use the optimizer that it was made with"
            )
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if kind == "master":
                self._masters[name].data.copy_(value)
            elif kind not in ("group", "optimizer"):
                own = self._state_of(self._masters[name])
                own[kind] = value.clone().to(own[kind].device) if kind in own else value.clone()
        for at, group, key in self._carried():
            group[key] = type(group[key])(state[f"group/{at}"].item())
        self._follow()

    def fingerprints(self) -> dict[str, float]:
        """A number for each parameter that changes when it moves."""
        return {name: float(master.detach().double().square().sum()) for name, master in self._masters.items()}

    @property
    def _mark(self) -> str:
        """Stands in a state and names the optimizer that left it."""
        return f"optimizer/{self._settings.optimizer.kind}"

    def _state_of(self, master: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self._owners[id(master)].state[master]
        return state

    def _carried(self) -> Iterator[tuple[str, dict[str, Any], str]]:
        """Each changing number of each parameter group, with a name for it."""
        for first, optimizer in enumerate(self._optimizers):
            for second, group in enumerate(optimizer.param_groups):
                yield from ((f"{first}.{second}/{key}", group, key) for key in self._settings.optimizer.carried)

    def _follow(self) -> None:
        """Give the model the masters' values."""
        for name, parameter in self._moving.items():
            if self._masters[name] is not parameter:
                parameter.data.copy_(self._masters[name])


def _master(parameter: torch.nn.Parameter) -> Tensor:
    """The parameter itself when it is fp32 or wider, else a copy that is; laid out row by row."""
    if parameter.dtype in (torch.float32, torch.float64):
        parameter.data = parameter.data.contiguous()
        return parameter
    return parameter.detach().float().contiguous().clone()
