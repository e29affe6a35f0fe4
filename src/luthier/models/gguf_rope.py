"""Rotary positions in llama.cpp's terms, as they are or scaled: linearly, as Llama 3's, or by LongRoPE (Phi-3).

A file holds the factors that follow from Llama 3's scaling and not its settings, which are found again from them.
LongRoPE has one set of factors for short texts and one for long ones. transformers takes the one or the other by the
text, llama.cpp by the context that it was started with, so that a file's context is that of the short ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError

if TYPE_CHECKING:
    import torch
    from gguf import GGUFWriter

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Llama 3's scaling, its factor aside."""
FACTORS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
"""Tensors that divide the frequencies."""


def head_size(config: Any) -> int:
    """Values of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def rope_of(config: Any) -> dict[str, Any]:
    """The rotary positions of layers that see the whole text."""
    told: dict[str, Any] = config.rope_parameters
    found: dict[str, Any] = told.get("full_attention", told)
    return found


def kind_of(config: Any) -> str:
    """How they are scaled, by transformers' name."""
    return str(rope_of(config).get("rope_type", "default"))


def say_rope(writer: GGUFWriter, config: Any) -> None:
    """Write the numbers of the rotary positions."""
    from gguf import RopeScalingType

    rope = rope_of(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(head_size(config) * rope.get("partial_rotary_factor", 1.0)))
    if kind_of(config) == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind_of(config) == "longrope":
        writer.add_rope_scaling_attn_factors(_attention_factor(config))


def rope_tensors(config: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """What the frequencies are divided by, where they are."""
    import torch

    rope = rope_of(config)
    if kind_of(config) == "llama3":
        yield FACTORS, _llama3_factors(config)
    elif kind_of(config) == "longrope":
        yield LONG, torch.tensor(rope["long_factor"], dtype=torch.float32)
        yield SHORT, torch.tensor(rope["short_factor"], dtype=torch.float32)


def read_rope(config: Any, said: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Complete the rotary positions from what a file says below its architecture's name, and from its tensors."""
    rope = rope_of(config)
    rope["rope_theta"] = said.get("rope.freq_base", 10000.0)
    if said.get("rope.dimension_count", head_size(config)) != head_size(config):
        rope["partial_rotary_factor"] = said["rope.dimension_count"] / head_size(config)
    kind, factor = said.get("rope.scaling.type", "linear"), said.get("rope.scaling.factor", 1.0)
    if LONG in tensors and SHORT in tensors:
        rope |= {"rope_type": "longrope", "attention_factor": said.get("rope.scaling.attn_factor", 1.0)}
        rope |= {"long_factor": tensors[LONG].tolist(), "short_factor": tensors[SHORT].tolist()}
        rope["original_max_position_embeddings"] = said["rope.scaling.original_context_length"]
    elif kind not in ("none", "linear"):
        raise ModelError(f"its {kind!r} rotary positions are not read")
    elif FACTORS in tensors:
        _read_llama3(config, tensors[FACTORS])
    elif kind == "linear" and factor not in (0.0, 1.0):
        rope |= {"rope_type": "linear", "factor": factor}


def _attention_factor(config: Any) -> float:
    """By how much LongRoPE sharpens attention."""
    rope = rope_of(config)
    if (told := rope.get("attention_factor")) is not None:
        return float(told)
    original = rope["original_max_position_embeddings"]
    factor = rope.get("factor") or config.max_position_embeddings / original
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def _read_llama3(config: Any, factors: torch.Tensor) -> None:
    rope = rope_of(config)
    rope |= {"rope_type": "llama3", **LLAMA3}
    share, slowest = float(_share_kept(config)[-1]), float(factors[-1])
    rope["factor"] = (1 - share) / max(1 / slowest - share, 1e-9)
    if not _llama3_factors(config).allclose(factors, rtol=1e-3):
        raise ModelError("its factors of rotary positions are not Llama 3's, and are not read")


def _llama3_factors(config: Any) -> torch.Tensor:
    """How often each rotary frequency is divided: by 1 where it is quick, by `factor` where it is slow."""
    share = _share_kept(config)
    kept: torch.Tensor = share + (1 - share) / rope_of(config)["factor"]
    return (1 / kept).float()


def _share_kept(config: Any) -> torch.Tensor:
    """Share of each rotary frequency that Llama 3's scaling leaves as it is, the quickest first."""
    import torch

    rope, size = rope_of(config), head_size(config)
    slow, quick = rope["low_freq_factor"], rope["high_freq_factor"]
    turns: torch.Tensor = rope["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size) / (2 * math.pi)
    share: torch.Tensor = (turns * rope["original_max_position_embeddings"] - slow) / (quick - slow)
    return share.clamp(0, 1)
