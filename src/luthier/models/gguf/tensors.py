"""GGUF names, shapes and metadata of each architecture, and the parameters of rotary embeddings.

An entry maps a transformers architecture to llama.cpp: its name, its hyperparameters and its weights. Writing and
reading use the same entry. Reading needs it because transformers' reader omits values (the head size, scaled rotary
embeddings) and then uses the defaults of another checkpoint. A model that llama.cpp cannot express is refused with the
reason.

Rotary embeddings are unscaled, or scaled linearly, as Llama 3's, or by LongRoPE (Phi-3). A file holds the factors of
Llama 3's scaling, not its settings; reading recovers the settings from the factors. LongRoPE has one set of factors for
short texts and one for long texts. transformers chooses by the text and llama.cpp by the context size at start, so the
context length in the file is that of the short factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError

if TYPE_CHECKING:
    import torch
    from gguf import GGUFWriter

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Parameters of Llama 3's rope scaling, except its factor."""
FACTORS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
"""Tensors that divide the rotary frequencies."""


def head_size(config: Any) -> int:
    """Return the dimension of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def get_rope_parameters(config: Any) -> dict[str, Any]:
    """Return the rotary parameters of full-attention layers."""
    params: dict[str, Any] = config.rope_parameters
    parameters: dict[str, Any] = params.get("full_attention", params)
    return parameters


def get_rope_type(config: Any) -> str:
    """Return the kind of rope scaling, by transformers' name."""
    return str(get_rope_parameters(config).get("rope_type", "default"))


def write_rope_metadata(writer: GGUFWriter, config: Any) -> None:
    """Write the metadata of the rotary embeddings."""
    from gguf import RopeScalingType

    rope = get_rope_parameters(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(head_size(config) * rope.get("partial_rotary_factor", 1.0)))
    if get_rope_type(config) == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif get_rope_type(config) == "longrope":
        writer.add_rope_scaling_attn_factors(_attention_factor(config))


