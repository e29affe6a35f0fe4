"""A model read through its own modules, its attention plugged in, its linear layers by kernels that see rows alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor

from luthier.models.decoding.past import Past, Visit, attending
from luthier.models.kernels.rows import Linear, Rows, rows_kernels
from luthier.models.logprobs import decoder_of
from luthier.models.lora_product import each_alone

_DTYPES = (torch.float32, torch.bfloat16)


class Plugged:
    """Reads the tokens of many lines in one pass over transformers' own layers."""

    def __init__(self, model: Any, past: Past) -> None:
        self._model, self._decoder, self._past = model, decoder_of(model), past
        self._layers = [layer for layer in model.modules() if _is_plain(layer)]
        self._adapted = [layer for layer in model.modules() if isinstance(layer, LoraLinear)]

    def read(self, ids: Tensor, visit: Visit) -> Tensor:
        """(T, width) hidden states from (T,) ids."""
        kernels = rows_kernels()
        alone = self._adapted if kernels is not None else []
        with attending(self._model, self._past, visit), each_alone(alone), _multiplying(self._layers, kernels):
            states: Tensor = self._decoder(
                input_ids=ids[None], position_ids=visit.positions[None], use_cache=False
            ).last_hidden_state
        return states[0]


class _Product:
    """The forward of one linear layer."""

    def __init__(self, kernels: Rows, layer: torch.nn.Linear) -> None:
        self._kernels, self._layer = kernels, layer

    def __call__(self, states: Tensor) -> Tensor:
        layer = self._layer
        flat = states.reshape(-1, layer.in_features).float().contiguous()
        found = self._kernels.product(Linear.of(layer.weight, layer.bias), flat)
        return found.view(*states.shape[:-1], -1).to(states.dtype)


@contextmanager
def _multiplying(layers: list[torch.nn.Linear], kernels: Rows | None) -> Iterator[None]:
    """Let linear layers multiply by the kernels, where there are some."""
    chosen = layers if kernels is not None else []
    try:
        for layer in chosen:
            assert kernels is not None
            layer.forward = _Product(kernels, layer)  # type: ignore[method-assign, assignment]  # an instance stands before its class
        yield
    finally:
        for layer in chosen:
            vars(layer).pop("forward", None)


def _is_plain(layer: Any) -> bool:
    """Whether a linear layer on the CPU multiplies as torch's own does."""
    return (
        type(layer) is torch.nn.Linear
        and "forward" not in vars(layer)
        and layer.weight.dtype in _DTYPES
        and layer.weight.device.type == "cpu"
        and (layer.bias is None or layer.bias.dtype == layer.weight.dtype)
    )
