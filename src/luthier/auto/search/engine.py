"""The search itself: which settings are tried, for how long, and when it ends. No steps, no files, no model.

A search is a sequence of rounds. A round begins with six new trials at the lowest rung (the last one with fewer). Of
all trials at a rung, also those of former rounds, the better half goes on to the next, as in ASHA, except trials that
are clearly worse than the rung's best (`rungs`). A rung is asked whole: nothing depends on which result comes first.

- *New trials.* Trial 0 has the settings of the step that is searched, advised settings follow, then samples
  (`sampler`). The trials of a round are divided between branches by D'Hondt's method: branches are ranked by their best
  trial, and the branch of rank r has the weight 1/r. The rule is deterministic, gives more to what does well, and never
  gives a branch up, since a technique that is slow to learn looks worse at a low rung than it is.
- *Budget.* Work is counted in whole trainings of the searched step. A trial that goes on pays the difference between
  two shares. A round begins only when it can be paid to its last rung. What remains after the last round lets trials
  go on that are within noise of their rung's best. What is `reserved` for the finalists is never touched.
- *End.* The search ends when the budget does not pay for another round, when the space has no further settings, or when
  another round is expected to improve the best by less than `least_gain` of its value (`rungs.estimate_gain`).
- *Failures.* A failed trial ranks last and does not go on. A round after which all trials have failed ends the search.

Rounds do not depend on the budget, which only decides where they end: a search with a larger budget begins with the
rounds of the smaller one, as long as both have the same rungs. Asked requests are a function of space, budget, seed and
results; results of an earlier search may be told before they are asked for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from luthier.auto.search.rungs import (
    LEAST_TRIALS,
    PROMOTED,
    ROUND_TRIALS,
    RUNG_SETS,
    compute_round_work,
    estimate_gain,
    is_clearly_worse,
)
from luthier.auto.search.sampler import TrialObservation, sample_settings
from luthier.core.errors import InputError, LuthierError, RecipeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.auto.search.space import SearchSpace

TECHNIQUE = "technique"
"""The setting that names a trial's branch."""
LEAST_BUDGET = 2.0
"""Minimum budget, in whole trainings."""
LEAST_GAIN = 0.001
"""Share of the best value by which another round has to improve it, as expected, to be worth its work."""
_LEAST_ROUNDS = 2
_SLACK = 1e-9
"""Work that is rounding error."""


class SearchFailed(InputError):
    """All trials of a search failed, so that there is nothing to choose from."""


@dataclass(frozen=True, kw_only=True)
class TrialRequest:
    """A requested training: one trial's settings up to one rung."""

    trial: int
    settings: Mapping[str, Any]
    rung: int
    share: float
    """Share of the whole training's work, in (0, 1]."""


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """The result of a request."""

    trial: int
    rung: int
    value: float
    """Larger is better."""
    rows: NDArray[np.float64] | None
    """(validation rows,): the score of each row, in the same order in all trials; None where there is none."""
    work: float
    """Work of this rung, beyond that of the rung before, in whole trainings of the searched step."""
    failed: str = ""
    """Why there is no value."""


@dataclass
class _Trial:
    """A trial with its results by rung."""

    number: int
    settings: Mapping[str, Any]
    results: dict[int, TrialResult] = field(default_factory=dict)
    failed: str = ""

    @property
    def rung(self) -> int:
        """The highest rung with a value; -1 before the first, and where the trial failed."""
        return -1 if self.failed else max(self.results, default=-1)

    @property
    def rank(self) -> tuple[int, float, int]:
        """Sorts the best first: by rung, by value there, by number."""
        return -self.rung, -self.results[self.rung].value if self.rung >= 0 else math.inf, self.number


