"""Mixed precision: fp32 master weights of all trainable parameters, so that small updates are not lost in bf16."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luthier.core.errors import ModelError, SourceLocation
from luthier.tune.optimizer import Optimizer, TrainableParameter
from luthier.tune.training.gradient_pull import GradientPull


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """The optimizer with gradient clipping and learning rate factors by parameter name."""

    optimizer: Optimizer
    clip: float | None
    """Maximum norm of the whole gradient; None: no limit."""
    rate_of: Callable[[str], float] = lambda name: 1.0
    """Learning rate factor, by the parameter's name."""


_AVERAGES = ("exp_avg/", "momentum_buffer/")
"""Prefixes of averaged gradients in a state."""
_NO_WEIGHT = ("group", "optimizer", "pull")
"""Entries of a state that are not per weight."""


class GradientSum:
    """A sum of gradients as one vector for each dtype, with a view for each weight."""

    def __init__(self, weights: Sequence[Tensor], device: torch.device | None = None) -> None:
        """Start at zero for weights of these shapes and dtypes, on a device, or on theirs."""
        sizes: dict[torch.dtype, int] = {}
        begins = []
        for weight in weights:
            begins.append(sizes.get(weight.dtype, 0))
            sizes[weight.dtype] = begins[-1] + weight.numel()
        device = device or (weights[0].device if weights else None)
        self.flat = {dtype: torch.zeros(size, dtype=dtype, device=device) for dtype, size in sizes.items()}
        """The vector of each dtype."""
        self.views = [
            self.flat[weight.dtype][begin : begin + weight.numel()].view(weight.shape)
            for weight, begin in zip(weights, begins, strict=True)
        ]
        """The part of each weight."""
        self.begins = begins
        """Where that part begins."""

    def gather(self, gradients: Sequence[Tensor | None]) -> None:
        """Add the gradients of one pack, in at least fp32."""
        for total, gradient in zip(self.views, gradients, strict=True):
            if gradient is not None:
                total.add_(gradient)

    def add(self, other: GradientSum) -> GradientSum:
        """Add another sum in place, and return this one."""
        for dtype, vector in self.flat.items():
            vector.add_(other.flat[dtype])
        return self


