"""The layers of a model as its safetensors headers tell them, so that what a technique moves is counted without torch.

Names on the disk end as the modules' names do. Experts of a mixture are one tensor a kind once they are open, and no
linear layers; PEFT gives them adapters all the same for the families of `ADAPTED_EXPERTS`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal, NamedTuple

from luthier.models.describe import ModelDescription

ModelPart = Literal["language", "projector", "vision", "audio"]
"""A part of a model of several kinds of input: the decoder with its head, what joins them, the encoders."""
VISION_ENCODERS = ("vision_tower", "vision_model", "visual")
"""What models of several kinds of input call the part that reads pictures."""
AUDIO_ENCODERS = ("audio_tower",)
"""What they call the part that reads sounds."""
ENCODERS = (*VISION_ENCODERS, *AUDIO_ENCODERS)
"""What they call the parts that read pictures and sounds."""
_SPEECH_ENCODER = re.compile(r"(?:^|\.)model\.encoder(?:\.|$)")
"""The encoder of a speech recognition model (Whisper, Moonshine), which stands beside its decoder, and that of Granite
Speech."""
PROJECTORS = (
    "multi_modal_projector", "connector", "merger", "merger_list", "deepstack_merger_list", "projector", "embed_vision",
    "embed_audio",
)  # fmt: skip
"""What they call what stands between such a part and the decoder."""
PROJECTOR_VECTORS = ("image_newline",)
"""What they call vectors beside it, which belong to no layer and so have no adapter."""
HEADS = ("lm_head", "embed_out", "output_projection", "proj_out")
"""What output heads are called."""
_EMBEDDING = re.compile(r"embed|wte|wpe|\bwe\b|position")
_NO_LINEAR = re.compile(r"\.experts\.|\.gate\.weight$|\.router\.(layer\.)?weight$|vision|visual|norm|\.conv")
_NORM = re.compile(r"norm|\bln_|\bln\d")
_BUFFER = re.compile(r"inv_freq$|score_correction_bias$|masked_bias$|\.attn\.bias$|attention\.bias$|rotary_emb")
_TRANSPOSED = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
"""Families whose linear layers are transformers' Conv1D: (inputs, outputs) on the disk."""
ADAPTED_EXPERTS = frozenset((
    "minimax", "minimax_m2", "afmoe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe",
    "glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "glm4v_moe", "longcat_flash", "solar_open", "mellum", "qwen3_moe",
    "qwen3_omni_moe", "qwen3_omni_moe_thinker", "qwen3_omni_moe_text", "qwen3_next", "hunyuan_v1_moe", "flex_olmo",
    "olmoe", "sarvam_mla", "exaone_moe", "cohere2_moe", "mixtral",
))  # fmt: skip
"""Families whose experts and routers PEFT 0.21 adapts when it is asked for all linear layers."""
_GATE_OR_UP = ("gate_proj", "up_proj", "w1", "w3")
_OF_EXPERTS = frozenset({*_GATE_OR_UP, "down_proj", "w2", "gate"})


_for_each_name = lru_cache(maxsize=1 << 16)
"""What a plan asks many times of the same names."""


class LinearLayerSpec(NamedTuple):
    """One linear layer."""

    name: str
    """Its module's path, as far as the disk tells it."""
    inputs: int
    outputs: int
    block: int | None
    """The decoder layer that it stands in, from 0."""
    bias: bool = False

    def called(self, name: str) -> bool:
        """Whether a target of that name means this layer, as PEFT matches names."""
        return self.name == name or self.name.endswith(f".{name}")


def list_linear_layers(model: ModelDescription, parts: Collection[str] = ("language",)) -> list[LinearLayerSpec]:
    """Every linear layer of some parts of a model except the output head, in the order of their names."""
    if not model.tensors:
        return _list_typical_layers(model) if "language" in parts else []
    found = []
    for name, shape in sorted(model.tensors.items()):
        if len(shape) == 2 and name.endswith(".weight") and find_part(name) in parts and not _is_other(name):
            outputs, inputs = shape[::-1] if model.model_type in _TRANSPOSED else shape
            path = name.removesuffix(".weight")
            found.append(
                LinearLayerSpec(path, inputs, outputs, parse_layer_index(name), f"{path}.bias" in model.tensors)
            )
    return found


def select_target_layers(
    model: ModelDescription, targets: str | Sequence[str], parts: Collection[str] = ("language",)
) -> list[LinearLayerSpec]:
    """The linear layers of some parts that targets mean: all of them for `all-linear`, else those called by one of the
    names."""
    linear = list_linear_layers(model, parts)
    if isinstance(targets, str):
        return [linear_layer for linear_layer in linear if not _means_experts(linear_layer.name, model)]
    head = LinearLayerSpec(_head_name(model), model.hidden_size, model.vocab, None)
    every = [*linear, head] if "language" in parts else linear
    chosen = [layer_spec for layer_spec in every if any(layer_spec.called(name) for name in targets)]
    return [layer_spec for layer_spec in chosen if not _means_experts(layer_spec.name, model)]


