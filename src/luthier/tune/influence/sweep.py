"""The engine *sweep*: the change of all rows' losses when the weights move slightly along a query's gradient.

The directional derivative of a row's loss is the inner product of its gradient with the preconditioned query gradient,
so no row's gradient is computed. Packs share their prefixes as in training.
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
"""Largest and smallest step that is tried, as shares of the weights' norm, by dtype."""
TRIED = 16
"""Maximum number of a query's examples on whose losses step sizes are tried."""
FINER = 3.0
"""Ratio of one tried step size to the next."""


def choose_step(reader: LossReader, packs: Sequence[Pack], direction: Tensor, readings: Literal[2, 4]) -> float:
    """Return the factor on a direction by which the weights move: the step size whose derivatives of the losses of some
    packs agree best with those of the next longer step.

    Longer steps err by the curvature, shorter ones by rounding.
    """
    here = reader.weights.get()
    if not (size := float(direction.norm())):
        return 1.0
    longest, shortest = SHARES[here.dtype]
    unit = (float(here.norm()) or 1.0) / size  # a sequence head begins at zero
    best, smallest_gap, previous, share = longest * unit, float("inf"), None, longest
    while share >= shortest:
        losses = differentiate(
            reader, direction, readings, share * unit, lambda: reader.example_losses(packs), sum_losses
        )
        derivatives = torch.tensor(list(losses.values()), dtype=torch.float64)
        if previous is not None and bool(derivatives.isfinite().all()):
            gap = float((derivatives - previous).norm())
            if gap < smallest_gap:
                best, smallest_gap = share * unit * (FINER if gap == 0 else 1.0), gap
        previous, share = derivatives, share / FINER
    return best


def differentiate(
    reader: LossReader, direction: Tensor, readings: Literal[2, 4], step: float, read: Callable[[], Any], combine: Any
) -> Any:
    """Return the directional derivative of what `read` returns, by central differences of second or fourth order.

    `combine` gets each reading with its factor.
    """
    if not bool(direction.any()):
        return combine([(read(), 0.0)])
    factors = {1: 0.5, -1: -0.5} if readings == 2 else {1: 2 / 3, -1: -2 / 3, 2: -1 / 12, -2: 1 / 12}
    with keep_weights(reader.weights):
        here = reader.weights.get()
        readings_taken = []
        for times, factor in factors.items():
            reader.weights.set(here + times * step * direction)
            readings_taken.append((read(), factor / step))
    return combine(readings_taken)


def sum_losses(weighted_losses: Sequence[tuple[dict[str, float], float]]) -> dict[str, float]:
    """Return weighted sums of losses by id."""
    return {key: sum(factor * losses[key] for losses, factor in weighted_losses) for key in weighted_losses[0][0]}


def differentiate_losses(
    reader: LossReader, packs: Sequence[Pack], direction: Tensor, readings: Literal[2, 4], step: float
) -> dict[str, float]:
    """Return the derivative of each example's loss along a direction (P,), by its id."""
    derivatives: dict[str, float] = differentiate(
        reader, direction, readings, step, lambda: reader.example_losses(packs), sum_losses
    )
    return derivatives


def score_by_sweep(method: GradientMethod, study: InfluenceStudy, settings: EngineSettings) -> Tensor:
    """Return (queries, rows) scores: two passes over all packs for each query and state."""
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
