"""Verification of scores: the query's loss after retraining without some rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor

from luthier.artifacts.influence import EstimatedNumber, InfluenceVerification, RowRemoval
from luthier.core.events import RunEventEmitter
from luthier.core.files import write_atomically
from luthier.core.hashing import digest_of
from luthier.tune.influence.weights import LossReader

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from luthier.tune.influence.study import InfluenceStudy

RANDOM = 3
"""Number of retrainings without random rows, besides those without proponents and without opponents."""
_RESAMPLES = 2000


class Retrainer:
    """Repeats a training without some rows; each set of rows once."""

    def __init__(self, study: InfluenceStudy, total: int) -> None:
        self._study, self._total = study, total
        self._path = study.work.scratch / "retrained.json"
        self._losses: dict[str, float] = json.loads(self._path.read_text()) if self._path.is_file() else {}
        self.done = 0

    def loss_without(self, rows: Sequence[int]) -> float:
        """Return the mean loss of the queries for a model trained without some rows (by index)."""
        study = self._study
        ids = sorted(study.keys[row] for row in rows)
        key = digest_of([study.tuned.digest, [query.name for query in study.queries], ids])
        if key not in self._losses:
            self._losses[key] = self._retrain(tuple(ids))
            write_atomically(self._path, json.dumps(self._losses, sort_keys=True).encode())
        self.done += 1
        study.work.events.progress(self.done, self._total, "retrainings")
        return self._losses[key]

    def _retrain(self, ids: tuple[str, ...]) -> float:
        from luthier.tune.run import TrainingRun
        from luthier.tune.technique import Technique

        study = self._study
        step = study.step.model_copy(
            update={
                "without": ids, "keep_states": 0, "save_epochs": 0, "report_to": (), "processes": 1, "keep_trunk": False
            }
        )  # fmt: skip
        assert isinstance(step.technique, Technique), "a plan refuses techniques that train no network"
        root = study.work.scratch / "retraining"
        shutil.rmtree(root, ignore_errors=True)
        (root / "folder").mkdir(parents=True)
        (root / "scratch").mkdir()
        work = replace(
            study.work,
            folder=root / "folder",
            scratch=root / "scratch",
            events=RunEventEmitter().of(study.work.name),
            kept=None,
        )
        run = TrainingRun(step, step.technique, work)
        run.run()
        reader = LossReader(run.trained, study.objective, study.run.count_pack_tokens(study.material))
        losses = [study.mean_loss(query, reader) for query in study.queries]
        shutil.rmtree(root, ignore_errors=True)
        return float(numpy.mean(losses))


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Return Spearman's rank correlation; 0 where one of the two is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(values) for values in (first, second)]
    if any(float(values.std()) == 0 for values in ranks):
        return 0.0
    return float(numpy.corrcoef(*ranks)[0, 1])


def estimate_rank_correlation(one: Sequence[float], other: Sequence[float], seed: int) -> EstimatedNumber:
    """Return Spearman's rank correlation with a 95 % bootstrap interval over pairs."""
    draw = numpy.random.Generator(numpy.random.PCG64(seed))
    first, second = numpy.asarray(one), numpy.asarray(other)
    correlations = sorted(
        spearman(first[drawn].tolist(), second[drawn].tolist())
        for drawn in (draw.integers(0, len(first), len(first)) for _ in range(_RESAMPLES))
    )
    low, high = (correlations[round(share * (len(correlations) - 1))] for share in (0.025, 0.975))
    return EstimatedNumber(value=spearman(one, other), low=low, high=high)


def verify_scores(
    study: InfluenceStudy, scores: Mapping[str, Tensor], retrainings: int, top: int
) -> tuple[dict[str, EstimatedNumber], str, InfluenceVerification]:
    """Return the LDS of each method's (rows,) scores, the best method, and the effect of removing its
    strongest rows.
    """
    seed, count = study.work.seed, len(study.keys)
    draw = numpy.random.Generator(numpy.random.PCG64([seed, 39]))
    retrainer = Retrainer(study, retrainings)
    subsets = [sorted(draw.permutation(count)[: count // 2].tolist()) for _ in range(retrainings - 2 - RANDOM)]
    losses = [retrainer.loss_without(rows) for rows in subsets]
    lds = {
        name: estimate_rank_correlation([float(own[rows].sum()) for rows in subsets], losses, seed)
        for name, own in scores.items()
    }
    best = max(lds, key=lambda name: lds[name].value)
    study.open_state(study.kept_steps[-1])
    whole = float(numpy.mean([study.mean_loss(query) for query in study.queries]))
    drawn = [sorted(draw.permutation(count)[:top].tolist()) for _ in range(RANDOM)]
    changes = [retrainer.loss_without(rows) - whole for rows in drawn]
    by_chance = EstimatedNumber(value=float(numpy.mean(changes)), low=min(changes), high=max(changes))
    order = torch.argsort(scores[best], descending=True, stable=True).tolist()
    removals = []
    for what, rows in (("proponents", order[:top]), ("opponents", order[-top:])):
        foreseen, change = float(scores[best][rows].sum()), retrainer.loss_without(rows) - whole
        removals.append(
            RowRemoval.model_validate(
                {"what": what, "rows": top, "foreseen": foreseen, "change": change, "random": by_chance}
            )
        )
    return (
        lds,
        best,
        InfluenceVerification(retrainings=retrainings, subsets=len(subsets), loss=whole, removals=tuple(removals)),
    )
