"""What a search for settings tried and found: `search.json` and `trials.parquet` beside the model that it chose.

The step `search` writes them; `luthier.auto`, reports and the studio read them. Nothing in them differs from run to run
on one machine: how long a trial took stands in the timing of its own artifact, which the trial names by its digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from luthier.core.artifact import Artifact
from luthier.core.files import json_bytes, translate_write_errors, write_atomically
from luthier.core.hashing import canonical_json

SEARCH, TRIALS = "search.json", "trials.parquet"
BRANCH = "technique"
"""The setting of a trial that names its branch of the space."""
_Number = int | float
Better = Literal["higher", "lower"]


class _Frozen(BaseModel):
    """Frozen, without unknown fields, without NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TrialRow(_Frozen):
    """One trial at one rung: a row of `trials.parquet`; a trial that was promoted has a row at the next rung, too."""

    trial: int
    """From 0, which is `of` itself."""
    rung: int
    """From 0, the shortest."""
    share: _Number
    """The share of the whole training's work at this rung, from above 0 to 1."""
    settings: dict[str, Any]
    """By dotted path, relative to `of`; `technique` names the branch."""
    value: _Number | None = None
    """The metric on the validation rows, as it is measured; None where the trial failed."""
    low: _Number | None = None
    high: _Number | None = None
    """The ends of the value's 95 % interval."""
    work: _Number = 0.0
    """What this rung cost, in whole trainings of `of`."""
    digest: str = ""
    """The artifact of the model that was trained; empty where there is none."""
    failed: str = ""
    """Why the trial failed; empty where it did not."""
    overrides: tuple[str, ...] = ()
    """What `luthier run` is given to make the same training."""

    @property
    def branch(self) -> str:
        """The technique, or an empty text where the space has one branch without a name."""
        return str(self.settings.get(BRANCH, ""))


class AimRecord(_Frozen):
    """Something that was measured of each finalist, and which way it is better."""

    name: str
    """A metric, or `latency`, `memory`, `price`, `bias`, `forgetting`."""
    better: Better
    unit: str = ""
    """Such as `ms` or `bytes`; empty where it has none."""


class FinalistRecord(_Frozen):
    """A trial that was trained whole, as the recipe would, by several seeds, and measured on the test rows."""

    trial: int
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    values: tuple[_Number, ...]
    """The metric on the test rows of each seed's model."""
    value: _Number
    """Their mean."""
    low: _Number
    high: _Number
    """The ends of the 95 % interval of the mean, over the test rows."""
    parameters: int | None = None
    """Weights of the model that answers."""
    aims: dict[str, _Number] = {}
    """What was measured of the aims, by name; the metric itself is among them where it is an aim."""
    digests: tuple[str, ...] = ()
    """The artifacts of the models, by seed."""
    overrides: tuple[str, ...] = ()
    refused: str = ""
    """The constraint that it does not meet; empty where it meets all."""


class SearchComparison(_Frozen):
    """A finalist minus `of` or minus the plain baseline, on the same test rows, seeds averaged row by row."""

    trial: int
    against: Literal["of", "plain"]
    difference: _Number
    low: _Number
    high: _Number
    p: _Number
    """Two-sided."""
    p_holm: _Number
    """The same after Holm's correction over all comparisons with the same model: all finalists that were looked at."""
    test: str
    rows: int
    """The test rows behind it, or clusters of rows that hang together."""
    detectable: _Number
    """The smallest difference that so many rows show with 80 % power."""


class ShrunkenGain(_Frozen):
    """What the best finalist gains over `of` when it is allowed for that it was chosen for its value."""

    observed: _Number
    """The paired difference as it was measured; positive where the finalist is better, whatever the metric."""
    value: _Number
    """The same shrunken towards the mean of all finalists."""
    low: _Number
    high: _Number
    kept: _Number
    """The share of the distance from the finalists' mean that is kept: 0 where they differ by no more than chance."""


class SearchVerdict(_Frozen):
    """Which trial is taken, and how sure that is."""

    winner: int
    """The trial that is taken: 0 where `of` stays."""
    best: int
    """The trial with the best mean on the test rows among those that meet the constraints."""
    better: bool
    """Whether `winner` is clearly better than `of`: Holm's p below 0.05 and a difference on the better side."""
    sentence: str
    comparisons: tuple[SearchComparison, ...] = ()
    gain: ShrunkenGain | None = None
    """Of the best finalist besides `of`; None where `of` itself is the only one."""
    prefer: str = ""
    """The preference that decided between the finalists; empty where it changed nothing."""