def count_expert_lora_parameters(model: ModelDescription, targets: str | Sequence[str], rank: int) -> int:
    """Numbers of the LoRA factors that PEFT gives a mixture's routers and experts, which are fused once open.

    Gate and up are one matrix, and its rank is twice as large: r · inputs + 2 r · outputs for each of the two.
    """
    if model.model_type not in ADAPTED_EXPERTS:
        return 0
    total = 0
    for name, shape in model.tensors.items():
        path = name.removesuffix(".weight")
        if not isinstance(targets, str) and not any(
            path == target or path.endswith(f".{target}") for target in targets
        ):
            continue
        if name.endswith(".gate.weight"):
            total += rank * sum(shape)
        elif ".experts." in name and len(shape) == 2 and name.endswith(".weight"):
            outputs, inputs = shape
            total += rank * (inputs + outputs * (2 if path.endswith(_GATE_OR_UP) else 1))
        elif ".experts." in name and len(shape) == 3:
            number, outputs, inputs = shape
            total += rank * number * (inputs + outputs) * (2 if path.endswith("gate_up_proj") else 1)
    return total


def count_frozen_expert_parameters(model: ModelDescription) -> int:
    """Numbers of a mixture's experts when PEFT gives them no adapter, whatever the targets."""
    if model.model_type in ADAPTED_EXPERTS:
        return 0
    return sum(math.prod(shape) for name, shape in model.tensors.items() if ".experts." in name)


def parameter_sizes(model: ModelDescription) -> dict[str, int]:
    """Numbers of each parameter by its name on the disk: buffers, and a head that is tied, left out."""
    tied = {f"{head}.weight" for head in HEADS} if model.tied else set()
    return {
        name: math.prod(shape)
        for name, shape in sorted(model.tensors.items())
        if not _BUFFER.search(name) and name not in tied
    }


@_for_each_name
def find_part(name: str) -> ModelPart:
    """Which part of a model of several kinds of input a parameter belongs to."""
    parts = name.split(".")
    if any(part in PROJECTORS for part in parts) or parts[-1] in PROJECTOR_VECTORS:
        return "projector"
    if any(part in VISION_ENCODERS for part in parts):
        return "vision"
    hears = any(part in AUDIO_ENCODERS for part in parts) or _SPEECH_ENCODER.search(name) is not None
    return "audio" if hears else "language"


@_for_each_name
def parse_layer_index(name: str) -> int | None:
    """The decoder layer that a parameter belongs to; None outside of them."""
    match = re.search(r"(?:^|\.)(\d+)\.", name)
    return int(match[1]) if match else None


def matches_parameter_pattern(name: str, glob: str) -> bool:
    """Whether a parameter's name, or the end of it from some dot on, is what a pattern such as `*.mlp.*` means."""
    return fnmatchcase(name, glob) or fnmatchcase(name, f"*.{glob}")


def is_embedding(name: str) -> bool:
    """Whether a parameter outside the decoder layers embeds tokens or places."""
    return (
        parse_layer_index(name) is None
        and _EMBEDDING.search(name.removesuffix(".weight")) is not None
        and not is_head(name)
    )


def is_fixed_position(name: str) -> bool:
    """Whether a parameter holds the places of an encoder's states, which never move: Whisper's are sines."""
    return find_part(name) == "audio" and name.endswith("encoder.embed_positions.weight")


def is_head(name: str) -> bool:
    """Whether a parameter belongs to the output head."""
    return parse_layer_index(name) is None and any(part in (*HEADS, "score") for part in name.split("."))


def is_norm(name: str) -> bool:
    """Whether a parameter belongs to a normalization."""
    return _NORM.search(name) is not None


@_for_each_name
def _is_other(name: str) -> bool:
    """Whether a matrix belongs to no linear layer, or to the output head."""
    if find_part(name) != "language":
        return _EMBEDDING.search(name) is not None or is_norm(name) or ".conv" in name
    return is_embedding(name) or is_head(name) or _NO_LINEAR.search(name) is not None


def _means_experts(path: str, model: ModelDescription) -> bool:
    """Whether PEFT takes a name to mean the experts, and so leaves out dense layers that are called the same."""
    return model.model_type in ADAPTED_EXPERTS and path.rpartition(".")[2] in _OF_EXPERTS


def _head_name(model: ModelDescription) -> str:
    return next((head for head in HEADS if f"{head}.weight" in model.tensors), HEADS[0])


def _list_typical_layers(model: ModelDescription) -> list[LinearLayerSpec]:
    """The layers of a gated transformer, for a model that is not here yet."""
    q, kv = model.heads * model.head_dim, model.kv_heads * model.head_dim
    wide, narrow = model.intermediate_size, model.hidden_size
    sides = {
        "self_attn.q_proj": (narrow, q),
        "self_attn.k_proj": (narrow, kv),
        "self_attn.v_proj": (narrow, kv),
        "self_attn.o_proj": (q, narrow),
        "mlp.gate_proj": (narrow, wide),
        "mlp.up_proj": (narrow, wide),
        "mlp.down_proj": (wide, narrow),
    }
    return [
        LinearLayerSpec(f"model.layers.{block}.{name}", inputs, outputs, block)
        for block in range(model.layers)
        for name, (inputs, outputs) in sides.items()
    ]
