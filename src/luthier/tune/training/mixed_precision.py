"""Updates on fp32 masters of whatever moves: small ones are never lost to bf16, whatever the model computes in."""

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
    """Largest norm of the whole gradient; None: any."""
    rate_of: Callable[[str], float] = lambda name: 1.0
    """A factor on the learning rate, by the parameter's name."""


_AVERAGES = ("exp_avg/", "momentum_buffer/")
"""Before the names of averaged gradients in a state."""
_NO_WEIGHT = ("group", "optimizer", "pull")
"""What stands in a state beside weights and what is remembered of each."""


class GradientSum:
    """A sum of gradients as one vector for each dtype, with a view for each weight."""

    def __init__(self, weights: Sequence[Tensor], device: torch.device | None = None) -> None:
        """Zero for weights of these shapes and dtypes, on a device, or on theirs."""
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
        """This sum, to which another was added."""
        for dtype, vector in self.flat.items():
            vector.add_(other.flat[dtype])
        return self


class MixedPrecisionOptimizer:
    """An optimizer over a master of each parameter that moves, in at least fp32.

    It holds all masters with what is remembered of each, or those of some parameters alone (`hold`): then it moves only
    these, and others move the rest.
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
        """How many numbers move."""
        return sum(parameter.numel() for parameter in self._moving.values())

    def gradients(self, loss: Tensor, leaves: Sequence[Tensor] = ()) -> list[Tensor | None]:
        """How a loss falls with each parameter that moves, then with each leaf; None where it does not depend on it."""
        targets = [*self._moving.values(), *leaves]
        if not loss.requires_grad:  # rows of text, where only what reads media learns
            return [None] * len(targets)
        return list(torch.autograd.grad(loss, targets, allow_unused=True))

    @property
    def sizes(self) -> dict[str, int]:
        """How many numbers each parameter that moves has, in order."""
        return {name: parameter.numel() for name, parameter in self._moving.items()}

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The parameters that move, in the precision that the model computes in."""
        return self._moving

    @property
    def held(self) -> Collection[str]:
        """The parameters whose masters are here."""
        return self._held

    def hold(self, names: Collection[str]) -> None:
        """Keep the masters of some parameters alone, with what is remembered of them; `restore` brings those that were
        not here."""
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
        """A sum of gradients that is zero yet."""
        return GradientSum(
            [
                torch.empty(self._shapes[name], dtype=master.dtype, device="meta")
                for name, master in self._masters.items()
            ],
            next(iter(self._moving.values())).device if self._moving else None,
        )

    def take(self, gradients: GradientSum) -> None:
        """Take the gradient of a step that was summed elsewhere; of parameters that are not held it is not looked
        at."""
        self._sums, self._is_taken = dict(zip(self._masters, gradients.views, strict=True)), True

    def norms(self, names: Collection[str]) -> list[float]:
        """Norms of the gradients of some parameters."""
        sums = self._need_sums()
        return [float(sums[name].norm()) for name in names]

    def norm(self, norms: Sequence[float] | None = None) -> float:
        """Norm of the step's whole gradient, from those of all parameters in order where they are known."""
        dtype = next(iter(self._masters.values())).dtype
        of_each = self.norms(self._masters) if norms is None else norms
        return float(torch.linalg.vector_norm(torch.tensor(of_each, dtype=dtype)))

    def update(self, rate: float, norm: float) -> None:
        """Clip, move what is held, and clear the step's gradient."""
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
        """Set the masters by name; pulls begin there, and are added to each gradient."""
        for name, master in self._masters.items():
            master.data.copy_(weights[name])
        self._pulls = tuple(pulls)
        for pull in self._pulls:
            pull.start(self._masters)
        self._follow()

    def weights(self, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """The weights that count for answers and for the file, by name: the masters, or an average of theirs; all of
        them, or some that are held."""
        kept = self._settings.optimizer.kept
        return {
            name: kept(master.detach(), self._state_of(master))
            for name, master in self._masters.items()
            if names is None or name in names
        }

    @property
    def shows_weights(self) -> Collection[str]:
        """The parameters whose weights, as `weights` gives them, are here: held, or the model's own as they are."""
        if self._settings.optimizer.averages:
            return self._held
        return [name for name, master in self._masters.items() if name in self._held or master is self._moving[name]]

    def drop(self) -> None:
        """Clear the step's gradient without moving."""
        self._sums, self._is_taken = {}, False

    def state(self, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Everything that a resumed run needs, by name; of some parameters, or of those that are held."""
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
        """Go on from a state, which holds at least what is held here; the model's parameters follow. `ModelError` when
        another optimizer left it."""
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
        """A number for each parameter that changes when it moves; for some of them, or all."""
        return {
            name: float(master.detach().double().square().sum())
            for name, master in self._masters.items()
            if names is None or name in names
        }

    @property
    def _mark(self) -> str:
        """Stands in a state and names the optimizer that left it."""
        return f"optimizer/{self._settings.optimizer.kind}"

    def _state_of(self, master: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self._owners[id(master)].state[master]
        return state

    def _iterate_group_numbers(self) -> Iterator[tuple[str, dict[str, Any], str]]:
        """Each changing number of each parameter group, with a name for it."""
        for first, optimizer in enumerate(self._optimizers):
            for second, group in enumerate(optimizer.param_groups):
                yield from ((f"{first}.{second}/{key}", group, key) for key in self._settings.optimizer.carried)

    def _follow(self) -> None:
        """Give the model the masters' values."""
        for name, parameter in self._moving.items():
            if name in self._held and self._masters[name] is not parameter:
                parameter.data.copy_(self._masters[name])


def select_moments(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of an optimizer's state the weights, and what it remembers of them but the averaged gradient, by name."""
    left_out = (*_AVERAGES, *(f"{kind}/" for kind in _NO_WEIGHT))
    return {name: value for name, value in state.items() if not name.startswith(left_out)}


def _master(parameter: torch.nn.Parameter) -> Tensor:
    """The parameter itself when it is fp32 or wider, else a copy that is; laid out row by row."""
    if parameter.dtype in (torch.float32, torch.float64):
        parameter.data = parameter.data.contiguous()
        return parameter
    return parameter.detach().float().contiguous().clone()
