"""Linear layers and parameters of a model from its safetensors headers, to count a technique's parameters without
torch.

Names on disk end like the modules' names. Experts of a mixture are fused tensors in memory rather than linear layers;
PEFT adapts them nevertheless for the families of `ADAPTED_EXPERTS`.
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
"""A part of a multimodal model: the decoder with its head, the projector, the encoders."""
VISION_ENCODERS = ("vision_tower", "vision_model", "visual")
"""Names of image encoders in multimodal models."""
AUDIO_ENCODERS = ("audio_tower",)
"""Names of audio encoders."""
ENCODERS = (*VISION_ENCODERS, *AUDIO_ENCODERS)
"""Names of image and audio encoders."""
_SPEECH_ENCODER = re.compile(r"(?:^|\.)model\.encoder(?:\.|$)")
"""The encoder of a speech recognition model (Whisper, Moonshine), next to its decoder, and that of Granite Speech."""
PROJECTORS = (
    "multi_modal_projector", "connector", "merger", "merger_list", "deepstack_merger_list", "projector", "embed_vision",
    "embed_audio",
)  # fmt: skip
"""Names of projectors between an encoder and the decoder."""
PROJECTOR_VECTORS = ("image_newline",)
"""Names of vectors in a projector outside of any layer, which get no adapter."""
HEADS = ("lm_head", "embed_out", "output_projection", "proj_out")
"""Names of output heads."""
_EMBEDDING = re.compile(r"embed|wte|wpe|\bwe\b|position")
_NO_LINEAR = re.compile(r"\.experts\.|\.gate\.weight$|\.router\.(layer\.)?weight$|vision|visual|norm|\.conv")
_NORM = re.compile(r"norm|\bln_|\bln\d")
_BUFFER = re.compile(r"inv_freq$|score_correction_bias$|masked_bias$|\.attn\.bias$|attention\.bias$|rotary_emb")
_TRANSPOSED = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
"""Families whose linear layers are transformers' Conv1D: (inputs, outputs) on disk."""
ADAPTED_EXPERTS = frozenset((
    "minimax", "minimax_m2", "afmoe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe",
    "glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "glm4v_moe", "longcat_flash", "solar_open", "mellum", "qwen3_moe",
    "qwen3_omni_moe", "qwen3_omni_moe_thinker", "qwen3_omni_moe_text", "qwen3_next", "hunyuan_v1_moe", "flex_olmo",
    "olmoe", "sarvam_mla", "exaone_moe", "cohere2_moe", "mixtral",
))  # fmt: skip
"""Families whose experts and routers PEFT 0.21 adapts under `all-linear`."""
_GATE_OR_UP = ("gate_proj", "up_proj", "w1", "w3")
_OF_EXPERTS = frozenset({*_GATE_OR_UP, "down_proj", "w2", "gate"})


_for_each_name = lru_cache(maxsize=1 << 16)
"""Caches functions of a parameter name, which a plan calls often."""


class LinearLayerSpec(NamedTuple):
    """One linear layer."""

    name: str
    """Its module's path, as on disk."""
    inputs: int
    outputs: int
    block: int | None
    """Index of its decoder layer."""
    bias: bool = False

    def called(self, name: str) -> bool:
        """Return whether a target of that name selects this layer, as PEFT matches names."""
        return self.name == name or self.name.endswith(f".{name}")


def list_linear_layers(model: ModelDescription, parts: Collection[str] = ("language",)) -> list[LinearLayerSpec]:
    """Return every linear layer of some parts of a model except the output head, in the order of their names."""
    if not model.tensors:
        return _list_typical_layers(model) if "language" in parts else []
    layers = []
    for name, shape in sorted(model.tensors.items()):
        if len(shape) == 2 and name.endswith(".weight") and find_part(name) in parts and not _is_other(name):
            outputs, inputs = shape[::-1] if model.model_type in _TRANSPOSED else shape
            path = name.removesuffix(".weight")
            layers.append(
                LinearLayerSpec(path, inputs, outputs, parse_layer_index(name), f"{path}.bias" in model.tensors)
            )
    return layers


