"""The engine *sweep*: how all rows' losses change as the weights move a little along a question's gradient.

The directional derivative of each row's loss is its product with the preconditioned gradient, so no gradient of a row
is ever computed. Packs share their prefixes as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from luthier.tune.influence.method import EngineSettings, GradientMethod, check_scores
from luthier.tune.influence.weights import LossReader, keep_weights

if TYPE_CHECKING:
    from luthier.models.packing.pack import Pack
    from luthier.tune.influence.study import InfluenceStudy

SHARES = {torch.float32: (0.1, 1e-5), torch.float64: (0.01, 1e-6)}
"""How far the weights may move, as shares of their own norm: the longest step that is tried, and the shortest."""
TRIED = 16
"""Examples of a question on whose losses steps are tried, at most."""
FINER = 3.0
"""What one step is longer than the next that is tried."""


def choose_step(reader: LossReader, packs: Sequence[Pack], direction: Tensor, readings: Literal[2, 4]) -> float:
    """How many times a direction the weights move: the longest step of two that agree best on the losses of some packs.

    Longer ones err by the curvature, shorter ones by rounding.
    """
    here = reader.weights.get()
    if not (size := float(direction.norm())):
        return 1.0
    longest, shortest = SHARES[here.dtype]
    unit = (float(here.norm()) or 1.0) / size  # a sequence head begins at zero
    best, least, before, share = longest * unit, float("inf"), None, longest
    while share >= shortest:
        losses = differentiate(
            reader, direction, readings, share * unit, lambda: reader.example_losses(packs), sum_losses
        )
        found = torch.tensor(list(losses.values()), dtype=torch.float64)
        if before is not None and bool(found.isfinite().all()):
            apart = float((found - before).norm())
            if apart < least:
                best, least = share * unit * (FINER if apart == 0 else 1.0), apart
        before, share = found, share / FINER
    return best


def differentiate(
    reader: LossReader, direction: Tensor, readings: Literal[2, 4], step: float, read: Callable[[], Any], combine: Any
) -> Any:
    """The derivative along a direction of what is read, by central differences of second or fourth order.

    `combine` gets what was read with the factor of each.
    """
    if not bool(direction.any()):
        return combine([(read(), 0.0)])
    factors = {1: 0.5, -1: -0.5} if readings == 2 else {1: 2 / 3, -1: -2 / 3, 2: -1 / 12, -2: 1 / 12}
    with keep_weights(reader.weights):
        here = reader.weights.get()
        found = []
        for times, factor in factors.items():
            reader.weights.set(here + times * step * direction)
            found.append((read(), factor / step))
    return combine(found)


def sum_losses(found: Sequence[tuple[dict[str, float], float]]) -> dict[str, float]:
    """Weighted sums of losses by id."""
    return {key: sum(factor * losses[key] for losses, factor in found) for key in found[0][0]}


def differentiate_losses(
    reader: LossReader, packs: Sequence[Pack], direction: Tensor, readings: Literal[2, 4], step: float
) -> dict[str, float]:
    """How each example's loss changes along a direction (P,), by its id."""
    found: dict[str, float] = differentiate(
        reader, direction, readings, step, lambda: reader.example_losses(packs), sum_losses
    )
    return found


def score_by_sweep(method: GradientMethod, study: InfluenceStudy, settings: EngineSettings) -> Tensor:
    """(queries, rows) scores: two readings of all packs for each question and state."""
    reader, queries = study.reader, study.queries
    scores = torch.zeros(len(queries), len(study.keys), dtype=torch.float64)
    coefficients = method.weigh_states(study)
    done, total = 0, len(coefficients) * len(queries)
    for kept, weights in coefficients.items():
        state = study.open_state(kept)
        preconditioner = method.precondition(study, state, settings)
        for number, query in enumerate(queries):
            direction = preconditioner.apply(study.mean_gradient(query))
            step = choose_step(reader, reader.build_packs(study.pick_rows(query, TRIED)), direction, settings.readings)
            losses = differentiate_losses(reader, study.packs, direction, settings.readings, step)
            scores[number] += weights * torch.tensor([losses[key] for key in study.keys], dtype=torch.float64)
            done += 1
            study.work.events.progress(done, total, f"sweeps ({method.kind})")
    return check_scores(scores, method.kind)
