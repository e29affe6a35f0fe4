"""Weights without a model, for an optimizer of the server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class WeightHolder(torch.nn.Module):
    """Holds weights under the names that they have in a model, whose dots torch's own containers refuse."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._held = {name: torch.nn.Parameter(value.clone()) for name, value in weights.items()}

    def named_parameters(self, *choice: Any, **options: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Each by its name."""
        yield from self._held.items()
