"""Advice for some rows: which technique, what it takes, how good it will be, and what would change the answer."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.auto.advice.evidence import EvidenceRecord, convert_outcome, read_shipped_evidence
from luthier.auto.advice.predict import (
    TECHNIQUES,
    AdviceLimits,
    AdviceTarget,
    ModelChoice,
    RankedTechnique,
    TechniqueCost,
    TechniqueRanking,
    rank_techniques,
)
from luthier.auto.advice.profile import AdviceProfile, build_advice_profile
from luthier.auto.advice.training import count_training_rows, suggest_training_for_proposal
from luthier.core.errors import InputError, LuthierError, SourceLocation, did_you_mean
from luthier.core.expressions import parse_duration
from luthier.core.training_outcomes import read_outcomes
from luthier.recipe.workspace import Workspace

if TYPE_CHECKING:
    from luthier.auto.advice.cost import AdviceMaterial, BaseModelSpec
    from luthier.data.suggest.propose import RecipeProposal, Want
    from luthier.data.suggest.separability import LabelSeparability

MODEL = "smollm2-135m-instruct"
"""The base model when none is named."""
_BYTES = {"": 1.0, "B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_SIZE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([KMGT]?B)?", re.IGNORECASE)
_LATENCY = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?(ms|s)")
_TARGET = re.compile(r"([A-Za-z][A-Za-z0-9_]{0,63}) ?>=? ?([0-9]{1,3}(?:\.[0-9]{1,9})?)")
_OTHER_SCALE = frozenset({"chrf"})
"""Metrics that do not go from 0 to 1."""
_PROBE_ROWS = 24
"""Number of rows that the base model answers."""
_PROBE_SOURCE_ROWS = 400


class AdviceOptions(NamedTuple):
    """Options of advice besides the rows, as a user writes them."""

    model: str | None = None
    budget: str | None = None
    memory: str | None = None
    latency: str | None = None
    target: str | None = None
    probe: bool = False


@dataclass(frozen=True, kw_only=True)
class RowsAdvice:
    """Advice for some rows."""

    rows: str
    """Description of the rows."""
    profile: AdviceProfile
    ranking: TechniqueRanking
    training: dict[str, int]
    """Epochs and batch size of a network, where they are not the defaults."""
    training_reason: str
    notes: tuple[str, ...] = ()
    speeds: tuple[str, ...] = ()
    """Of each base model, whether the speed behind its times was measured on this machine."""

    def as_json(self) -> dict[str, Any]:
        """The documented shape of `advise --json`."""
        first = self.ranking.first
        return {
            "rows": self.rows,
            "profile": self.profile.model_dump(mode="json"),
            "metric": self.ranking.metric,
            "first": None if first is None else {"technique": first.technique, "model": first.model},
            "techniques": [asdict(technique) for technique in self.ranking.techniques],
            "turns": list(self.ranking.turns),
            "training": {"settings": self.training, "why": self.training_reason},
            "notes": list(self.notes),
            "speeds": list(self.speeds),
        }


def advise(
    data: Path | str,
    *,
    prompt: str | None = None,
    answer: str | None = None,
    want: Want | None = None,
    workspace: Workspace | None = None,
    **options: Any,
) -> RowsAdvice:
    """Advise on a file, a folder, a pattern or a URL of rows; `options` are those of `AdviceOptions`.

    Raises:
        InputError: an option that cannot be read, rows that cannot be read, or a model that is not known.
    """
    from luthier.data.suggest.propose import propose_recipe

    request = AdviceOptions(**options)
    _limits(request), _target(request.target)  # before the rows are read
    workspace = workspace or Workspace.open_current()
    path = str(data) if "://" in str(data) else str(workspace.resolve(data))
    proposal = propose_recipe(path, shown=path, prompt=prompt, answer=answer, want=want, quick=True)
    return advise_on_proposal(workspace, proposal, workspace.folder, request)


def advise_on_proposal(
    workspace: Workspace,
    proposal: RecipeProposal,
    recipe_dir: Path,
    options: AdviceOptions = AdviceOptions(),  # noqa: B008 - a tuple
    *,
    models: Sequence[str] = (),
) -> RowsAdvice:
    """Advise on rows with a proposed recipe, whose paths are relative to `recipe_dir`; besides the techniques over one
    base model, LoRA is ranked over further `models`.
    """
    from luthier.auto.advice.cost import describe_model_speed, estimate_technique_costs

    limits, target = _limits(options), _target(options.target)
    metric = choose_advice_metric(proposal, target)
    material = _material(proposal, recipe_dir)
    base = _base(workspace, options.model or MODEL)
    latency = limits.latency_s is not None
    costs = estimate_technique_costs(material, base, latency=latency)
    bases = [base]
    for name in models:
        bases.append(_base(workspace, name))
        costs |= estimate_technique_costs(material, bases[-1], ["lora"], latency=latency)
    profile = profile_proposal(proposal)
    notes, probes = list[str](), list[EvidenceRecord]()
    if options.probe:
        profile = profile.model_copy(update={"separability": _probed(proposal, recipe_dir) or profile.separability})
        probes, note = _probe_base(workspace, proposal, recipe_dir, profile, base, metric)
        notes += [note] if note else []
    found = _ranked(proposal, profile, costs, metric, notes, probes, limits=limits, target=target)
    return replace(found, speeds=tuple(filter(None, (describe_model_speed(material, model) for model in bases))))


def advise_without_costs(proposal: RecipeProposal, model: str) -> RowsAdvice:
    """Advice from quality alone, without a look at the base model or at this machine's speed: what `luthier new` writes
    into a recipe."""
    base = _parameters(model)
    costs = {
        ModelChoice(technique, model, base): TechniqueCost(seconds=_NETWORK_S)
        for technique in TECHNIQUES
        if technique != "plain"
    }
    if proposal.task == "label":
        costs[ModelChoice("plain")] = TechniqueCost(seconds=_PLAIN_S)
    return _ranked(proposal, profile_proposal(proposal), costs, choose_advice_metric(proposal, None), [], [])


_NO_WORDS = "it weighs words, and these rows are pictures or sounds without any"
_NETWORK_S, _PLAIN_S = 60.0, 2.0
"""Minimum advantage in seconds of a plain classifier over a network, known before planning either."""


def _ranked(
    proposal: RecipeProposal,
    profile: AdviceProfile,
    costs: dict[ModelChoice, TechniqueCost],
    metric: str,
    notes: Sequence[str],
    probes: Sequence[EvidenceRecord],
    *,
    limits: AdviceLimits = AdviceLimits(),  # noqa: B008 - a tuple
    target: AdviceTarget | None = None,
) -> RowsAdvice:
    past = read_outcomes()
    if proposal.is_media_alone and (plain := ModelChoice("plain")) in costs:
        costs = {**costs, plain: TechniqueCost(refused=_NO_WORDS)}
    records = (*read_shipped_evidence(), *map(convert_outcome, past.records), *probes)
    training = suggest_training_for_proposal(proposal)
    return RowsAdvice(
        rows=proposal.profile.size_told,
        profile=profile,
        ranking=rank_techniques(profile, costs, records, metric=metric, limits=limits, target=target),
        training=training.settings,
        training_reason=training.why,
        notes=(*notes, *([past.note] if past.note else [])),
    )


def profile_proposal(proposal: RecipeProposal) -> AdviceProfile:
    """The profile of the rows that a proposal trains on."""
    held_out = round(proposal.left * proposal.split["test"])
    rows = count_training_rows(proposal)
    return build_advice_profile(proposal.profile, proposal.task, proposal.objective, rows, held_out)


def choose_advice_metric(proposal: RecipeProposal, target: AdviceTarget | None) -> str:
    """Return the metric of the advice: the target's, else the first proposed one."""
    known = [name for name in proposal.metrics if name not in _OTHER_SCALE]
    if target is None:
        return known[0]
    if target.metric not in known:
        hint = did_you_mean(target.metric, known)
        what = f"{target.metric!r} is not foretold for these rows; known: {', '.join(known)}"
        raise InputError(what, where=SourceLocation(field="--target"), hint=hint)
    return target.metric


