"""Compares runs, and versions of a data set: differences of their recipes, numbers and rows.

Slow comparisons, and those with libraries that the studio's own process does not load, run as `luthier compare` in a
separate process; their results never change and are cached.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from luthier.artifacts.dataset import DatasetSummary, list_splits
from luthier.artifacts.evaluation import EvaluationMetrics, EvaluationSummary, MetricScore
from luthier.artifacts.findings import EVENTS
from luthier.core.artifact import Artifact
from luthier.core.db import Run
from luthier.core.errors import InputError, LuthierError, SourceLocation, SystemResourceError, UnknownName
from luthier.core.files import translate_write_errors, write_atomically
from luthier.core.hashing import digest_of
from luthier.core.system.process import python_command
from luthier.recipe.locate import load_run_plan
from luthier.recipe.planner import RecipePlan
from luthier.recipe.workspace import Workspace

MOST_RUNS = 5
"""Runs that are compared at once."""
_PATIENCE_S = 600
_EXAMPLES = 12
"""Rows that are shown of each kind of difference."""
_SHOWN_CHARS = 600


@dataclass(frozen=True)
class ComparedRun:
    """A recorded run and what it made."""

    run: Run
    plan: RecipePlan

    @property
    def id(self) -> str:
        """The run's id."""
        return self.run.id

    @cached_property
    def evaluation(self) -> Artifact | None:
        """Its evaluation; None where there is none."""
        found = (planned.name for planned in self.plan if planned.step.makes == "evaluation" and planned.cached)
        name = next(found, None)
        return self.plan.artifact(name) if name is not None else None

    @cached_property
    def scores(self) -> dict[str, MetricScore]:
        """Its model's numbers, by metric."""
        if self.evaluation is None:
            return {}
        return EvaluationMetrics.read(self.evaluation).models.get(EvaluationSummary.read(self.evaluation).subject, {})

    @cached_property
    def data(self) -> Artifact | None:
        """The data set that it measured on; None where it is not in the store."""
        for planned in self.plan:
            if planned.step.makes == "evaluation":
                name = self.plan.recipe.references(planned.step).get("data")
                return next(
                    (self.plan.artifact(two.name) for two in self.plan if two.name == name and two.cached), None
                )
        return None


def find_compared_runs(workspace: Workspace, runs: Sequence[str]) -> list[ComparedRun]:
    """Recorded runs by their ids; `InputError` for fewer than two or more than five, `UnknownName` for one that is not
    there."""
    names = list(dict.fromkeys(runs))
    if not 2 <= len(names) <= MOST_RUNS:
        hint = f"choose two to {MOST_RUNS} of the runs that have begun"
        raise InputError(f"expected two to {MOST_RUNS} runs, got {len(names)}", hint=hint)
    return [_compared(workspace, name) for name in names]


def _compared(workspace: Workspace, name: str) -> ComparedRun:
    run = workspace.find_run(name)
    if run is None:
        raise UnknownName(f"there is no run {name[:80]!r}", hint="`luthier runs` lists them")
    return ComparedRun(run, load_run_plan(workspace, run))


def list_setting_differences(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str]]]:
    """The settings in which the runs' recipes differ, defaults included: path, and the value of each."""
    flat = [dict(_flat(run.plan.recipe.model_dump(mode="json", exclude={"luthier"}))) for run in runs]
    paths = dict.fromkeys(path for entry in flat for path in entry)
    rows = [(path, [entry.get(path, "") for entry in flat]) for path in paths]
    return [(path, values) for path, values in rows if len(set(values)) > 1]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and any(isinstance(entry, (dict, list)) for entry in value):
        for at, inner in enumerate(value):
            yield from _flat(inner, f"{path}.{at}")
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class PairedRuns(NamedTuple):
    """The first run against another one, on the same rows."""

    other: str
    facts: Mapping[str, Any]

    @property
    def comparisons(self) -> list[Mapping[str, Any]]:
        """The differences, first minus other, by metric."""
        return list(self.facts.get("comparisons", ()))


def pair_runs(cache: ComparisonCache, runs: Sequence[ComparedRun]) -> list[PairedRuns]:
    """Return the paired differences of the first run with each of the others; a `LuthierError` says why
    there are none.
    """
    first, *others = (run.id for run in runs)
    facts = cache.compare([first, *others])
    if "others" in facts:
        return [PairedRuns(other, facts["others"][other]) for other in others]
    return [PairedRuns(others[0], facts)]


class FlippedRow(NamedTuple):
    """A row that one model has right and the other wrong."""

    id: str
    prompt: str
    reference: str
    first: str
    other: str
    fixed: bool
    """Whether the first run's model is the correct one."""


def list_flipped_rows(first: ComparedRun, other: ComparedRun, facts: Mapping[str, Any]) -> list[FlippedRow]:
    """Return the listed rows that only one model has right, with both answers."""
    fixed, ids = list(facts.get("fixed", ())), [*facts.get("fixed", ()), *facts.get("broken", ())]
    if not ids or first.evaluation is None or other.evaluation is None:
        return []
    ours, theirs = _answers(first.evaluation, ids), _answers(other.evaluation, ids)
    texts = _texts(first.data, [id_.partition("/")[0] for id_ in ids]) if first.data is not None else {}
    return [
        FlippedRow(
            id_, texts.get(id_.partition("/")[0], ("", ""))[0], ours[id_][0], ours[id_][1], theirs[id_][1], id_ in fixed
        )
        for id_ in ids
        if id_ in ours and id_ in theirs
    ]  # fmt: skip


