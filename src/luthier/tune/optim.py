"""AdamW over fp32 masters of whatever moves: small updates are never lost to bf16, whatever the model computes in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
"""AdamW's usual averages (Loshchilov and Hutter, 2019)."""
EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides an update beside the gradient."""

    weight_decay: float
    clip: float | None
    """Largest norm of the whole gradient; None: any."""
    rate_of: Callable[[str], float] = lambda name: 1.0
    """A factor on the learning rate, by the parameter's name."""


class Adam:
    """AdamW with a master and two moments for each parameter that moves, in at least fp32."""

    def __init__(self, model: torch.nn.Module, settings: Settings) -> None:
        self._settings = settings
        self._moving = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._masters = {name: _master(parameter) for name, parameter in self._moving.items()}
        self._sums = {name: torch.zeros_like(master) for name, master in self._masters.items()}
        groups: dict[tuple[float, float], list[Tensor]] = defaultdict(list)
        for name, master in self._masters.items():
            decay = settings.weight_decay if master.ndim > 1 else 0.0  # norms and biases are not shrunk
            groups[decay, settings.rate_of(name)].append(master)
        self._adam = torch.optim.AdamW(
            [{"params": of, "weight_decay": decay, "factor": factor} for (decay, factor), of in groups.items()],
            betas=BETAS,
            eps=EPSILON,
            fused=True,
        )
        for master in self._masters.values():
            self._adam.state[master] = {
                "step": torch.zeros((), dtype=torch.float32),
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
            }

    @property
    def numbers(self) -> int:
        """How many numbers move."""
        return sum(parameter.numel() for parameter in self._moving.values())

    def gather(self) -> None:
        """Add the gradients of one pack to the step's, in at least fp32, and clear them."""
        for name, parameter in self._moving.items():
            if parameter.grad is not None:
                self._sums[name].add_(parameter.grad)
                parameter.grad = None

    def norm(self) -> float:
        """Norm of the step's whole gradient."""
        return float(torch.linalg.vector_norm(torch.stack([one.norm() for one in self._sums.values()])))

    def update(self, rate: float, norm: float) -> None:
        """Clip, move, and clear the step's gradient."""
        if self._settings.clip is not None and norm > self._settings.clip:
            for total in self._sums.values():
                total.mul_(self._settings.clip / norm)
        for group in self._adam.param_groups:
            group["lr"] = rate * group["factor"]
        for name, master in self._masters.items():
            master.grad = self._sums[name]
        self._adam.step()
        for name, parameter in self._moving.items():
            self._masters[name].grad = None
            self._sums[name].zero_()
            if self._masters[name] is not parameter:
                parameter.data.copy_(self._masters[name])

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, by name."""
        return {f"{kind}/{name}": value for name, kind, value in self._named()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a state; the model's parameters follow."""
        for name, kind, value in self._named():
            value.copy_(state[f"{kind}/{name}"])
        for name, parameter in self._moving.items():
            if self._masters[name] is not parameter:
                parameter.data.copy_(self._masters[name])

    def fingerprints(self) -> dict[str, float]:
        """A number for each parameter that changes when it moves."""
        return {name: float(master.detach().double().square().sum()) for name, master in self._masters.items()}

    def _named(self) -> Iterator[tuple[str, str, Tensor]]:
        for name, master in self._masters.items():
            yield name, "master", master.data
            for kind, value in self._adam.state[master].items():
                yield name, kind, value


def _master(parameter: torch.nn.Parameter) -> Tensor:
    """The parameter itself when it is fp32 or wider, else a copy that is."""
    if parameter.dtype in (torch.float32, torch.float64):
        return parameter
    return parameter.detach().float().clone()