def _material(proposal: RecipeProposal, recipe_dir: Path) -> AdviceMaterial:
    from luthier.auto.advice.cost import AdviceMaterial
    from luthier.data.source import Source
    from luthier.data.split import Split
    from luthier.data.suggest.settings import predict_dataset_spec

    spec = predict_dataset_spec(Source.parse(proposal.source), Split.model_validate(proposal.split), recipe_dir)
    training = suggest_training_for_proposal(proposal).settings
    return AdviceMaterial(spec, proposal.objective, tuple(proposal.metrics), training, recipe_dir)


def _base(workspace: Workspace, word: str) -> BaseModelSpec:
    from luthier.auto.advice.cost import BaseModelSpec
    from luthier.models.describe import describe_model_folder
    from luthier.recipe.models import predict_base_spec

    spec = predict_base_spec(workspace, word)
    here = spec.tokenizer is not None
    described = describe_model_folder(spec.tokenizer).parameters if spec.tokenizer is not None else spec.parameters
    return BaseModelSpec(word, spec, described or _parameters(word), here)


def _parameters(model: str) -> int:
    from luthier.models.catalog import CATALOG

    return CATALOG[model].parameters if model in CATALOG else 0


def _probed(proposal: RecipeProposal, recipe_dir: Path) -> LabelSeparability | None:
    """The plain classifier itself, out of fold; None where answers are no classes."""
    from luthier.auto.advice.probe import probe_plain_classifier
    from luthier.data.source import Source
    from luthier.data.suggest.survey import survey_source

    if proposal.task != "label":
        return None
    source = Source.parse(proposal.source)
    rows = survey_source(source, recipe_dir, proposal.profile.path, "label", quick=True).rows
    spellings = proposal.profile.spellings
    return probe_plain_classifier([row.prompt for row in rows], [spellings.get(row.says, row.says) for row in rows])


