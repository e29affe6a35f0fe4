"""The critic of a policy: a second adapter with a value head over the same frozen base, without a copy of it.

Its value at a token is the expected remaining return of the completion.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.core.artifact import Artifact
from luthier.models.generation.cpu_decoder import activate_adapter
from luthier.models.load import ADAPTER, get_output_classes, get_weights_artifact, is_adapter
from luthier.models.media.towers import is_tower_parameter
from luthier.models.packing.logprobs import compute_pack_states
from luthier.models.packing.pack import Pack, TokenRow
from luthier.models.quiet import silence_peft_warnings
from luthier.models.sequence_head import unwrap_peft_model
from luthier.tune.objective import Loss
from luthier.tune.training.reference_logprobs import compute_row_logprobs

VALUE = "value"
"""Name of the critic's adapter, which marks its parameters."""
HEAD = "value_head"
_SCORE = "score."
_PLAIN = (True, "gaussian")
"""Initializations of an adapter that leave the base unchanged."""


class Critic:
    """The value model of actor-critic training: its values of trained tokens, and its loss."""

    def __init__(self, model: Any, loss: Callable[[Tensor, Pack], Loss]) -> None:
        """Build a critic; `model` is PEFT's, with the adapter and head of `add_critic`; `loss` is a pure function."""
        self._model, self._loss = model, loss

    def loss(self, pack: Pack) -> Loss:
        """Return the value loss of a pack."""
        return self._loss(_values(self._model, pack), pack)

    def read(self, rows: Sequence[TokenRow], tokens: int) -> list[list[float]]:
        """Return the value before each trained token of some rows, without a gradient, in packs of `tokens` tokens."""
        return compute_row_logprobs(self._model, rows, tokens, _values)


def _values(model: Any, pack: Pack) -> Tensor:
    """Return (N,) values in at least fp32."""
    with activate_adapter(model, VALUE, decoder_only=True):  # it sees pictures as the policy does
        states = compute_pack_states(model, pack)
    head = getattr(model, HEAD)
    return torch.nn.functional.linear(states.to(torch.promote_types(states.dtype, torch.float32)), head.weight)[:, 0]


def is_critic_parameter(name: str) -> bool:
    """Return whether a parameter of this name is the critic's."""
    return f".{VALUE}." in name or name.startswith(HEAD)


def add_critic(model: Any, seed: int, start: Path | None = None) -> None:
    """Give a model with a low-rank adapter another one of the same settings, and a value head that starts at zero.

    `start` is the adapter of a reward model over the same base, whose adapter and head initialize both.
    """
    from peft import PeftConfig

    own = model.peft_config[model.active_adapter]
    config = copy.copy(PeftConfig.from_pretrained(start) if start is not None else own)
    config.init_lora_weights, config.inference_mode = True, False
    config.modules_to_save, config.use_dora, config.lora_dropout = None, False, 0.0
    config.task_type = own.task_type
    config.exclude_modules = sorted({*(config.exclude_modules or ()), *_linear_towers(model)}) or None
    config._custom_modules = getattr(own, "_custom_modules", None)
    with torch.random.fork_rng(devices=[]), silence_peft_warnings():
        torch.manual_seed(seed + 1)
        model.add_adapter(VALUE, config)
    inner = unwrap_peft_model(model)
    device, width = next(inner.parameters()).device, inner.config.get_text_config().hidden_size
    head = torch.nn.Linear(width, 1, bias=False, device=device, dtype=_compute_dtype(inner))
    torch.nn.init.zeros_(head.weight)
    model.add_module(HEAD, head)
    if start is not None:
        _take_up(model, start)
    for name, parameter in model.named_parameters():
        if is_critic_parameter(name):
            parameter.requires_grad_(True)


def _linear_towers(model: Any) -> list[str]:
    """Return the linear layers of image encoders: the critic shares their features with the policy and trains none of
    them.
    """
    modules = unwrap_peft_model(model).named_modules()
    return [name for name, module in modules if isinstance(module, torch.nn.Linear) and is_tower_parameter(name)]


def _compute_dtype(inner: Any) -> torch.dtype:
    return torch.promote_types(next(inner.parameters()).dtype, torch.float32)


def _take_up(model: Any, start: Path) -> None:
    """Initialize the critic with a reward model's adapter and head."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    saved = load_file(start / "adapter_model.safetensors")
    weights = {name: value for name, value in saved.items() if not is_tower_parameter(name)}
    head = next(value for name, value in weights.items() if f".{_SCORE}" in name)
    set_peft_model_state_dict(
        model, {name: value for name, value in weights.items() if f".{_SCORE}" not in name}, adapter_name=VALUE
    )
    with torch.no_grad():
        getattr(model, HEAD).weight.copy_(head)


def find_critic_start(judge: Artifact | None, policy: Artifact, model: Any) -> tuple[Path | None, str]:
    """Return the folder of the reward model's adapter when a critic can start from it, and otherwise why not.

    `policy` is the trained model's artifact, `model` that model with its own adapter.
    """
    if judge is None:
        return None, "there is no reward model"
    own = get_weights_artifact(judge)
    if not is_adapter(own) or not get_output_classes(judge):
        return None, f"the reward model {'judges by a verdict, not a head' if is_adapter(own) else 'is no adapter'}"
    if get_weights_artifact(own.parent("model")).digest != get_weights_artifact(policy).digest:
        return None, "the reward model stands on another model"
    if model.peft_config[model.active_adapter].init_lora_weights not in _PLAIN:
        return None, "the policy's own start changes the base that the reward model knows"
    from peft import PeftConfig

    folder = own.folder / ADAPTER
    config = PeftConfig.from_pretrained(folder)
    if str(getattr(config.peft_type, "value", "")) != "LORA" or getattr(config, "use_dora", False):
        return None, "the reward model's adapter is no plain low-rank one"
    return folder, ""
