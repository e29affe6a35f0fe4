"""Prefix tuning: trained keys and values of virtual tokens in every layer, in PEFT's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.core.errors import ModelError
from luthier.core.param_space import ParamDistribution
from luthier.core.step import Merging
from luthier.models.describe import ModelDescription
from luthier.models.sequence_head import get_peft_task_type
from luthier.tune.soft_prompts import choose_initial_token_ids, estimate_footprint, validate_init_text, wrap_with_peft
from luthier.tune.technique import LearningRate, Technique, write_adapter

BEST_RATE = 1e-2
"""As PEFT's own examples take it, for keys and values that are learnt as they are. SmolLM2-135M on seven intents (40
steps of 8 rows): loss from 3.7 to 0.27, accuracy 0.65, base 0.51."""
ENCODER_RATE = 1e-3
"""For the weights of a network, which move all virtual tokens together: PEFT's for such networks, not measured here."""
REMEDY = "tune with prompt, or a technique such as lora"


class PrefixTuning(Technique):
    """Keys and values of virtual tokens in every layer (Li and Liang, 2021): more to learn with than a soft prompt, at
    the same cost while answering, over a frozen model that many tasks share."""

    kind: Literal["prefix"] = "prefix"
    merging: ClassVar[Merging] = "never"
    num_virtual_tokens: int = Field(default=10, ge=1, le=1024)
    """Number of virtual tokens. Li and Liang use 10 for table-to-text and 200 for summaries."""
    init: Literal["vocabulary", "text", "random"] = "vocabulary"
    """Initial keys and values: those that the model computes for random tokens of its vocabulary, for a text, or noise.
    Real words beat noise clearly on little data (Li and Liang, section 7.4)."""
    text: str | None = None
    """The instruction that `init: text` starts from, repeated to the full length, and no longer than
    `num_virtual_tokens`."""
    encoder_hidden_size: int | None = Field(default=None, ge=1)
    """Width of a network that computes the keys and values during training, which stabilizes it (Li and Liang, section
    4.3); it starts at random, and only its output is kept. None: they are trained directly."""

    @model_validator(mode="after")
    def _start_is_possible(self) -> Self:
        validate_init_text(self.init, self.text)
        if self.encoder_hidden_size is not None and self.init != "random":
            raise ValueError(
                "what a network makes can only start at random: set `init: random` beside `encoder_hidden_size`"
            )
        return self

    def adapt(self, model: Any, seed: int) -> Any:
        """Return PEFT's model with fp32 keys and values, or the network that computes them."""
        from peft import PrefixTuningConfig, initialize_kv_prefix_from_past_key_values

        started = _computed(model, choose_initial_token_ids(model, self.text, self.num_virtual_tokens, seed))
        config = PrefixTuningConfig(
            task_type=get_peft_task_type(model),
            num_virtual_tokens=self.num_virtual_tokens,
            prefix_projection=self.encoder_hidden_size is not None,
            encoder_hidden_size=self.encoder_hidden_size,
        )
        wrapped = wrap_with_peft(model, config, seed)
        _check(started, config)
        if self.init != "random":
            initialize_kv_prefix_from_past_key_values(wrapped, past_key_values=started)
        return wrapped

    def trainable(self, model: ModelDescription) -> int:
        """Return keys and values of each virtual token in each layer; or the network of two layers and its inputs."""
        width = model.kv_heads * model.head_dim
        whole = model.layers * 2 * width
        if self.encoder_hidden_size is None:
            return self.num_virtual_tokens * whole
        return (
            self.num_virtual_tokens * width
            + (width + 1) * self.encoder_hidden_size
            + (self.encoder_hidden_size + 1) * whole
        )

    def footprint(self, model: ModelDescription, tokens: int) -> int:
        """Return frozen weights, trainable weights with AdamW, and autograd's saved tensors of one pack with the
        virtual tokens.
        """
        return estimate_footprint(self.kind, model, self.trainable(model), tokens, self.num_virtual_tokens)

    def rate(self, hidden_size: int) -> LearningRate:
        """Return a rate far above that of weights, unless a network computes the keys and values."""
        if self.encoder_hidden_size is not None:
            return LearningRate(ENCODER_RATE, "the network behind a prefix learns as small networks do")
        return LearningRate(BEST_RATE, "keys and values of virtual tokens move far: as in PEFT's examples")

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The learning rate, then the length."""
        return {
            "learning_rate": ParamDistribution(1e-3, 0.1, log=True),
            "num_virtual_tokens": ParamDistribution(values=(5, 10, 30, 100)),
        }

    def save(self, model: Any, folder: Path, base: Path, name: str) -> None:
        """Write `adapter/` in PEFT's format: the keys and values, without the network."""
        write_adapter(model.eval(), folder, name)


def _computed(model: Any, ids: Any) -> list[tuple[Any, Any]]:
    """Return by layer the keys and values (1, key heads, tokens, d) that a model computes for ids."""
    import torch
    from transformers import DynamicCache

    from luthier.models.adapters import get_cache_argument_name
    from luthier.models.kernels.calls import disable_kernels

    if getattr(model, "_is_stateful", False):
        raise ModelError("prefix needs keys and values in every layer; this model carries a state", hint=REMEDY)
    cache = DynamicCache()
    with torch.no_grad(), disable_kernels():  # kernels are at work only once a model was read in this process
        model(input_ids=ids[None], use_cache=True, **{get_cache_argument_name(model): cache})
    return [(layer.keys, layer.values) for layer in cache.layers]


def _check(started: list[tuple[Any, Any]], config: Any) -> None:
    """Refuse models whose keys and values do not have PEFT's shape, the same in every layer."""
    heads, tokens = config.num_attention_heads, config.num_virtual_tokens
    expected = [(1, heads, tokens, config.token_dim // heads)] * 2 * config.num_layers
    if [tuple(states.shape) for pair in started for states in pair] != expected:
        raise ModelError("prefix needs keys and values of one shape in every layer; this model's differ", hint=REMEDY)