class SettingImportance(_Frozen):
    """How much of the difference between good and other trials a setting explains, within its branch."""

    branch: str
    """The technique; empty for what all trials share, and for the choice of the technique itself."""
    setting: str
    """The dotted path; `technique` for the choice of the branch."""
    share: _Number
    """From 0 to 1; those of a branch add up to 1, or are all 0 where nothing sets its best trials apart."""
    trials: int
    """How many trials it was computed from."""


class SelectionLuck(_Frozen):
    """How much of the best validation score is expected by luck alone, from the number of trials and rows."""

    trials: int
    rows: int
    expected: _Number
    """How much of the best trial's value is expected by luck alone, since it was chosen by these rows."""
    observed: _Number
    """How far the best trial stands above `of` on the validation rows."""
    believed: bool
    """Whether the rest of it, without what luck is expected to give, is clearly above 0."""
    sentence: str


class SearchRecord(_Frozen):
    """All that is said of a search: `search.json`."""

    of: str
    """The name of the step whose settings were searched."""
    metric: str
    better: Better
    space: dict[str, dict[str, dict[str, Any]]]
    """By branch and dotted path: `values`, or `low`, `high`, `log`, `integer`."""
    budget: _Number
    """In whole trainings of `of`."""
    spent: _Number
    """The same: all rungs of all trials."""
    spent_finalists: _Number = 0.0
    """What training the finalists by several seeds took, beyond the budget of the search."""
    trials: int
    failed: int = 0
    stopped: str = ""
    """Why it ended before the budget was spent; empty where it did not."""
    validation_rows: int
    test_rows: int
    seeds: int = 1
    """By how many seeds each finalist was trained."""
    aims: tuple[AimRecord, ...] = ()
    constraints: tuple[str, ...] = ()
    prefer: str = ""
    finalists: tuple[FinalistRecord, ...] = ()
    """Best first; `of` (trial 0) is among them."""
    plain: _Number | None = None
    """The metric of the plain baseline on the test rows."""
    verdict: SearchVerdict
    importance: tuple[SettingImportance, ...] = ()
    front: tuple[int, ...] = ()
    """Finalists that no other surpasses in every aim, by trial."""
    luck: SelectionLuck | None = None

    @classmethod
    def read(cls, model: Artifact) -> SearchRecord:
        """That of a model which a search chose."""
        return cls.model_validate(model.read_json(SEARCH))

    def write(self, folder: Path) -> None:
        """Write `search.json` into a folder."""
        write_atomically(folder / SEARCH, json_bytes(self.model_dump(mode="json")))


def has_search_record(artifact: Artifact) -> bool:
    """Whether an artifact is a model that a search chose."""
    return artifact.manifest.makes == "model" and any(entry.path == SEARCH for entry in artifact.manifest.files)


_TEXTS = ("settings", "digest", "failed", "overrides")
_WHOLE = ("trial", "rung")
_COLUMNS = ("trial", "rung", "share", "settings", "value", "low", "high", "work", "digest", "failed", "overrides")


def write_trials(folder: Path, rows: Sequence[TrialRow]) -> None:
    """Write `trials.parquet`, ordered by rung and trial; settings and overrides are JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        name: pa.string() if name in _TEXTS else pa.int64() if name in _WHOLE else pa.float64() for name in _COLUMNS
    }
    ordered = sorted(rows, key=lambda row: (row.rung, row.trial))
    records = [
        {**row.model_dump(), "settings": canonical_json(row.settings), "overrides": canonical_json(list(row.overrides))}
        for row in ordered
    ]
    path = folder / TRIALS
    with translate_write_errors(path):
        pq.write_table(pa.Table.from_pylist(records, pa.schema(list(types.items()))), path)


def read_trials(model: Artifact) -> list[TrialRow]:
    """The trials of the search that chose a model, ordered by rung and trial."""
    import polars as pl

    return [_parse_trial(row) for row in pl.read_parquet(model.path(TRIALS)).iter_rows(named=True)]


def _parse_trial(row: Mapping[str, Any]) -> TrialRow:
    read = {"settings": json.loads(row["settings"]), "overrides": json.loads(row["overrides"])}
    return TrialRow.model_validate({**row, **read})