class MixedPrecisionOptimizer:
    """An optimizer over a master copy of each trainable parameter, in at least fp32.

    It holds all masters with their optimizer state, or those of some parameters alone (`hold`): then it updates only
    these, and other ranks update the rest.
    """

    def __init__(self, model: torch.nn.Module, settings: OptimizerSettings) -> None:
        self._settings = settings
        self._moving = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._masters = {name: _master(parameter) for name, parameter in self._moving.items()}
        self._shapes = {name: master.shape for name, master in self._masters.items()}
        self._held = frozenset(self._masters)
        self._sums: dict[str, Tensor] = {}
        """The step's gradient of each parameter, once something of it is known."""
        self._is_taken = False
        """Whether the gradient was summed elsewhere."""
        moving = [TrainableParameter(name, master, settings.rate_of(name)) for name, master in self._masters.items()]
        self._optimizers = settings.optimizer.begin(moving) if moving else []
        self._pulls: tuple[GradientPull, ...] = ()
        self._owners = {
            id(weight): optimizer
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for weight in group["params"]
        }

    @property
    def numbers(self) -> int:
        """Number of trainable parameters."""
        return sum(parameter.numel() for parameter in self._moving.values())

    def gradients(self, loss: Tensor, leaves: Sequence[Tensor] = ()) -> list[Tensor | None]:
        """Return the gradient of a loss by each trainable parameter, then by each leaf; None where it does not depend
        on it.
        """
        targets = [*self._moving.values(), *leaves]
        if not loss.requires_grad:  # rows of text, where only what reads media learns
            return [None] * len(targets)
        return list(torch.autograd.grad(loss, targets, allow_unused=True))

    @property
    def sizes(self) -> dict[str, int]:
        """Number of elements of each trainable parameter, in order."""
        return {name: parameter.numel() for name, parameter in self._moving.items()}

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The trainable parameters, in the dtype of the model's computation."""
        return self._moving

    @property
    def held(self) -> Collection[str]:
        """The parameters whose masters are held here."""
        return self._held

    def hold(self, names: Collection[str]) -> None:
        """Keep the masters of some parameters alone, with their optimizer state; `restore` adds others."""
        self._held = frozenset(names)
        for name, master in self._masters.items():
            parameter = self._moving[name]
            if name not in self._held:
                self._owners[id(master)].state.pop(master, None)
                if master is not parameter:
                    master.data = master.data.new_empty(0)
            elif master.shape != self._shapes[name]:
                master.data = parameter.detach().to(master.dtype, copy=True)

    def _need_sums(self) -> Mapping[str, Tensor]:
        if not self._sums:
            self._sums = {
                name: torch.zeros(self._shapes[name], dtype=master.dtype, device=master.device)
                for name, master in self._masters.items()
            }
        return self._sums

    def gather(self, gradients: Sequence[Tensor | None]) -> None:
        """Add the gradients of one pack to the step's, in at least fp32."""
        for total, gradient in zip(self._need_sums().values(), gradients, strict=True):
            if gradient is not None:
                total.add_(gradient)

    def build_sum(self) -> GradientSum:
        """Return a sum of gradients that is zero."""
        return GradientSum(
            [
                torch.empty(self._shapes[name], dtype=master.dtype, device="meta")
                for name, master in self._masters.items()
            ],
            next(iter(self._moving.values())).device if self._moving else None,
        )

    def take(self, gradients: GradientSum) -> None:
        """Set the gradient of a step that was summed elsewhere; that of parameters not held here is ignored."""
        self._sums, self._is_taken = dict(zip(self._masters, gradients.views, strict=True)), True

    def norms(self, names: Collection[str]) -> list[float]:
        """Return the gradient norms of some parameters."""
        sums = self._need_sums()
        return [float(sums[name].norm()) for name in names]

    def norm(self, norms: Sequence[float] | None = None) -> float:
        """Return the norm of the step's whole gradient, from those of all parameters in order where they are known."""
        dtype = next(iter(self._masters.values())).dtype
        of_each = self.norms(self._masters) if norms is None else norms
        return float(torch.linalg.vector_norm(torch.tensor(of_each, dtype=dtype)))

    def update(self, rate: float, norm: float) -> None:
        """Clip the gradient, update the held parameters, and clear the gradient."""
        sums = self._need_sums()
        for name in self._held:
            if self._settings.clip is not None and norm > self._settings.clip:
                sums[name].mul_(self._settings.clip / norm)
            for pull in self._pulls:
                pull.add_to(sums[name], name, self._masters[name], rate)
            self._masters[name].grad = sums[name]
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            optimizer.step()
        for name in self._held:
            self._masters[name].grad = None
        if self._is_taken:
            self.drop()
        for total in self._sums.values():
            total.zero_()
        self._follow()

    def start_from(self, weights: Mapping[str, Tensor], pulls: Sequence[GradientPull] = ()) -> None:
        """Set the masters by name; pulls start there, and are added to each gradient."""
        for name, master in self._masters.items():
            master.data.copy_(weights[name])
        self._pulls = tuple(pulls)
        for pull in self._pulls:
            pull.start(self._masters)
        self._follow()

    def weights(self, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return the weights for evaluation and saving, by name: the masters, or an average of them; all, or some that
        are held.
        """
        kept = self._settings.optimizer.kept
        return {
            name: kept(master.detach(), self._state_of(master))
            for name, master in self._masters.items()
            if names is None or name in names
        }

    @property
    def shows_weights(self) -> Collection[str]:
        """The parameters whose weights, as `weights` returns them, are here: held, or the model's own unchanged."""
        if self._settings.optimizer.averages:
            return self._held
        return [name for name, master in self._masters.items() if name in self._held or master is self._moving[name]]

    def drop(self) -> None:
        """Clear the step's gradient without an update."""
        self._sums, self._is_taken = {}, False

    def state(self, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return everything that a resumed run needs, by name; of some parameters, or of those that are held."""
        held = [name for name in self._masters if name in (self._held if names is None else names)]
        state = {f"master/{name}": self._masters[name].data for name in held} | {self._mark: torch.zeros(())}
        for name in held:
            master = self._masters[name]
            state |= {f"{kind}/{name}": value for kind, value in self._state_of(master).items()}
        for at, pull in enumerate(self._pulls):
            state |= {f"pull/{at}/{key}": value for key, value in pull.state().items()}
        numbers = {f"group/{at}": group[key] for at, group, key in self._iterate_group_numbers()}
        return state | {at: torch.tensor(number, dtype=torch.float64) for at, number in numbers.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state that has at least what is held here; the model's parameters follow.

        `ModelError` for the state of another optimizer.
        """
        if self._mark not in state:
            what = "the state to go on from was left by another optimizer"
            raise ModelError(
                what, where=SourceLocation(field="optimizer"), hint="use the optimizer that it was made with"
            )
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if kind not in _NO_WEIGHT and name not in self._held:
                continue
            if kind == "master":
                self._masters[name].data.copy_(value)
            elif kind not in _NO_WEIGHT:
                own = self._state_of(self._masters[name])
                own[kind] = value.clone().to(own[kind].device) if kind in own else value.clone()
        for at, group, key in self._iterate_group_numbers():
            group[key] = type(group[key])(state[f"group/{at}"].item())
        for position, pull in enumerate(self._pulls):
            begin = f"pull/{position}/"
            pull.restore({key.removeprefix(begin): value for key, value in state.items() if key.startswith(begin)})
        self._follow()

    def fingerprints(self, names: Collection[str] | None = None) -> dict[str, float]:
        """Return a number for each parameter that changes when it is updated; for some of them, or all."""
        return {
            name: float(master.detach().double().square().sum())
            for name, master in self._masters.items()
            if names is None or name in names
        }

    @property
    def _mark(self) -> str:
        """Return a state's key that names its optimizer."""
        return f"optimizer/{self._settings.optimizer.kind}"

    def _state_of(self, master: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self._owners[id(master)].state[master]
        return state

    def _iterate_group_numbers(self) -> Iterator[tuple[str, dict[str, Any], str]]:
        """Yield each changing value of each parameter group, with a name for it."""
        for first, optimizer in enumerate(self._optimizers):
            for second, group in enumerate(optimizer.param_groups):
                yield from ((f"{first}.{second}/{key}", group, key) for key in self._settings.optimizer.carried)

    def _follow(self) -> None:
        """Copy the masters' values to the model."""
        for name, parameter in self._moving.items():
            if name in self._held and self._masters[name] is not parameter:
                parameter.data.copy_(self._masters[name])


def select_moments(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in an optimizer's state, and its moments except the averaged gradient, by name."""
    left_out = (*_AVERAGES, *(f"{kind}/" for kind in _NO_WEIGHT))
    return {name: value for name, value in state.items() if not name.startswith(left_out)}


def _master(parameter: torch.nn.Parameter) -> Tensor:
    """Return the parameter itself when it is fp32 or wider, else an fp32 copy; contiguous."""
    if parameter.dtype in (torch.float32, torch.float64):
        parameter.data = parameter.data.contiguous()
        return parameter
    return parameter.detach().float().contiguous().clone()
