"""Successive halving: every round scores fewer prompts on more rows (Jamieson and Talwalkar 2016).

A prompt's answered rows are not asked again, and the current prompt stays until the end, so that the last round
compares it with the winner on the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from luthier.metrics.metric import EvalPredictions, Metric, MetricResult, measure_all

KEPT = 3
"""One prompt in this many stays for the next round, which asks this many times the rows."""
FIRST_ROWS = 16
"""Minimum rows of the first round; fewer tell prompts apart by chance alone."""


class HalvingRound(NamedTuple):
    """One round: the number of prompts, and the rows that each has answered at its end."""

    prompts: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class RoundScore:
    """A prompt's score in one round."""

    round: int
    prompt_index: int
    """Index among all prompts."""
    rows: int
    score: MetricResult
    goes_on: bool


def build_halving_rounds(prompts: int, rows: int, first: int) -> list[HalvingRound]:
    """Return the rounds when the first one asks `first` rows; the last one asks all rows, of two prompts at least."""
    halving_rounds = [HalvingRound(prompts, min(first, rows))]
    while halving_rounds[-1].rows < rows:
        last = halving_rounds[-1]
        halving_rounds.append(
            HalvingRound(min(last.prompts, max(2, -(-last.prompts // KEPT))), min(rows, last.rows * KEPT))
        )
    return halving_rounds


def count_asked_rows(plan: Sequence[HalvingRound]) -> int:
    """Return the rows that are asked in all; those answered in an earlier round are not asked again."""
    before = [0, *(planned.rows for planned in plan[:-1])]
    return sum(
        planned.prompts * (planned.rows - already_scored) for planned, already_scored in zip(plan, before, strict=True)
    )


def compute_smallest_budget(prompts: int, rows: int) -> int:
    """Return the smallest budget with which all of `prompts` prompts are tried."""
    return count_asked_rows(build_halving_rounds(prompts, rows, min(FIRST_ROWS, rows)))


def plan_rounds(prompts: int, rows: int, budget: int) -> list[HalvingRound]:
    """Return the rounds with the longest first one within the budget, with fewer prompts where there is none.

    A budget of twice the rows suffices for two prompts.
    """
    least = min(FIRST_ROWS, rows)
    for count in range(prompts, 0, -1):
        if compute_smallest_budget(count, rows) <= budget:
            return max(
                (
                    plan
                    for first in range(least, rows + 1)
                    if count_asked_rows(plan := build_halving_rounds(count, rows, first)) <= budget
                ),
                key=lambda plan: plan[0].rows,
            )
    raise ValueError(f"a budget of {budget} does not ask {rows} rows once")


def run_successive_halving(
    plan: Sequence[HalvingRound],
    answer: Callable[[int, int, int], EvalPredictions],
    metric: Metric,
    lengths: Sequence[int],
    *,
    seed: int,
) -> tuple[list[RoundScore], dict[int, EvalPredictions]]:
    """Run successive halving over candidate prompts: return every score in order, and the answers of the last round by
    prompt.

    `answer(prompt, begin, end)` returns a prompt's answers to rows `begin` up to `end`. `lengths` breaks ties: the
    shorter prompt wins. Prompt 0 is never removed.
    """
    alive = list(range(plan[0].prompts))
    answers: dict[int, EvalPredictions] = {}
    standings: list[RoundScore] = []
    for number, now in enumerate(plan):
        for index in alive:
            begin = len(answers[index]) if index in answers else 0
            if begin < now.rows:
                new = answer(index, begin, now.rows)
                answers[index] = answers[index].joined(new) if index in answers else new
        scores = {index: measure_all([metric], answers[index], seed=seed)[0] for index in alive}
        ranked = sorted(alive, key=lambda index: (-_oriented_score(metric, scores[index]), lengths[index], index))
        n_kept = plan[number + 1].prompts if number + 1 < len(plan) else 1
        on = ranked[:n_kept] if number + 1 == len(plan) or 0 in ranked[:n_kept] else [*ranked[: n_kept - 1], 0]
        standings += [
            RoundScore(round=number + 1, prompt_index=index, rows=now.rows, score=scores[index], goes_on=index in on)
            for index in ranked
        ]
        answers = {index: answers[index] for index in (alive if number + 1 == len(plan) else on)}
        alive = on
    return standings, answers


def _oriented_score(metric: Metric, score: MetricResult) -> float:
    return score.value if metric.better == "higher" else -score.value
