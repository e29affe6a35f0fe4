"""Bottleneck adapters and soft prompts over a base model.

Bottleneck adapters (Houlsby et al. 2019) are small two-layer networks after or parallel to frozen modules. PEFT has
none: importing this module registers the type `BOTTLENECK` with PEFT, and `PeftModel.from_pretrained` opens such an
adapter only then. The network is nonlinear, so it cannot be merged into the weights.

Soft prompts are the virtual tokens of PEFT's prompt learning. A pack stores them once, as a segment above every root,
and all rows share them. `prompt` and `p_tuning` supply embeddings; `prefix` supplies keys and values for every layer,
so the other outputs at these positions are not used.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import register_peft_method
from torch import Tensor, nn

from luthier.core.errors import ModelError
from luthier.models.media.inputs import build_decoder_inputs
from luthier.models.packing.pack import Pack

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
    """Settings of a bottleneck adapter, as its folder stores them."""

    target_modules: Sequence[str] | None = None
    exclude_modules: Sequence[str] | None = None
    """Modules with the names of targets that get no adapter: those of encoders."""
    size: int = 16
    """Width of the bottleneck."""
    bend: Bend = "relu"
    parallel: bool = False
    """Whether the adapter reads the module's input rather than its output."""
    scale: float = 1.0
    width: int = 0
    """Width of the model."""
    modules_to_save: Sequence[str] | None = None
    """Modules that are trained and saved whole, by name: PEFT puts a sequence head here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(NAME)
        self.target_modules = list(self.target_modules or ())
        self.exclude_modules = list(self.exclude_modules) if self.exclude_modules else None
        self.modules_to_save = list(self.modules_to_save) if self.modules_to_save else None


class BottleneckLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]  # peft has no types
    """A frozen module with an adapter: out + scale · up(activation(down(h))), h its output, or its input
    when parallel.
    """

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
        """Add an adapter, in fp32; the up-projection is zero, so that nothing changes at first."""
        device = next(self.base_layer.parameters()).device
        self.settings[adapter_name] = config
        self.bottleneck_down[adapter_name] = nn.Linear(config.width, config.size, device=device)
        self.bottleneck_up[adapter_name] = nn.Linear(config.size, config.width, device=device)
        for parameter in self.bottleneck_up[adapter_name].parameters():
            nn.init.zeros_(parameter)
        own: Any = self
        own.set_adapter(own.active_adapters, inference_mode=config.inference_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the module's output, with the adapters' outputs added to its first tensor."""
        output = self.base_layer(*args, **kwargs)
        out = output[0] if isinstance(output, tuple) else output
        own: Any = self
        for name in () if own.disable_adapters else own.active_adapters:
            if name in self.bottleneck_down:
                given = _get_first_input(args, kwargs) if self.settings[name].parallel else out
                out = (out.float() + self._add_adapter(name, given)).to(out.dtype)
        return (out, *output[1:]) if isinstance(output, tuple) else out

    def _add_adapter(self, name: str, given: Tensor) -> Tensor:
        down, up, settings = self.bottleneck_down[name], self.bottleneck_up[name], self.settings[name]
        added: Tensor = up(_BENDS[settings.bend](down(given.to(next(down.parameters()).dtype))))
        return added * settings.scale


def _get_first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    given: Tensor = args[0] if args else next(iter(kwargs.values()))
    return given


class BottleneckModel(BaseTuner):  # type: ignore[misc]  # peft has no types
    """Adds bottleneck adapters to a model."""

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


