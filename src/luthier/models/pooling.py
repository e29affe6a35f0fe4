"""Ways in which the states of a text's tokens become one vector, by sentence-transformers' names.

Each takes states (texts, tokens, width) and a mask (texts, tokens) of 0 and 1, filled from the left, and gives
(texts, width).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

Pooling = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def first(states: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """The state of the first token (BERT's `[CLS]`)."""
    return states[:, 0]


def highest(states: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """The highest value of each number."""
    return states.masked_fill(seen[..., None] == 0, -torch.inf).amax(dim=1)


def mean(states: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """The mean of all states."""
    return _sum(states, seen) / seen.sum(dim=1, keepdim=True)


def mean_by_root(states: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """The sum of all states by the square root of their count."""
    return _sum(states, seen) / seen.sum(dim=1, keepdim=True).sqrt()


def weighted_mean(states: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """A mean in which later tokens weigh more: 1, 2, 3, … (Muennighoff 2022, SGPT)."""
    weights = seen * torch.arange(1, seen.shape[1] + 1, device=seen.device)
    return _sum(states, weights) / weights.sum(dim=1, keepdim=True)


def last(states: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """The state of the last token."""
    return states[torch.arange(len(states), device=states.device), seen.sum(dim=1) - 1]


def _sum(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (states * weights[..., None]).sum(dim=1)


POOLINGS: Mapping[str, Pooling] = {
    "cls": first,
    "max": highest,
    "mean": mean,
    "mean_sqrt_len_tokens": mean_by_root,
    "weightedmean": weighted_mean,
    "lasttoken": last,
}
"""In the order in which several are put side by side."""
