"""The models that a project made: what each was made from, how it came out, and the names that mean it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.artifacts.evaluation import EvaluationMetrics, EvaluationSummary, MetricScore
from luthier.artifacts.training import TUNED_CARD, TrainingRecord, kind_of_part
from luthier.commands.projects.workspace import load_plan, read_report
from luthier.core.artifact import Artifact
from luthier.core.errors import LuthierError, UnknownName
from luthier.core.store import Store
from luthier.recipe.workspace import Workspace
from luthier.recipe.yaml import read_yaml
from luthier.traces.releases import Release, ReleasedModel, current_releases

if TYPE_CHECKING:
    from luthier.eval.report.html import PageLanguage

_KINDS = ("tune", "merge", "search")
_MOST_RUNS = 50


class ModelScore(NamedTuple):
    """A metric of a model beside that of its base."""

    metric: str
    own: MetricScore
    base: MetricScore | None


class GateOutcome(NamedTuple):
    """How a gate decided about a model."""

    step: str
    verdict: str
    rules: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ProjectModel:
    """A model that a project made."""

    step: str
    word: str
    """What commands call it: `support/recipe.yaml:tune`, or `RUN:tune` for one of an earlier run."""
    digest: str
    is_current: bool
    """Whether the recipe as it is now means it."""
    made_at: datetime | None = None
    size: int = 0
    """Bytes of its files; those of its base model are not among them."""
    seconds: float | None = None
    record: TrainingRecord = field(default_factory=TrainingRecord)
    verdict_sentence: str = ""
    """What its evaluation says, in a sentence."""
    rows: int = 0
    """Held-out rows that it was measured on."""
    scores: tuple[ModelScore, ...] = ()
    gates: tuple[GateOutcome, ...] = ()

    @property
    def technique(self) -> str:
        """The kind of its technique."""
        return kind_of_part(self.record.technique) or ("merge" if self.record.merge else "")

    @property
    def objective(self) -> str:
        """The kind of its objective."""
        return kind_of_part(self.record.objective)

    @property
    def verdict(self) -> str:
        """Of all its gates: FAIL where one failed, else INCONCLUSIVE where one was; empty where there is none."""
        found = [gate.verdict for gate in self.gates]
        return next((entry for entry in ("FAIL", "INCONCLUSIVE", "PASS") if entry in found), "")

    def roles(self, releases: Sequence[Release]) -> list[tuple[str, str]]:
        """The names that mean it now, each with what it is there: stable, canary or shadow."""
        return [
            (release.alias, role)
            for release in releases
            for role in ("stable", "canary", "shadow")
            if (model := getattr(release, role)) is not None and model.digest == self.digest
        ]


class _Made(NamedTuple):
    """The artifacts of a recipe or of one of its runs, by step, and the word for them."""

    word: str
    at: datetime | None
    artifacts: Mapping[str, Artifact]


def list_project_models(workspace: Workspace, file: Path) -> list[ProjectModel]:
    """Every model that a project's recipe or one of its latest runs made and that is still kept, the latest first;
    those of the recipe as it is now stand before all others."""
    found: dict[str, ProjectModel] = {}
    everything = list(_made(workspace, file))
    times = {entry.digest: made.at for made in everything for entry in made.artifacts.values() if made.at}
    for made in everything:
        for step, artifact in made.artifacts.items():
            if artifact.manifest.makes == "model" and artifact.manifest.kind in _KINDS:
                is_current = made.at is None
                model = _model(artifact, f"{made.word}:{step}", is_current, times.get(artifact.digest), made.artifacts)
                project_model = found.get(artifact.digest)
                if project_model is None or (
                    not project_model.scores and model.scores and project_model.is_current == is_current
                ):
                    found[artifact.digest] = model
    return list(found.values())


def find_project_model(workspace: Workspace, file: Path, digest: str) -> ProjectModel:
    """One of them by its digest; `UnknownName` where there is none."""
    for model in list_project_models(workspace, file):
        if model.digest == digest:
            return model
    raise UnknownName(f"this project made no model {digest[:12]!r}", hint="run the project first")


def read_model_report(workspace: Workspace, file: Path, digest: str, language: PageLanguage | None = None) -> str:
    """The report of what made a model, as a page."""
    return read_report(workspace, find_project_model(workspace, file, digest).word.rpartition(":")[0], language)


def list_project_releases(workspace: Workspace, file: Path) -> list[Release]:
    """What each released name of a project means now. Where all projects share a database, a project's names are those
    whose model was made by its recipe, or by a run in its folder."""
    own = workspace.with_folder(file.parent)
    if not own.has_ledger():
        return []
    with own.open_ledger() as ledger:
        releases = list(current_releases(ledger).values())
    if not workspace.database:
        return releases
    store = own.open_store()
    return [release for release in releases if any(_is_of(store, model) for model in release.models)]


def _is_of(store: Store, model: ReleasedModel) -> bool:
    """Whether a store holds a model that was released."""
    return bool(model.digest) and store.has(model.digest)


def _made(workspace: Workspace, file: Path) -> Iterator[_Made]:
    """What is made of the recipe as it is now, and what each of its latest runs made."""
    own = workspace.with_folder(file.parent)
    try:
        plan = load_plan(workspace, file, costs=False)
        artifacts = {
            planned.name: plan.store.open(planned.digest)
            for planned in plan
            if planned.cached and not planned.step.shared
        }
        yield _Made(str(workspace.shorten(file)), None, artifacts)
        title = plan.recipe.name
    except LuthierError:
        title = _title(file)  # the recipe has a mistake: what it made before is shown
    if not own.has_ledger():
        return
    store = own.open_store()
    with own.open_ledger() as ledger:
        runs = ledger.runs_of(title, str(own.folder.absolute()), limit=_MOST_RUNS)
    for run in runs:
        kept = {step.name: store.open(step.artifact) for step in run.steps if store.has(step.artifact)}
        yield _Made(run.id, run.finished_at or run.started_at, kept)


def _title(file: Path) -> str:
    try:
        data = read_yaml(file).data
    except LuthierError:
        return file.parent.name
    return str(data.get("name") or file.parent.name)


def _model(
    artifact: Artifact, word: str, is_current: bool, at: datetime | None, artifacts: Mapping[str, Artifact]
) -> ProjectModel:
    manifest = artifact.manifest
    is_recorded = any(entry.path == TUNED_CARD for entry in manifest.files)
    evaluations = [
        (summary, item)
        for item in artifacts.values()
        if item.manifest.makes == "evaluation"
        and artifact.digest in (summary := EvaluationSummary.read(item)).digests.values()
    ]
    sentence, rows, scores = "", 0, tuple[ModelScore, ...]()
    for summary, evaluation in evaluations[:1]:
        name = next(name for name, digest in summary.digests.items() if digest == artifact.digest)
        sentence = summary.verdict_sentence if summary.subject == name else ""
        rows, scores = summary.rows, _scores(EvaluationMetrics.read(evaluation), name)
    measured = {element.digest for _, element in evaluations}
    return ProjectModel(
        step=word.rpartition(":")[2], word=word, digest=artifact.digest, is_current=is_current, made_at=at,
        size=sum(entry.size for entry in manifest.files), seconds=artifact.timing().get("seconds"),
        record=TrainingRecord.read(artifact) if is_recorded else TrainingRecord(), verdict_sentence=sentence,
        rows=rows, scores=scores,
        gates=tuple(
            GateOutcome(step, verdict["verdict"], verdict["rules"])
            for step, element in artifacts.items()
            if element.manifest.makes == "verdict" and measured & set(element.manifest.inputs.values())
            for verdict in [element.read_json("gate.json")]
        ),
    )  # fmt: skip


def _scores(metrics: EvaluationMetrics, name: str) -> tuple[ModelScore, ...]:
    base = metrics.models.get("base", {}) if name != "base" else {}
    return tuple(ModelScore(metric, own, base.get(metric)) for metric, own in metrics.models.get(name, {}).items())