def _answers(evaluation: Artifact, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Reference and answer of an evaluation's own model, by row."""
    import polars as pl

    subject = EvaluationSummary.read(evaluation).subject
    frame = pl.scan_parquet(evaluation.path("predictions.parquet"))
    lazy_frame = frame.filter((pl.col("model") == subject) & pl.col("id").is_in(list(ids)))
    rows = lazy_frame.select("id", "reference", "prediction").collect()
    return {name: (reference, prediction) for name, reference, prediction in rows.iter_rows()}


def _texts(dataset: Artifact, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """What the user said last and what was answered, of rows of a data set, kept and dropped."""
    import polars as pl

    found: dict[str, tuple[str, str]] = {}
    for split in list_splits(dataset):
        frame = pl.scan_parquet(dataset.path(f"examples/{split}.parquet")).filter(pl.col("id").is_in(list(ids)))
        for name, messages in frame.select("id", "messages").collect().iter_rows():
            turns = json.loads(messages)
            prompt = next((turn.get("content") or "" for turn in turns[-2::-1] if turn["role"] == "user"), "")
            found[name] = (_short(prompt), _short(turns[-1].get("content") or ""))
    if any(entry.path == EVENTS for entry in dataset.manifest.files):
        events = pl.scan_parquet(dataset.path(EVENTS)).filter(
            (pl.col("action") == "drop") & pl.col("id").is_in(list(ids))
        )
        if "text" in events.collect_schema().names():
            for name, text in events.select("id", "text").collect().iter_rows():
                found.setdefault(name, (_short(text or ""), ""))
    return found


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


class DatasetVersion(NamedTuple):
    """A data set as some runs made it."""

    digest: str
    run: str
    """The latest run that made or found it."""
    made_at: datetime
    rows: int


def list_dataset_versions(runs: Sequence[Run], workspace: Workspace, step: str) -> list[DatasetVersion]:
    """The versions of a step's data set that are in the store, the latest first."""
    store = workspace.open_store()
    found: dict[str, DatasetVersion] = {}
    for run in runs:
        digest = next((made.artifact for made in run.steps if made.name == step), None)
        if digest is not None and digest not in found and store.has(digest):
            rows = sum(DatasetSummary.read(store.open(digest)).rows.values())
            found[digest] = DatasetVersion(digest, run.id, run.started_at, rows)
    return list(found.values())


class RowDifference(NamedTuple):
    """One row in two versions of a data set; a version that has it not says nothing."""

    id: str
    before: tuple[str, str]
    after: tuple[str, str]


class VersionDifference(NamedTuple):
    """What differs between two versions of a data set."""

    counts: Mapping[str, int]
    lost_because: Mapping[str, int]
    moved: Mapping[str, int]
    examples: Mapping[str, list[RowDifference]]
    """Rows of each kind: added, lost, changed."""


def compare_versions(cache: ComparisonCache, before: Artifact, after: Artifact) -> VersionDifference:
    """What became of the rows of one version in another."""
    facts = cache.compare([before.digest, after.digest])
    shown = {kind: facts[kind][:_EXAMPLES] for kind in ("added", "lost", "changed")}
    ids = [entry for some in shown.values() for entry in some]
    old, new = _texts(before, ids), _texts(after, ids)
    nothing = ("", "")
    return VersionDifference(
        facts["counts"],
        facts["lost_because"],
        {name: len(rows) for name, rows in facts["moved"].items()},
        {
            kind: [RowDifference(entry, old.get(entry, nothing), new.get(entry, nothing)) for entry in some]
            for kind, some in shown.items()
        },
    )


class ComparisonCache:
    """What `luthier compare` said, by what it was asked; it runs in a process of its own."""

    def __init__(self, workspace: Workspace, folder: Path) -> None:
        """`folder` is where it is kept."""
        self._workspace, self._folder = workspace, folder

    def compare(self, words: Sequence[str]) -> dict[str, Any]:
        """The facts of a comparison of runs or digests; its error, where there is one, is raised here."""
        file = self._folder / f"{digest_of(list(words))[:24]}.json"
        try:
            kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = self._asked(words)
            with translate_write_errors(self._folder):
                self._folder.mkdir(0o700, parents=True, exist_ok=True)
            write_atomically(file, json.dumps(kept, ensure_ascii=False).encode())
        return kept

    def _asked(self, words: Sequence[str]) -> dict[str, Any]:
        try:
            process = subprocess.run(  # noqa: S603  # this very program
                python_command("-m", "luthier", "compare", *words, "--json"), stdin=subprocess.DEVNULL,
                capture_output=True, timeout=_PATIENCE_S, check=False, cwd=self._workspace.folder,
                env={**os.environ, **self._workspace.environment},
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            where = SourceLocation(field=" ".join(words))
            raise SystemResourceError(
                "the comparison took too long", where=where, hint="compare them in a terminal"
            ) from error
        try:
            facts: dict[str, Any] = json.loads(process.stdout)
        except ValueError as error:
            last = process.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise LuthierError(f"the comparison ended without an answer: {last[:300]}") from error
        if "error" in facts:
            raise LuthierError.from_json(facts)
        return facts
