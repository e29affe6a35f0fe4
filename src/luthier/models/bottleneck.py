"""Bottleneck adapters as a method of PEFT's, which has none: narrow detours beside frozen modules (Houlsby, 2019).

Importing this module teaches PEFT the type `BOTTLENECK`, so that `PeftModel.from_pretrained` opens such an adapter;
plain PEFT without it does not know the type. The detour is a network with a bend inside, so no weights can hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import register_peft_method
from torch import Tensor, nn

NAME = "BOTTLENECK"
Bend = Literal["relu", "gelu", "silu", "tanh"]
_BENDS = {"relu": torch.relu, "gelu": nn.functional.gelu, "silu": nn.functional.silu, "tanh": torch.tanh}


def _teach_type() -> None:
    """Add a member to PEFT's closed list of types."""
    member = str.__new__(PeftType, NAME)
    member._name_, member._value_ = NAME, NAME
    PeftType._member_names_.append(NAME)
    PeftType._member_map_[NAME] = PeftType._value2member_map_[NAME] = member
    type.__setattr__(PeftType, NAME, member)


@dataclass
class BottleneckConfig(PeftConfig):  # type: ignore[misc]  # peft has no types
    """Settings of an adapter's folder."""

    target_modules: Sequence[str] | None = None
    size: int = 16
    """Width of the narrow place."""
    bend: Bend = "relu"
    parallel: bool = False
    """Whether the detour starts from the module's input, not from its output."""
    scale: float = 1.0
    width: int = 0
    """Width of the model."""
    modules_to_save: Sequence[str] | None = None
    """Modules that are trained and saved whole, by name: PEFT puts a sequence head here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(NAME)
        self.target_modules = list(self.target_modules or ())
        self.modules_to_save = list(self.modules_to_save) if self.modules_to_save else None


class BottleneckLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]  # peft has no types
    """A frozen module and a detour: out + scale · up(bend(down(h))), h its output, or its input when parallel."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down, self.bottleneck_up = nn.ModuleDict(), nn.ModuleDict()
        self.settings: dict[str, BottleneckConfig] = {}
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add a detour, in fp32; the way up is zero, so that nothing changes at first."""
        device = next(self.base_layer.parameters()).device
        self.settings[adapter_name] = config
        self.bottleneck_down[adapter_name] = nn.Linear(config.width, config.size, device=device)
        self.bottleneck_up[adapter_name] = nn.Linear(config.size, config.width, device=device)
        for parameter in self.bottleneck_up[adapter_name].parameters():
            nn.init.zeros_(parameter)
        own: Any = self
        own.set_adapter(own.active_adapters, inference_mode=config.inference_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives, its first tensor with the detours added."""
        found = self.base_layer(*args, **kwargs)
        out = found[0] if isinstance(found, tuple) else found
        own: Any = self
        for name in () if own.disable_adapters else own.active_adapters:
            if name in self.bottleneck_down:
                given = _first(args, kwargs) if self.settings[name].parallel else out
                out = (out.float() + self._detour(name, given)).to(out.dtype)
        return (out, *found[1:]) if isinstance(found, tuple) else out

    def _detour(self, name: str, given: Tensor) -> Tensor:
        down, up, settings = self.bottleneck_down[name], self.bottleneck_up[name], self.settings[name]
        added: Tensor = up(_BENDS[settings.bend](down(given.to(next(down.parameters()).dtype))))
        return added * settings.scale


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    given: Tensor = args[0] if args else next(iter(kwargs.values()))
    return given


class BottleneckModel(BaseTuner):  # type: ignore[misc]  # peft has no types
    """Puts detours into a model."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: ClassVar[dict[str, Any]] = {}

    def _create_and_replace(
        self, peft_config: BottleneckConfig, adapter_name: str, target: Any, target_name: str, parent: Any, **_: Any
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
        else:
            setattr(parent, target_name, BottleneckLayer(target, adapter_name, peft_config))

    def _unload_and_optionally_merge(self, merge: bool = True, **kwargs: Any) -> Any:
        if merge:
            raise NotImplementedError("a bottleneck is no change of weights; the model would need layers of its own")
        return super()._unload_and_optionally_merge(merge=merge, **kwargs)


_teach_type()
register_peft_method(name=NAME.lower(), config_cls=BottleneckConfig, model_cls=BottleneckModel)