def select_target_layers(
    model: ModelDescription, targets: str | Sequence[str], parts: Collection[str] = ("language",)
) -> list[LinearLayerSpec]:
    """Return the linear layers of some parts that targets select: all for `all-linear`, else those with one of the
    names.
    """
    linear = list_linear_layers(model, parts)
    if isinstance(targets, str):
        return [linear_layer for linear_layer in linear if not _means_experts(linear_layer.name, model)]
    head = LinearLayerSpec(_head_name(model), model.hidden_size, model.vocab, None)
    every = [*linear, head] if "language" in parts else linear
    chosen = [layer_spec for layer_spec in every if any(layer_spec.called(name) for name in targets)]
    return [layer_spec for layer_spec in chosen if not _means_experts(layer_spec.name, model)]


def count_expert_lora_parameters(model: ModelDescription, targets: str | Sequence[str], rank: int) -> int:
    """Return the LoRA parameters that PEFT adds to a mixture's routers and experts, which are fused in memory.

    Gate and up are one matrix, with twice the rank: r · inputs + 2 r · outputs for each of the two.
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
    """Return the parameters of a mixture's experts when PEFT does not adapt them, whatever the targets."""
    if model.model_type in ADAPTED_EXPERTS:
        return 0
    return sum(math.prod(shape) for name, shape in model.tensors.items() if ".experts." in name)


def parameter_sizes(model: ModelDescription) -> dict[str, int]:
    """Return the size of each parameter by its name on disk, without buffers and a tied head."""
    tied = {f"{head}.weight" for head in HEADS} if model.tied else set()
    return {
        name: math.prod(shape)
        for name, shape in sorted(model.tensors.items())
        if not _BUFFER.search(name) and name not in tied
    }


@_for_each_name
def find_part(name: str) -> ModelPart:
    """Return the part of a multimodal model that a parameter belongs to."""
    parts = name.split(".")
    if any(part in PROJECTORS for part in parts) or parts[-1] in PROJECTOR_VECTORS:
        return "projector"
    if any(part in VISION_ENCODERS for part in parts):
        return "vision"
    hears = any(part in AUDIO_ENCODERS for part in parts) or _SPEECH_ENCODER.search(name) is not None
    return "audio" if hears else "language"


@_for_each_name
def parse_layer_index(name: str) -> int | None:
    """Return the index of a parameter's decoder layer; None outside of them."""
    match = re.search(r"(?:^|\.)(\d+)\.", name)
    return int(match[1]) if match else None


def matches_parameter_pattern(name: str, glob: str) -> bool:
    """Return whether a pattern such as `*.mlp.*` matches a parameter's name, or a suffix of it after a dot."""
    return fnmatchcase(name, glob) or fnmatchcase(name, f"*.{glob}")


def is_embedding(name: str) -> bool:
    """Return whether a parameter outside the decoder layers is a token or position embedding."""
    return (
        parse_layer_index(name) is None
        and _EMBEDDING.search(name.removesuffix(".weight")) is not None
        and not is_head(name)
    )


def is_fixed_position(name: str) -> bool:
    """Return whether a parameter is an encoder's fixed position table: Whisper's are sinusoids."""
    return find_part(name) == "audio" and name.endswith("encoder.embed_positions.weight")


def is_head(name: str) -> bool:
    """Return whether a parameter belongs to the output head."""
    return parse_layer_index(name) is None and any(part in (*HEADS, "score") for part in name.split("."))


def is_norm(name: str) -> bool:
    """Return whether a parameter belongs to a normalization layer."""
    return _NORM.search(name) is not None


@_for_each_name
def _is_other(name: str) -> bool:
    """Return whether a matrix belongs to no linear layer, or to the output head."""
    if find_part(name) != "language":
        return _EMBEDDING.search(name) is not None or is_norm(name) or ".conv" in name
    return is_embedding(name) or is_head(name) or _NO_LINEAR.search(name) is not None


def _means_experts(path: str, model: ModelDescription) -> bool:
    """Return whether PEFT takes a name to mean the experts, and so skips dense layers of the same name."""
    return model.model_type in ADAPTED_EXPERTS and path.rpartition(".")[2] in _OF_EXPERTS


def _head_name(model: ModelDescription) -> str:
    return next((head for head in HEADS if f"{head}.weight" in model.tensors), HEADS[0])


def _list_typical_layers(model: ModelDescription) -> list[LinearLayerSpec]:
    """Return the layers of a gated transformer, for a model that does not exist yet."""
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
