"""How much each setting of a search matters: PED-ANOVA, by Optuna, from the table of trials.

PED-ANOVA asks how differently a setting is distributed among the best trials and among all of them. It needs no model
of the metric, and only the order of trials: trials that came to a later rung stand before those that did not, and
within a rung the metric decides, as the search itself ranked them. One branch is looked at a time, since its settings
mean nothing in another; the choice of the branch is looked at over all trials.

Imports Optuna inside the verb only. Watanabe, Bansal and Hutter 2023, IJCAI; Watanabe et al. 2026, KDD (settings that
hang on others).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.artifacts.search import BRANCH, Better, SettingImportance, TrialRow

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    Params = Mapping[str, Any]

FEWEST_TRIALS = 8
"""Of fewer trials with a value nothing is told: the best of them are one or two."""
_BEST = 0.1
_FEWEST_BEST = 4
"""A tenth of the trials counts as the best, or so many where a tenth is fewer."""


def measure_importance(
    rows: Sequence[TrialRow], space: Mapping[str, Mapping[str, Mapping[str, Any]]], better: Better
) -> tuple[SettingImportance, ...]:
    """The share of each setting in its branch and of the choice of the branch, the greatest first in each.

    `space` is as in `search.json`. Branches with fewer than eight trials that have a value are left out; shares of a
    branch add up to 1, or are all 0 where nothing sets the best trials apart.
    """
    ranked = rank_trials_by_rung(rows, better)
    importances: list[SettingImportance] = []
    if len(space) > 1:
        choice = {"values": sorted(space)}
        params = [{BRANCH: row.branch} for row in ranked]
        importances += _importance("", {BRANCH: choice}, params)
    for branch in sorted(space):
        own = [row.settings for row in ranked if row.branch == branch or len(space) == 1]
        importances += _importance(branch, space[branch], own)
    return tuple(importances)


def rank_trials_by_rung(rows: Sequence[TrialRow], better: Better) -> list[TrialRow]:
    """Each trial once, at the last rung at which it has a value: the best first, of equal ones the earlier."""
    last: dict[int, TrialRow] = {}
    for row in rows:
        if row.value is not None and (row.trial not in last or row.rung > last[row.trial].rung):
            last[row.trial] = row
    sign = -1 if better == "higher" else 1
    return sorted(last.values(), key=lambda row: (-row.rung, sign * float(row.value or 0.0), row.trial))


def _importance(
    branch: str, space: Mapping[str, Mapping[str, Any]], ranked: Sequence[Params]
) -> list[SettingImportance]:
    """The settings of one branch by their importance, from the settings of its trials, the best first."""
    if len(ranked) < FEWEST_TRIALS or not space:
        return []
    divergences = _divergences(space, ranked)
    whole = sum(divergences.values())
    shares = {path: divergences.get(path, 0.0) / whole if whole > 0 else 0.0 for path in space}
    return [
        SettingImportance(branch=branch, setting=path, share=round(share, 6), trials=len(ranked))
        for path, share in sorted(shares.items(), key=lambda entry: (-round(entry[1], 6), entry[0]))
    ]


def _divergences(space: Mapping[str, Mapping[str, Any]], ranked: Sequence[Params]) -> dict[str, float]:
    import warnings

    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator
    from optuna.trial import create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize")
    distributions = {path: _distribution(tried) for path, tried in space.items()}
    for rank, settings in enumerate(ranked):
        params = {path: _encode(space[path], settings.get(path)) for path in space}
        known = {path: value for path, value in params.items() if value is not None}
        of_known = {path: distributions[path] for path in known}
        study.add_trial(create_trial(params=known, distributions=of_known, value=float(rank)))
    best = max(_BEST, min(0.5, _FEWEST_BEST / len(ranked)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a setting hangs on another is known
        found = PedAnovaImportanceEvaluator(target_quantile=best).evaluate(study)
    return {path: value for path, value in found.items() if math.isfinite(value)}


def _distribution(tried: Mapping[str, Any]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if "values" in tried:
        count, numbers = len(tried["values"]), [value for value in tried["values"] if _is_number(value)]
        return IntDistribution(0, count - 1) if len(numbers) == count else CategoricalDistribution(range(count))
    log = bool(tried.get("log"))
    if tried.get("integer"):
        return IntDistribution(int(tried["low"]), int(tried["high"]), log=log)
    return FloatDistribution(float(tried["low"]), float(tried["high"]), log=log)


def _encode(tried: Mapping[str, Any], value: Any) -> float | None:
    """A value as Optuna takes it; None where it is none of those that are tried."""
    if "values" in tried:
        ordered = list(tried["values"])
        if all(map(_is_number, ordered)):
            ordered.sort()
        keys = [json.dumps(entry, sort_keys=True) for entry in ordered]
        key = json.dumps(value, sort_keys=True)
        return keys.index(key) if key in keys else None
    if not _is_number(value) or not tried["low"] <= value <= tried["high"]:
        return None
    return int(value) if tried.get("integer") else float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