@dataclass(frozen=True, eq=False)
class SoftPrompt:
    """Virtual tokens, differentiable, in the dtype of the model's computation; empty for most models."""

    count: int = 0
    embeddings: Tensor | None = None  # (count, width): what stands in the place of token embeddings
    cached: tuple[tuple[Tensor, Tensor], ...] = ()  # by layer: keys and values (1, key heads, count, d)
    leaves: Tensor | None = None  # (T, width): embeddings of a pack's own tokens, to take their gradient

    def above(self, pack: Pack) -> Pack:
        """Return the pack with the virtual tokens above every root; their ids are 0 and have no meaning."""
        if not self.count:
            return pack
        return replace(
            pack,
            ids=torch.cat([pack.ids.new_zeros(self.count), pack.ids]),
            positions=torch.cat([torch.arange(self.count, device=pack.ids.device), pack.positions + self.count]),
            parent=torch.cat([pack.parent.new_full((1,), -1), (pack.parent + 1).clamp_min(0)]),
            starts=torch.cat([pack.starts.new_zeros(1), pack.starts + self.count]),
            sources=pack.sources + self.count,
            leaf=torch.where(pack.leaf < 0, pack.leaf, pack.leaf + 1),
        )

    def inputs(self, model: Any, ids: Tensor) -> dict[str, Any]:
        """Return the model inputs for (rows, tokens) ids after the virtual tokens."""
        own = build_decoder_inputs(model, ids)
        if self.embeddings is None:
            return own
        words = own["inputs_embeds"] if "inputs_embeds" in own else model.get_input_embeddings()(ids)
        if "visual_pos_masks" in own:
            media_mask = own["visual_pos_masks"]
            own["visual_pos_masks"] = torch.cat([media_mask.new_zeros(len(media_mask), self.count), media_mask], 1)
        own.pop("input_ids", None)
        return {**own, "inputs_embeds": torch.cat([self.embeddings.expand(ids.shape[0], -1, -1), words], 1)}

    def inputs_of(self, model: Any, pack: Pack) -> dict[str, Any]:
        """Return the model inputs for a pack below the virtual tokens."""
        inputs = self.inputs(model, pack.ids[None, 0 if self.embeddings is None else self.count :])
        if self.leaves is None:
            return inputs
        own = inputs.get("inputs_embeds")
        if own is None:
            own = model.get_input_embeddings()(inputs.pop("input_ids"))
        end = self.count + self.leaves.shape[0]
        return {**inputs, "inputs_embeds": torch.cat([own[:, : self.count], self.leaves[None], own[:, end:]], 1)}

    def inputs_of_rows(self, model: Any, ids: Tensor, pack: Pack, rows: Sequence[int]) -> dict[str, Any]:
        """Return the model inputs for some of a pack's rows (rows, tokens), padded at their ends, after the virtual
        tokens.
        """
        inputs = self.inputs(model, ids)
        if self.leaves is None:
            return inputs
        apart = [torch.cat([self.leaves[span] for span in pack.spans(row)]) for row in rows]
        leaves = torch.nn.utils.rnn.pad_sequence(apart, batch_first=True)
        ahead = inputs["inputs_embeds"][:, : self.count] if self.embeddings is not None else leaves[:, :0]
        inputs.pop("input_ids", None)
        return {**inputs, "inputs_embeds": torch.cat([ahead, leaves], 1)}

    def past(self, model: Any, rows: int) -> dict[str, Any]:
        """Return, as a keyword argument, a cache with only the virtual tokens' keys and values, if they have any."""
        from transformers import DynamicCache

        return {get_cache_argument_name(model): self.fill(DynamicCache(), rows)} if self.cached else {}

    def fill(self, cache: Any, rows: int) -> Any:
        """Return the cache with the virtual tokens' keys and values for each row."""
        for layer, (keys, values) in enumerate(self.cached):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        return cache


def get_cache_argument_name(model: Any) -> str:
    """Return the name of a model's cache argument, which transformers renamed."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


NO_PROMPT = SoftPrompt()


def compute_soft_prompt(model: Any) -> SoftPrompt:
    """Return the virtual tokens of PEFT's model at the current weights; empty for other models, or when disabled."""
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning or model._adapters_disabled:
        return NO_PROMPT
    count, kind = config.num_virtual_tokens, config.peft_type.value
    if kind not in _KINDS:
        raise ModelError(f"{kind} adapters cannot be read", hint=f"soft prompts that can: {', '.join(_KINDS)}")
    given = _encode_prompt(model.prompt_encoder[model.active_adapter], config).to(model.get_base_model().dtype)
    if kind != "PREFIX_TUNING":
        return SoftPrompt(count, embeddings=given)
    by_layer = given.view(count, config.num_layers, 2, config.num_attention_heads, -1).permute(1, 2, 3, 0, 4)
    return SoftPrompt(count, cached=tuple((layer[0][None], layer[1][None]) for layer in by_layer))


_KINDS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")


def _encode_prompt(encoder: Any, config: Any) -> Tensor:
    """Return (count, numbers of a token): the saved embeddings, or the encoder's output during training."""
    weight: Tensor = encoder.embedding.weight
    if config.inference_mode:
        return weight
    encoded: Tensor = encoder(torch.arange(config.num_virtual_tokens, device=weight.device)[None])[0]
    return encoded