def _probe_base(
    workspace: Workspace,
    proposal: RecipeProposal,
    recipe_dir: Path,
    profile: AdviceProfile,
    base: BaseModelSpec,
    metric: str,
) -> tuple[list[EvidenceRecord], str]:
    """Return the base model's result on a few rows; a note where it was not evaluated."""
    from luthier.artifacts.evaluation import EvaluationMetrics, EvaluationSummary
    from luthier.auto.advice.probe import read_base_probe
    from luthier.recipe.schema import Recipe

    if not base.here:
        return [], f"{base.name} is not here, so that it was not asked; `luthier models get {base.name}` fetches it"
    local = workspace.resolve(base.name)
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe.model_validate(
            {
                "luthier": 1,
                "name": "probe",
                "model": str(local.absolute()) if local.exists() else base.name,
                "steps": {
                    "data": _bounded(proposal, recipe_dir),
                    "report": {
                        "kind": "evaluate",
                        "data": "data",
                        "model": "model",
                        "limit": _PROBE_ROWS,
                        "metrics": [metric],
                        "baselines": [],
                        "tasks": [],
                    },
                },
            }
        ).in_workspace(workspace.with_folder(Path(folder)))
        try:
            report = recipe.run()["report"].artifact
        except LuthierError as error:
            return [], f"{base.name} could not be asked: {error.message}"
        summary = EvaluationSummary.read(report)
        score = EvaluationMetrics.read(report).models[summary.subject][metric]
        return [read_base_probe(profile, metric, score.value, summary.rows, base.name)], ""


def _bounded(proposal: RecipeProposal, recipe_dir: Path) -> dict[str, Any]:
    """The step that prepares a few of the rows, by paths that lead there from anywhere."""
    source = {**proposal.source, "limit": _PROBE_SOURCE_ROWS}
    if "path" in source and "://" not in source["path"]:
        source["path"] = str((recipe_dir / source["path"]).absolute())
    return {**proposal.prepare(), "source": source, "ops": [], "split": {"test": 0.3}}


def _limits(options: AdviceOptions) -> AdviceLimits:
    return AdviceLimits(
        _duration("--budget", options.budget), _size("--memory", options.memory), _latency("--latency", options.latency)
    )


def _duration(field: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(parse_duration(text))
    except ValueError as error:
        raise InputError(str(error), where=SourceLocation(field=field), hint="write it such as 30m or 2h") from error
    return _positive(field, seconds, text)


def _size(field: str, text: str | None) -> float | None:
    if text is None:
        return None
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        what = f"expected an amount of memory, got {text[:40]!r}"
        raise InputError(what, where=SourceLocation(field=field), hint="write it such as 8GB or 512MB")
    return _positive(field, float(match[1]) * _BYTES[(match[2] or "").upper()], text)


def _latency(field: str, text: str | None) -> float | None:
    if text is None:
        return None
    match = _LATENCY.fullmatch(text.strip())
    if match is None:
        what = f"expected the time of an answer, got {text[:40]!r}"
        raise InputError(what, where=SourceLocation(field=field), hint="write it such as 200ms or 1.5s")
    return _positive(field, float(match[1]) / (1000 if match[2] == "ms" else 1), text)


def _positive(field: str, value: float, text: str) -> float:
    if value <= 0:
        what = f"expected more than nothing, got {text[:40]!r}"
        raise InputError(what, where=SourceLocation(field=field), hint="leave it out for no limit")
    return value


def _target(text: str | None) -> AdviceTarget | None:
    if text is None:
        return None
    match = _TARGET.fullmatch(text.strip())
    if match is None or not 0 < float(match[2]) < 1:
        what = f"expected a metric and a bound between 0 and 1, got {text[:60]!r}"
        raise InputError(what, where=SourceLocation(field="--target"), hint='write it such as "macro_f1 >= 0.9"')
    return AdviceTarget(match[1], float(match[2]))


def describe_quality(one: RankedTechnique, metric: str) -> str:
    """The quality that is expected, with its interval."""
    return f"{metric} {one.quality:.2f} ({one.low:.2f} to {one.high:.2f})"
