"""Faithfulness of a ranking of units: ERASER's measures against random orders, and agreement with leave-one-out.

Comprehensiveness is the probability of the target minus that without the highest-ranked units, sufficiency that minus
the probability with these units alone, each at several shares of the units; AOPC is the mean over the shares (DeYoung
et al. 2020, "ERASER", section 4.3). At least one whole unit is removed at each share.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from luthier.artifacts.explanation import FaithfulnessScores, RandomOrders, Verdict
from luthier.explain.explainers.leave_one_out import leave_one_out
from luthier.explain.scorer import PromptScorer, Units

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Shares of the units that are removed; ERASER's bins."""
ORDERS = 39
"""Number of random orders, of which at most one may be as good."""
CLEAR, UNCLEAR = 0.05, 0.25
"""Up to which p an order is better than random ones, and up to which that is not clear."""
_TIE = 1e-9
_FEWEST = 4
"""Units below which there are too few orders to tell a ranking from chance."""
_FISHER = 4
"""Units from which the rank correlation has an interval."""


def measure_faithfulness(
    scorer: PromptScorer, scores: Sequence[float], *, seed: int = 0, orders: int = ORDERS
) -> FaithfulnessScores:
    """Measure a ranking of units and random orders of the same units, all read in one go."""
    count = scorer.count
    ranking = rank_units(scores)
    draw = random.Random(seed)
    others = [draw.sample(range(count), count) for _ in range(orders)]
    sets = [top_set for order in (ranking, *others) for top_set in _top_sets(order)]
    scorer.score([scorer.all_units, *sets, *(scorer.all_units - entry for entry in sets)])
    comprehensiveness, sufficiency = measure_order(scorer, ranking)
    chance = [tuple(map(_mean, measure_order(scorer, order))) for order in others]
    own = _mean(comprehensiveness) - _mean(sufficiency)
    gains = [entry - other - own for entry, other in chance]
    higher, ties = sum(gain > _TIE for gain in gains), sum(abs(gain) <= _TIE for gain in gains)
    p = (0.5 + higher + ties / 2) / (1 + orders)
    agreement, low, high = correlate_ranks(scores, leave_one_out(scorer))
    return FaithfulnessScores(
        shares=SHARES,
        comprehensiveness_at=tuple(comprehensiveness),
        sufficiency_at=tuple(sufficiency),
        comprehensiveness=_mean(comprehensiveness),
        sufficiency=_mean(sufficiency),
        random_comprehensiveness=_summarize_random_orders([entry for entry, _ in chance]),
        random_sufficiency=_summarize_random_orders([other for _, other in chance]),
        orders=orders,
        p=p,
        rank_agreement=agreement,
        rank_agreement_low=low,
        rank_agreement_high=high,
        verdict="too few units" if count < _FEWEST else _judge(p),
    )


def _judge(p: float) -> Verdict:
    if p <= CLEAR:
        return "better than random"
    return "not clearly better than random" if p <= UNCLEAR else "no better than random"


def measure_order(scorer: PromptScorer, order: Sequence[int]) -> tuple[list[float], list[float]]:
    """Comprehensiveness and sufficiency of an order of units at each share."""
    top = _top_sets(order)
    full, *values = map(
        scorer.to_probability,
        scorer.score([scorer.all_units, *(scorer.all_units - entry for entry in top), *top]),
    )
    without, alone = values[: len(top)], values[len(top) :]
    return [full - entry for entry in without], [full - entry for entry in alone]


def rank_units(scores: Sequence[float]) -> list[int]:
    """Numbers of the units, the highest score first."""
    return sorted(range(len(scores)), key=lambda unit: (-scores[unit], unit))


def correlate_ranks(
    scores: Sequence[float], others: Sequence[float]
) -> tuple[float | None, float | None, float | None]:
    """Spearman's rank correlation with its 95 % interval (Bonett and Wright 2000); None where it is not defined."""
    from scipy.stats import rankdata

    from luthier.metrics.paired import Z95

    if len(scores) < 2 or len(set(scores)) < 2 or len(set(others)) < 2:
        return None, None, None
    a, b = (ranks - ranks.mean() for ranks in (rankdata(scores), rankdata(others)))
    found = max(-1.0, min(1.0, float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))))
    if len(scores) < _FISHER:
        return found, None, None
    reach = Z95 * math.sqrt((1 + found**2 / 2) / (len(scores) - 3))
    middle = math.atanh(max(-1 + 1e-9, min(1 - 1e-9, found)))
    return found, math.tanh(middle - reach), math.tanh(middle + reach)


def _top_sets(order: Sequence[int]) -> list[Units]:
    """The first units of an order at each share, at least one."""
    return [frozenset(order[: max(1, math.ceil(share * len(order)))]) for share in SHARES]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _summarize_random_orders(values: Sequence[float]) -> RandomOrders:
    import numpy as np

    low, high = np.quantile(values, (0.025, 0.975))
    return RandomOrders(mean=_mean(values), low=float(low), high=float(high))
