"""Significance of harmful rows: whether a row hurts by more than the choice of held-out rows explains.

A training row's score is a sum over the query's rows. Under the null hypothesis that the row hurts nothing, each term
is as likely positive as negative, so signs are flipped at random: the p-value is how often such a sum is as far below
zero (a one-sided sign-flip test). Rows are selected among all training rows, so p-values are adjusted over all of them
by Benjamini and Hochberg (1995), those not selected counting as 1: the expected share of false discoveries among the
reported rows is at most the level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy

from luthier.artifacts.influence import HarmSignificance

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from luthier.tune.influence.method import EngineSettings, GradientMethod
    from luthier.tune.influence.study import InfluenceStudy

LEVEL = 0.05
"""False discovery rate among the reported rows."""
FEWEST = 6
"""Minimum number of query rows for a test."""
_FLIPS, _MOST_FLIPS = 20_000, 200_000
_GRADIENT_BYTES = 10**9
"""Maximum bytes of gradients of training rows that are held at once."""


class HarmTest(NamedTuple):
    """The result of the test of harmful rows."""

    p_values: dict[int, float]
    """Adjusted p-values by row; empty where nothing was tested."""
    significance: HarmSignificance


def measure_row_effects(
    method: GradientMethod, study: InfluenceStudy, numbers: Sequence[int], settings: EngineSettings
) -> NDArray[numpy.float64]:
    """Return (training rows, query rows): what each query row adds to the score of some training rows.

    The sums over the query rows are the scores. Gradients are multiplied explicitly: each row is read forward and
    backward at each state.
    """
    import torch

    questions = study.question_rows
    total = study.objective.denominator([row for own in questions for row in own])
    effects = torch.zeros(len(numbers), len(questions), dtype=torch.float64)
    size = torch.finfo(study.dtype).bits // 8 * study.reader.weights.size
    together = max(1, _GRADIENT_BYTES // size)
    for step, weights in method.weigh_states(study).items():
        preconditioner = method.precondition(study, study.open_state(step), settings)
        for begin in range(0, len(numbers), together):
            batch = list(numbers[begin : begin + together])
            own = torch.stack(
                [preconditioner.apply(_compute_gradient(study, study.rows_of([number]))) for number in batch]
            )
            for at, rows in enumerate(questions):
                products = (own @ _compute_gradient(study, rows)).double().cpu()
                effects[begin : begin + len(batch), at] += weights[batch] * products / total
                study.work.events.progress(at + 1, len(questions), f"question rows ({method.kind})")
    return effects.numpy()


def _compute_gradient(study: InfluenceStudy, rows: Sequence[object]) -> Tensor:
    """Return the gradient (P,) of the summed losses of some rows."""
    return study.reader.gradient(study.alone(rows))  # type: ignore[arg-type]  # token rows of either side


def compute_harm_p_values(effects: NDArray[numpy.float64], rows: int, seed: int) -> list[float]:
    """Return an adjusted p-value for each row of (tested rows, query rows) effects, among `rows` training rows."""
    from scipy.stats import false_discovery_control

    observed = effects.sum(1)
    flips = min(_MOST_FLIPS, max(_FLIPS, 20 * rows))
    draw = numpy.random.Generator(numpy.random.PCG64([seed, 40]))
    extreme, piece = numpy.zeros(len(effects)), max(1, 4_000_000 // effects.shape[1])
    tolerance = 1e-9 * numpy.abs(effects).sum(1)
    for begin in range(0, flips, piece):
        signs = draw.integers(0, 2, (min(piece, flips - begin), effects.shape[1])).astype(numpy.float64) * 2 - 1
        extreme += (signs @ effects.T <= observed + tolerance).sum(0)
    p_values = (extreme + 1) / (flips + 1)
    adjusted = false_discovery_control(numpy.concatenate([p_values, numpy.ones(rows - len(effects))]))
    return [float(value) for value in adjusted[: len(effects)]]


def assess_harm(
    harmful: Sequence[int],
    effects: NDArray[numpy.float64] | None,
    *,
    questions: int,
    rows: int,
    seed: int,
    why: str = "",
) -> HarmTest:
    """Test the harmful rows by their (harmful rows, query rows) effects.

    Without these, or with too few query rows, the result says why nothing was tested.
    """
    if questions < FEWEST:
        why = f"{questions} rows were asked about, and a test takes {FEWEST} at least"
    if effects is None or questions < FEWEST or not harmful:
        significance = HarmSignificance(
            harmful=len(harmful), question_rows=questions, level=LEVEL, untested=why if harmful else ""
        )
        return HarmTest({}, significance)
    p_values = dict(zip(harmful, compute_harm_p_values(effects, rows, seed), strict=True))
    sure = sum(p <= LEVEL for p in p_values.values())
    return HarmTest(
        p_values, HarmSignificance(harmful=len(harmful), significant=sure, question_rows=questions, level=LEVEL)
    )