def build_rope_factors(config: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the divisors of the rotary frequencies, where there are some."""
    import torch

    rope = get_rope_parameters(config)
    if get_rope_type(config) == "llama3":
        yield FACTORS, _llama3_factors(config)
    elif get_rope_type(config) == "longrope":
        yield LONG, torch.tensor(rope["long_factor"], dtype=torch.float32)
        yield SHORT, torch.tensor(rope["short_factor"], dtype=torch.float32)


def complete_rope_parameters(config: Any, metadata: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Complete the rotary parameters from a file's metadata and tensors."""
    rope = get_rope_parameters(config)
    rope["rope_theta"] = metadata.get("rope.freq_base", 10000.0)
    if metadata.get("rope.dimension_count", head_size(config)) != head_size(config):
        rope["partial_rotary_factor"] = metadata["rope.dimension_count"] / head_size(config)
    kind, factor = metadata.get("rope.scaling.type", "linear"), metadata.get("rope.scaling.factor", 1.0)
    if LONG in tensors and SHORT in tensors:
        rope |= {"rope_type": "longrope", "attention_factor": metadata.get("rope.scaling.attn_factor", 1.0)}
        rope |= {"long_factor": tensors[LONG].tolist(), "short_factor": tensors[SHORT].tolist()}
        rope["original_max_position_embeddings"] = metadata["rope.scaling.original_context_length"]
    elif kind not in ("none", "linear"):
        raise ModelError(f"its {kind!r} rotary positions are not read")
    elif FACTORS in tensors:
        _read_llama3(config, tensors[FACTORS])
    elif kind == "linear" and factor not in (0.0, 1.0):
        rope |= {"rope_type": "linear", "factor": factor}


def _attention_factor(config: Any) -> float:
    """Return LongRoPE's factor on attention scores."""
    rope = get_rope_parameters(config)
    if (attention_factor := rope.get("attention_factor")) is not None:
        return float(attention_factor)
    original = rope["original_max_position_embeddings"]
    factor = rope.get("factor") or config.max_position_embeddings / original
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def _read_llama3(config: Any, factors: torch.Tensor) -> None:
    rope = get_rope_parameters(config)
    rope |= {"rope_type": "llama3", **LLAMA3}
    share, slowest = float(_share_kept(config)[-1]), float(factors[-1])
    rope["factor"] = (1 - share) / max(1 / slowest - share, 1e-9)
    if not _llama3_factors(config).allclose(factors, rtol=1e-3):
        raise ModelError("its factors of rotary positions are not Llama 3's, and are not read")


def _llama3_factors(config: Any) -> torch.Tensor:
    """Return the divisor of each rotary frequency: 1 for high ones, `factor` for low ones."""
    share = _share_kept(config)
    kept: torch.Tensor = share + (1 - share) / get_rope_parameters(config)["factor"]
    return (1 / kept).float()


def _share_kept(config: Any) -> torch.Tensor:
    """Return the share of each rotary frequency that Llama 3's scaling keeps, highest first."""
    import torch

    rope, size = get_rope_parameters(config), head_size(config)
    slow, quick = rope["low_freq_factor"], rope["high_freq_factor"]
    turns: torch.Tensor = rope["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size) / (2 * math.pi)
    share: torch.Tensor = (turns * rope["original_max_position_embeddings"] - slow) / (quick - slow)
    return share.clamp(0, 1)


Config = Any
"""A model's transformers configuration."""
Rule = tuple[str, Callable[[Config], bool]]
"""A feature that llama.cpp does not support, and whether a model has it."""

_DECODER = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "vocab_size": "vocab_size",
}
_HEAD = {"attention.key_length": "head_dim", "attention.value_length": "head_dim"}
_EXPERTS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
_FRACTIONS = ("epsilon", "softcapping")
"""Suffixes of metadata keys that are not integers."""


@dataclass(frozen=True)
class GgufArchitecture:
    """How llama.cpp represents one architecture."""

    name: str
    """llama.cpp's name of the architecture."""
    numbers: Mapping[str, str] = field(default_factory=lambda: _DECODER)
    """llama.cpp's keys, below its name, to the attributes of transformers' configuration."""
    activation: str = "silu"
    alter: Callable[[str, torch.Tensor, Config], torch.Tensor] = lambda key, values, config: values
    """Converts a weight, by transformers' name, to llama.cpp's layout."""
    scalings: tuple[str, ...] = ("linear",)
    """Supported kinds of rope scaling; empty where positions are not rotary."""
    bounded: bool = False
    """Whether llama.cpp lacks the model's attention window, so that the context is limited to it."""
    rules: tuple[Rule, ...] = ()
    complete: Callable[[Config], None] = lambda config: None
    """Sets what llama.cpp assumes of such a model."""

    def why_not(self, config: Config) -> str | None:
        """Return why the model cannot be written; None when it can."""
        if self.scalings and get_rope_type(config) not in ("default", *self.scalings):
            return f"{get_rope_type(config)!r} rotary positions"
        if (act := _activation(config)) != self.activation:
            return f"the activation {act!r}"
        return next((feature for feature, has in self.rules if has(config)), None)

    def say(self, writer: GGUFWriter, config: Config) -> None:
        """Write the model's metadata."""
        for key, attribute in self.numbers.items():
            value = self._context(config) if key == "context_length" else getattr(config, attribute, None)
            add = writer.add_float32 if key.endswith(_FRACTIONS) else writer.add_uint32
            add(f"{self.name}.{key}", _IMPLIED[attribute](config) if value is None else value)
        if self.scalings:
            write_rope_metadata(writer, config)

    def more(self, config: Config) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield tensors that represent settings of the configuration."""
        if self.scalings:
            yield from build_rope_factors(config)

    def read(self, config: Config, metadata: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Complete a configuration from a file; `ModelError` where transformers cannot express it.

        `metadata` are the file's values below the architecture's name, `tensors` those that represent settings.
        """
        for key, attribute in self.numbers.items():
            if key in metadata:
                setattr(config, attribute, metadata[key])
        if self.scalings:
            complete_rope_parameters(config, metadata, tensors)
        self.complete(config)

    def _context(self, config: Config) -> int:
        most: int = config.max_position_embeddings  # GPT-2 has it by this name, too
        if self.scalings and get_rope_type(config) == "longrope":
            most = min(most, config.original_max_position_embeddings)
        return min(most, getattr(config, "sliding_window", None) or most) if self.bounded else most


_IMPLIED: dict[str, Callable[[Config], int]] = {
    "head_dim": head_size,
    "n_inner": lambda config: 4 * int(config.n_embd),
}
"""Values that follow from other settings where a configuration omits them."""


def _activation(config: Config) -> str | None:
    names = ("hidden_activation", "hidden_act", "activation_function")
    return next((str(activation) for name in names if (activation := getattr(config, name, None))), None)


def _interleaved(key: str, values: torch.Tensor, config: Config) -> torch.Tensor:
    """Convert transformers' rotary order (two halves) to llama.cpp's (interleaved pairs), by head."""
    heads = {"q_proj.weight": config.num_attention_heads, "k_proj.weight": config.num_key_value_heads}
    for end, number in heads.items():
        if key.endswith(end):
            rows, columns = values.shape
            return values.view(number, 2, rows // number // 2, columns).transpose(1, 2).reshape(rows, columns)
    return values


def _plus_one(key: str, values: torch.Tensor, config: Config) -> torch.Tensor:
    """Add one: Gemma's norms scale by one more than their weight; llama.cpp's by the weight."""
    return values + 1 if key.endswith("norm.weight") else values


def _transpose_conv1d(key: str, values: torch.Tensor, config: Config) -> torch.Tensor:
    """Transpose GPT-2's matrices."""
    return values.T if key.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")) else values


def _flat_gate(key: str, values: torch.Tensor, config: Config) -> torch.Tensor:
    return values.squeeze(0) if key.endswith("shared_expert_gate.weight") else values


def _odd_heads(config: Config) -> bool:
    return head_size(config) * int(config.num_attention_heads) != int(config.hidden_size)


def _windows(config: Config) -> bool:
    return "sliding_attention" in (getattr(config, "layer_types", None) or ())


def _other_windows(every: int) -> Callable[[Config], bool]:
    """Return whether layers other than every `every`th have full attention."""

    def other(config: Config) -> bool:
        whole = [(layer + 1) % every == 0 for layer in range(config.num_hidden_layers)]
        return [kind == "full_attention" for kind in config.layer_types] != whole

    return other


def _scale(largest: int) -> Callable[[Config], int]:
    """Return the number whose root divides llama.cpp's attention for Gemma: the largest model, known by its layers,
    differs.
    """

    def scale(config: Config) -> int:
        if config.num_hidden_layers == largest:
            return int(config.hidden_size // config.num_attention_heads)
        return head_size(config)

    return scale


def _gemma(largest: int, every: int) -> tuple[tuple[Rule, ...], Callable[[Config], None]]:
    scale = _scale(largest)
    rules: tuple[Rule, ...] = (
        ("attention biases", lambda config: config.attention_bias),
        ("attention in both directions", lambda config: bool(getattr(config, "use_bidirectional_attention", None))),
        (f"other sliding attention than all but each {every}th layer's", _other_windows(every)),
        ("another scale of attention than llama.cpp's", lambda config: config.query_pre_attn_scalar != scale(config)),
    )

    def complete(config: Config) -> None:
        config.query_pre_attn_scalar = scale(config)

    return rules, complete


_BIASED: Rule = ("attention biases", lambda config: config.attention_bias)
_SLIDING: Rule = ("sliding attention", _windows)
_ODD: Rule = ("heads that do not make up the hidden size", _odd_heads)
_DENSE: Rule = (
    "layers without experts among others",
    lambda config: config.decoder_sparse_step != 1 or bool(config.mlp_only_layers),
)
_OTHER_LLAMA3: Rule = (
    "rotary positions scaled otherwise than Llama 3's",
    lambda config: (
        get_rope_type(config) == "llama3"
        and any(get_rope_parameters(config).get(name) != value for name, value in LLAMA3.items())
    ),
)
_GEMMA2, _COMPLETE_GEMMA2 = _gemma(46, 2)
_GEMMA3, _COMPLETE_GEMMA3 = _gemma(62, 6)
_WINDOW = {"attention.sliding_window": "sliding_window"}
_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")

SHAPES = {
    "llama": GgufArchitecture(
        "llama",
        numbers=_DECODER | _HEAD,
        alter=_interleaved,
        scalings=("linear", "llama3"),
        rules=(_BIASED, ("biases", lambda config: config.mlp_bias), _OTHER_LLAMA3),
    ),
    "mistral": GgufArchitecture("llama", numbers=_DECODER | _HEAD, alter=_interleaved, bounded=True),
    "qwen2": GgufArchitecture("qwen2", rules=(_SLIDING, _ODD)),
    "qwen3": GgufArchitecture("qwen3", numbers=_DECODER | _HEAD, rules=(_BIASED, _SLIDING)),
    "phi3": GgufArchitecture(
        "phi3",
        numbers=_DECODER | {"rope.scaling.original_context_length": "original_max_position_embeddings"},
        scalings=("longrope",),
        bounded=True,
        rules=(_ODD,),
    ),
    "gemma2": GgufArchitecture(
        "gemma2",
        numbers=_DECODER | _HEAD | _WINDOW | {name: name for name in _CAPS},
        activation="gelu_pytorch_tanh",
        alter=_plus_one,
        rules=(*_GEMMA2, ("no bound on its logits", lambda config: any(not getattr(config, name) for name in _CAPS))),
        complete=_COMPLETE_GEMMA2,
    ),
    "gemma3_text": GgufArchitecture(
        "gemma3",
        numbers=_DECODER | _HEAD | _WINDOW,
        activation="gelu_pytorch_tanh",
        alter=_plus_one,
        rules=(
            *_GEMMA3,
            ("a bound on its logits", lambda config: any(getattr(config, name) for name in _CAPS)),
            (
                "other rotary positions in its windows than Gemma's",
                lambda config: (
                    config.rope_parameters["sliding_attention"] != {"rope_type": "default", "rope_theta": 10000.0}
                ),
            ),
        ),
        complete=_COMPLETE_GEMMA3,
    ),
    "gpt2": GgufArchitecture(
        "gpt2",
        numbers={
            "block_count": "n_layer",
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
            "vocab_size": "vocab_size",
        },
        activation="gelu_new",
        alter=_transpose_conv1d,
        scalings=(),
        rules=(
            (
                "another scale of attention than llama.cpp's",
                lambda config: not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx,
            ),
        ),
    ),
    "qwen2_moe": GgufArchitecture(
        "qwen2moe",
        numbers=_DECODER | _EXPERTS | {"expert_shared_feed_forward_length": "shared_expert_intermediate_size"},
        alter=_flat_gate,
        rules=(
            _SLIDING,
            _ODD,
            _DENSE,
            ("a head that is tied to the embeddings", lambda config: config.tie_word_embeddings),
            ("shares of experts that add up to one", lambda config: config.norm_topk_prob),
        ),
    ),
    "qwen3_moe": GgufArchitecture(
        "qwen3moe",
        numbers=_DECODER | _HEAD | _EXPERTS,
        rules=(
            _BIASED,
            _SLIDING,
            _DENSE,
            ("shares of experts that do not add up to one", lambda config: not config.norm_topk_prob),
        ),
    ),
}
"""llama.cpp's representation by transformers' model type, for writing."""


def find_architecture(name: str) -> GgufArchitecture | None:
    """Return llama.cpp's architecture named `name`; None when it is not supported."""
    return next((shape for shape in SHAPES.values() if shape.name == name), None)
