"""What the towers of models that hear say of sounds, in packs' order: one feature for each of a sound's tokens."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor

AUDIO_TYPES = frozenset({"audioflamingo3", "granite_speech", "qwen2_audio", "voxtral"})
"""Types of models whose sounds are read as they themselves read them."""


def read_audio(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """(features, width) of some sounds of one shape, one sound after another."""
    if model.config.model_type == "qwen2_audio":
        found: Tensor = model.model.multi_modal_projector(_encode_qwen2_audio(model, inputs))
        return found
    reader = model.model.get_audio_features
    known = inspect.signature(reader).parameters
    features = reader(**{name: value for name, value in inputs.items() if name in known}, return_dict=True)
    return features.pooler_output.reshape(-1, features.pooler_output.shape[-1])  # type: ignore[no-any-return]


class FrozenAudioEncoder(NamedTuple):
    """An encoder of sounds that does not move, below a projector that does."""

    model: Any

    @property
    def projector(self) -> Any:
        """What reads its states."""
        return self.model.model.multi_modal_projector

    @property
    def weight(self) -> Tensor:
        """A weight, of the kind in which it computes."""
        found: Tensor = next(self.model.model.audio_tower.parameters())
        return found

    def encode(self, inputs: dict[str, Tensor]) -> Tensor:
        """(features, width) states that the projector reads."""
        tower, kind = self.model.model.audio_tower, self.model.config.model_type
        if kind == "qwen2_audio":
            return _encode_qwen2_audio(self.model, inputs)
        if kind == "voxtral":
            states = tower(inputs["input_features"], return_dict=True).last_hidden_state
            return states.reshape(-1, self.model.config.audio_config.intermediate_size)  # type: ignore[no-any-return]
        mask = inputs["input_features_mask"]
        states = tower(inputs["input_features"], input_features_mask=mask, return_dict=True).last_hidden_state
        return states[_valid(tower, mask, states.shape[1])]  # type: ignore[no-any-return]


PROJECTED_TYPES = frozenset({"audioflamingo3", "qwen2_audio", "voxtral"})
"""Types of models whose projector reads each state of the encoder by itself."""


def _encode_qwen2_audio(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The states of Qwen2-Audio's encoder that are not of padding, which `Qwen2AudioModel.forward` selects."""
    from transformers.masking_utils import create_bidirectional_mask

    tower, mask, values = model.model.audio_tower, inputs["feature_attention_mask"], inputs["input_features"]
    frames, _ = tower._get_feat_extract_output_lengths(mask.sum(-1))
    most = (values.shape[-1] - 2) // 2 + 1
    seen = (torch.arange(most, device=values.device)[None] < frames[:, None]).long()
    blank = values.new_zeros(len(values), most, 1)
    attention = create_bidirectional_mask(config=tower.config, inputs_embeds=blank, attention_mask=seen)
    states = tower(values, attention_mask=attention).last_hidden_state
    return states[_valid(tower, mask, states.shape[1])]  # type: ignore[no-any-return]


def _valid(tower: Any, mask: Tensor, most: int) -> Tensor:
    """(sounds, states) which states are of sound, not of padding."""
    _, counts = tower._get_feat_extract_output_lengths(mask.sum(-1).long())
    found: Tensor = torch.arange(most, device=mask.device)[None] < counts[:, None].to(mask.device)
    return found
