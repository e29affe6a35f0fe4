"""A look at what was saved: an adapter that holds nothing, or does nothing, never becomes an artifact."""

from __future__ import annotations

from pathlib import Path

from luthier.core.errors import ModelError, Where
from luthier.models.load import ADAPTER

WEIGHTS = "adapter_model.safetensors"
EPOCHS = "epochs"
"""Holds a folder for each epoch that a training kept beside its end."""
_UP = ("lora_B", "lora_embedding_B")
"""The half of a low-rank product that begins at zero: while all of it is zero, the adapter changes nothing."""


def refuse_idle(folder: Path) -> None:
    """`ModelError` when the adapter in a folder, if there is one, holds no weights, none that do anything, or a NaN."""
    from safetensors import safe_open

    place = folder / ADAPTER / WEIGHTS
    if not place.is_file():
        return
    ups, heads = list[bool](), list[bool]()
    numbers = 0
    with safe_open(place, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  # it is no mapping
            weight = file.get_tensor(name)
            numbers += weight.numel()
            if not bool(weight.isfinite().all()):
                raise ModelError(f"{name} of the adapter is not finite", where=Where(file=str(place)), remedy=_LOWER)
            if any(part in name for part in _UP):
                ups.append(bool(weight.any()))
            elif "lora_" not in name:
                heads.append(bool(weight.any()))
    if not numbers:
        raise ModelError("the adapter holds no weights", where=Where(file=str(place)), remedy=_TARGETS)
    if ups and not any(ups + heads):  # in its first step a head that begins at zero learns alone
        raise ModelError("the adapter does nothing: all its B are zero", where=Where(file=str(place)), remedy=_HIGHER)


_LOWER = "lower learning_rate"
_HIGHER = "raise learning_rate, or train for more steps"
_TARGETS = "name layers of this model in technique.targets"
