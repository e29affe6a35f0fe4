"""Whether rows that hurt do so by more than chance: which held-out rows were asked about is one draw of many.

A training row's score is a sum over the question's rows. Where the row hurts nobody, each term is as likely to be above
zero as below, so terms change their sign at random: the p value is how often such a sum is as far below zero (a sign
flip test, one-sided). Rows were chosen among all rows of the training, so p values are adjusted over all of them by
Benjamini and Hochberg (1995), those that were not chosen counting as 1: of the rows that are named, at most the level
is expected to be there by chance.
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
"""The share of the named rows that may be there by chance."""
FEWEST = 6
"""Question rows below which no row can be told from chance."""
_FLIPS, _MOST_FLIPS = 20_000, 200_000
_GRADIENT_BYTES = 10**9
"""Bytes of the training rows' gradients that are held together."""


class HarmTest(NamedTuple):
    """What the test says of the rows that hurt."""

    p_values: dict[int, float]
    """Adjusted, by row; empty where nothing was tested."""
    significance: HarmSignificance


def measure_row_effects(
    method: GradientMethod, study: InfluenceStudy, numbers: Sequence[int], settings: EngineSettings
) -> NDArray[numpy.float64]:
    """(numbers, question rows) what each question row adds to the score of some training rows; the sums over the
    question rows are the scores.

    Products of explicit gradients: each of these rows is read forward and backward at each state.
    """
    import torch

    questions = study.question_rows
    total = study.objective.denominator([row for own in questions for row in own])
    found = torch.zeros(len(numbers), len(questions), dtype=torch.float64)
    size = torch.finfo(study.dtype).bits // 8 * study.reader.weights.size
    together = max(1, _GRADIENT_BYTES // size)
    for step, weights in method.weigh_states(study).items():
        preconditioner = method.precondition(study, study.open_state(step), settings)
        for begin in range(0, len(numbers), together):
            some = list(numbers[begin : begin + together])
            own = torch.stack(
                [preconditioner.apply(_compute_gradient(study, study.rows_of([number]))) for number in some]
            )
            for at, rows in enumerate(questions):
                products = (own @ _compute_gradient(study, rows)).double().cpu()
                found[begin : begin + len(some), at] += weights[some] * products / total
                study.work.events.progress(at + 1, len(questions), f"question rows ({method.kind})")
    return found.numpy()


def _compute_gradient(study: InfluenceStudy, rows: Sequence[object]) -> Tensor:
    """(P,) the gradient of the losses of some rows."""
    return study.reader.gradient(study.alone(rows))  # type: ignore[arg-type]  # token rows of either side


def compute_harm_p_values(effects: NDArray[numpy.float64], rows: int, seed: int) -> list[float]:
    """An adjusted p value for each of (tested, question rows) effects, tested among so many training rows."""
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
    """Test the rows that hurt by their (harmful, question rows) effects; without these, or with too few question rows,
    it is said why nothing was tested."""
    if questions < FEWEST:
        why = f"{questions} rows were asked about, and a test takes {FEWEST} at least"
    if effects is None or questions < FEWEST or not harmful:
        found = HarmSignificance(
            harmful=len(harmful), question_rows=questions, level=LEVEL, untested=why if harmful else ""
        )
        return HarmTest({}, found)
    p_values = dict(zip(harmful, compute_harm_p_values(effects, rows, seed), strict=True))
    sure = sum(p <= LEVEL for p in p_values.values())
    return HarmTest(
        p_values, HarmSignificance(harmful=len(harmful), significant=sure, question_rows=questions, level=LEVEL)
    )