class SearchEngine:
    """Asks for trainings under a budget, is told their results, and names the finalists.

    `work_of` gives the work of settings up to a share, from the beginning, in whole trainings of the searched step.
    `RecipeError` where the budget is too small, `SearchFailed` (by `ask`) where all trials fail.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        budget: float,
        seed: int,
        work_of: Callable[[Mapping[str, Any], float], float],
        first: Sequence[Mapping[str, Any]] = (),
        finalists: int = 3,
        reserved: float = 0.0,
        least_gain: float = LEAST_GAIN,
    ) -> None:
        self._space, self._seed, self._work_of = space, seed, work_of
        self._count, self._least_gain = finalists, least_gain
        self._remaining = budget - reserved
        self.shares = self._choose_shares(budget, reserved)
        self.end = ""
        """Why no further rounds are asked for; empty while there are."""
        self._keys: set[str] = set()
        self._trials: list[_Trial] = []
        self._told: dict[tuple[int, int], TrialResult] = {}
        self._pending: Sequence[TrialRequest] = ()
        self._advised = [space.default, *first]
        self._search = self._iterate_rungs()
        self._finished = False

    def ask(self) -> Sequence[TrialRequest]:
        """The requests of the current rung that have no result yet, or the next rung; empty at the end."""
        while not self._finished:
            missing = [request for request in self._pending if (request.trial, request.rung) not in self._told]
            if missing:
                return missing
            self._record()
            following = next(self._search, None)
            self._pending = following or ()
            self._finished = following is None
        self._check_failures()
        return ()

    def tell(self, results: Sequence[TrialResult]) -> None:
        """Record results in any order, also before they are requested; `RecipeError` where two of one rung differ."""
        for result in results:
            key = result.trial, result.rung
            trial_result = self._told.setdefault(key, result)
            if trial_result is not result and _summarize(trial_result) != _summarize(result):
                raise RecipeError(
                    f"trial {result.trial} has two results at rung {result.rung}: {_summarize(trial_result)} and "
                    f"{_summarize(result)}",
                    hint="training is deterministic: something outside the recipe differs between them",
                )

    @property
    def finalists(self) -> Sequence[int]:
        """Trials to be trained whole, best first, without those clearly worse than the best."""
        ranked = sorted((trial for trial in self._trials if trial.rung >= 0), key=lambda trial: trial.rank)
        near = [trial.number for trial in ranked if not self._is_behind(trial, ranked[0])]
        return near[: self._count]

    @property
    def trials(self) -> Sequence[Mapping[str, Any]]:
        """Settings of each trial, by its number."""
        return [trial.settings for trial in self._trials]

    @property
    def remaining(self) -> float:
        """Return the remaining work, without the reserve."""
        return self._remaining

    def _choose_shares(self, budget: float, reserved: float) -> tuple[float, ...]:
        if not math.isfinite(budget) or budget < LEAST_BUDGET:
            what = f"a search needs a budget of at least {LEAST_BUDGET:g} whole trainings, got {budget:g}"
            raise RecipeError(what, hint=f"set budget: {LEAST_BUDGET + reserved:g} or more")
        for shares in RUNG_SETS:
            work = [self._work_of(self._space.default, share) for share in shares]
            if compute_round_work(shares, LEAST_TRIALS, work) <= self._remaining + _SLACK:
                return shares
        raise RecipeError(
            f"a budget of {budget:g} whole trainings leaves {self._remaining:.3g} for trials, since the finalists' own "
            f"trainings take {reserved:g}: less than two short trials",
            hint=f"set budget: {math.ceil(reserved + LEAST_BUDGET)}, or fewer finalists or seeds",
        )

    def _iterate_rungs(self) -> Iterator[list[TrialRequest]]:
        """Yield requests rung by rung; the results of one are recorded before the next."""
        for number in itertools.count():
            began = self._begin_round(number)
            if not began:
                break
            yield began
            self._check_failures()
            for rung in range(1, len(self.shares)):
                yield self._list_affordable(self._select_best(rung - 1), rung)
            if number + 1 >= _LEAST_ROUNDS and not self._is_worth_more_trials(len(began)):
                self.end = "another round is expected to improve too little"
                break
        yield from self._iterate_ties()

    def _begin_round(self, number: int) -> list[TrialRequest]:
        """New trials at the lowest rung, none where they cannot be paid to the last one."""
        proposed = self._propose(number, ROUND_TRIALS)
        settings = self._cut_to_budget(proposed)
        if not proposed:
            self.end = "the space has no further settings"
        elif not settings:
            self.end = "the budget does not pay for another round"
        if self.end:
            return []
        first = len(self._trials)
        trials = [_Trial(first + index, setting) for index, setting in enumerate(settings)]
        self._trials += trials
        return self._list_affordable(trials, 0)

    def _cut_to_budget(self, proposed: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Return as many of a round's first settings as the budget pays up to the last rung; none where those are too
        few.
        """
        for count in range(len(proposed), 0, -1):
            settings = proposed[:count]
            work = [sum(self._work_of(setting, share) for setting in settings) / count for share in self.shares]
            if compute_round_work(self.shares, count, work) <= self._remaining + _SLACK:
                return settings if count >= min(LEAST_TRIALS, len(proposed)) or not self._trials else ()
        return ()

    def _propose(self, number: int, count: int) -> list[Mapping[str, Any]]:
        """Up to `count` settings that were not tried: advised ones, then samples of each branch."""
        found: list[Mapping[str, Any]] = []
        while self._advised and len(found) < count:
            settings = self._advised.pop(0)
            if self._accept(settings, refused=bool(self._trials or found)):
                found.append(settings)
        weights = self._weigh_branches()
        sizes = dict.fromkeys(weights, 0)
        for settings in [*self.trials, *found]:
            sizes[settings[TECHNIQUE]] = sizes.get(settings[TECHNIQUE], 0) + 1
        open_branches = list(weights)
        while open_branches and len(found) < count:
            slots = dict.fromkeys(open_branches, 0)
            for _ in range(count - len(found)):
                chosen = max(open_branches, key=lambda name: weights[name] / (sizes[name] + slots[name] + 1))
                slots[chosen] += 1
            for name, requested in slots.items():
                sampled = self._sample(name, requested, (number, len(found))) if requested else []
                found += sampled
                sizes[name] += len(sampled)
                if len(sampled) < requested:
                    open_branches.remove(name)
        return found

    def _sample(self, branch: str, count: int, draw: tuple[int, int]) -> list[Mapping[str, Any]]:
        space = self._space.branches[branch]
        observations = [
            TrialObservation(trial.settings, rung, trial.results[rung].value, self.shares[rung] == 1)
            if (rung := trial.rung) >= 0
            else TrialObservation(trial.settings, -1, -math.inf, whole=False)
            for trial in self._trials
            if trial.settings[TECHNIQUE] == branch and trial.results
        ]
        index = sorted(self._space.branches).index(branch)
        return [
            {TECHNIQUE: branch, **settings}
            for settings in sample_settings(
                space,
                observations,
                count=count,
                seed=_mix(self._seed, *draw, index),
                accept=lambda settings: self._accept({TECHNIQUE: branch, **settings}, refused=True),
            )
        ]

    def _accept(self, settings: Mapping[str, Any], *, refused: bool) -> bool:
        """Whether settings make a new training and, where asked, are taken by the parts; they count as tried from now
        on. Those that make a training which was tried are none, however they are written."""
        if refused and self._space.refuses(settings):
            return False
        try:
            key = self._space.identify(settings)
        except LuthierError:  # the first trial, which fails with its reason
            key = ""
        if key in self._keys:
            return False
        self._keys.add(key)
        return True

    def _weigh_branches(self) -> dict[str, float]:
        """1/rank of each branch by its best trial; equal weights before the first result."""
        names = sorted(self._space.branches)
        best = {
            name: min((trial.rank for trial in self._trials if trial.settings[TECHNIQUE] == name), default=None)
            for name in names
        }
        known = sorted((name for name in names if best[name] is not None), key=lambda name: best[name] or ())
        return {name: 1 / (known.index(name) + 1) if name in known else 1.0 for name in names}

    def _select_best(self, rung: int) -> list[_Trial]:
        """The better half of a rung, without those that went on before or are clearly worse than its best."""
        reached = self._list_trials_at_rung(rung)
        tried = sum(1 for trial in self._trials if rung in trial.results)
        best = reached[: max(1, tried // PROMOTED)]
        return [trial for trial in best if trial.rung == rung and not self._is_worse_at(rung, trial, reached[0])]

    def _iterate_ties(self) -> Iterator[list[TrialRequest]]:
        """Use the remaining budget on trials within noise of their rung's best, highest rungs first."""
        work = [self._work_of(self._space.default, share) for share in self.shares]
        most = compute_round_work(self.shares, ROUND_TRIALS, work)
        floor = max(0.0, self._remaining - most)
        found = True
        while found:
            found = False
            for rung in reversed(range(len(self.shares) - 1)):
                reached = self._list_trials_at_rung(rung)
                ties = [
                    trial for trial in reached if trial.rung == rung and not self._is_worse_at(rung, trial, reached[0])
                ]
                requests = self._list_affordable(ties, rung + 1, floor)
                if requests:
                    found = True
                    yield requests
                    break

    def _list_trials_at_rung(self, rung: int) -> list[_Trial]:
        """Trials with a value at a rung that did not fail later, best first."""
        reached = [trial for trial in self._trials if trial.rung >= rung]
        return sorted(reached, key=lambda trial: (-trial.results[rung].value, trial.number))

    def _list_affordable(self, trials: Sequence[_Trial], rung: int, floor: float = 0.0) -> list[TrialRequest]:
        """Requests for those trials that what remains above `floor` pays for, in their order."""
        left, found = self._remaining - floor + _SLACK, []
        for trial in trials:
            before = self._work_of(trial.settings, self.shares[rung - 1]) if rung else 0.0
            work = self._work_of(trial.settings, self.shares[rung]) - before
            if work <= left:
                left -= work
                share = self.shares[rung]
                found.append(TrialRequest(trial=trial.number, settings=trial.settings, rung=rung, share=share))
        return found

    def _record(self) -> None:
        """Take the results of the pending rung."""
        for request in self._pending:
            result = self._told[request.trial, request.rung]
            trial = self._trials[request.trial]
            trial.results[request.rung] = result
            if result.failed or not math.isfinite(result.value):
                trial.failed = result.failed or f"its value is {result.value}"
            self._remaining -= result.work

    def _check_failures(self) -> None:
        failed = [trial for trial in self._trials if trial.failed]
        if len(failed) < len(self._trials):
            return
        reasons = sorted({trial.failed for trial in failed})
        shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
        what = f"all {len(failed)} trials failed: {shown}"
        raise SearchFailed(what, hint="run the searched step alone first, then narrow what is tried")

    def _is_worth_more_trials(self, further: int) -> bool:
        """Return whether `further` trials are expected to improve the best enough for their work."""
        values = [trial.results[0].value for trial in self._list_trials_at_rung(0)]
        return estimate_gain(values, further) >= self._least_gain * abs(values[0])

    def _is_behind(self, trial: _Trial, best: _Trial) -> bool:
        """Return whether a trial is clearly worse than the best one at the highest rung of both."""
        return trial is not best and self._is_worse_at(trial.rung, trial, best)

    @staticmethod
    def _is_worse_at(rung: int, trial: _Trial, best: _Trial) -> bool:
        return is_clearly_worse(trial.results[rung].rows, best.results[rung].rows)


def _summarize(result: TrialResult) -> tuple[str, str]:
    return ("failed", result.failed) if result.failed else ("value", f"{result.value:.9g}")


def _mix(*numbers: int) -> int:
    """Return one seed from several numbers."""
    import numpy as np

    return int(np.random.SeedSequence([abs(number) for number in numbers]).generate_state(1)[0])
