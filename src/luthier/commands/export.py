"""Artifacts in forms that other tools read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from luthier.artifacts.evaluation import EvaluationMetrics, EvaluationSummary
from luthier.artifacts.explanation import ExplanationSummary
from luthier.artifacts.findings import Findings, read_findings
from luthier.chat.prompt import PromptPrefix
from luthier.core.artifact import Artifact
from luthier.core.errors import InputError, ModelError, SourceLocation, SystemResourceError, UnknownName, did_you_mean
from luthier.core.files import STORE_ELSEWHERE, write_atomically
from luthier.models.load import is_plain_classifier
from luthier.recipe.errors import add_indefinite_article
from luthier.recipe.locate import ArtifactRef, CommandTarget, find_artifact
from luthier.recipe.models import get_training_system_message, is_base_model, open_base_model

if TYPE_CHECKING:
    from luthier.models.export.model_card import ModelScores

Quant = Literal["f16", "q8_0", "q4_0"]
ModelForm = Literal["hf", "adapter", "merged", "gguf", "sklearn"]
TECHNICAL_RECORD = "record"
"""The form of a recipe's technical record after Annex IV of the EU AI Act."""


class ExportResult(NamedTuple):
    """The files that an export wrote, and the notes of its verification."""

    files: list[str]
    notes: list[str]


@contextmanager
def _elsewhere() -> Iterator[None]:
    """Where the folder cannot be written, another one helps, and no other store."""
    try:
        yield
    except SystemResourceError as error:
        hint = (error.hint or "").replace(STORE_ELSEWHERE, "name another folder (`--to`)")
        raise SystemResourceError(error.message, where=error.where, hint=hint) from error


@_elsewhere()
def export_artifact(
    target: CommandTarget,
    to: Path,
    form: str | None,
    *,
    quant: Quant = "f16",
    dequantize: bool = False,
    with_base: bool | None = None,
) -> ExportResult:
    """Write a data set, a model or what was found in data to the folder `to`; of a recipe, its technical record.

    `with_base` says whether an adapter's folder holds its base model; None: where the base has no id on the hub.
    """
    known = {*_forms("dataset"), *_forms("model"), TECHNICAL_RECORD}
    if form is not None and form.replace("-", "_") not in known:
        where = SourceLocation(field="--format")
        raise UnknownName(f"there is no format {form!r}", where=where, hint=did_you_mean(form, known))
    if form == TECHNICAL_RECORD:
        from luthier.commands.technical_record import write_technical_record

        return ExportResult([write_technical_record(target, target.workspace.resolve(to))], [])
    word, artifact_ref = str(target), _find(target)
    makes = artifact_ref.artifact.manifest.makes
    able, thing = _forms(makes), add_indefinite_article(makes)
    if makes == "model" and is_plain_classifier(artifact_ref.artifact):
        able, thing = able[-1:], "a plain classifier"
    elif makes == "model":
        able = able[:-1]
    chosen = (form or (able[0] if able else "")).replace("-", "_")
    if chosen not in able:
        what = f"{thing} cannot be exported" + (f" as {form}" if form else "")
        hint = (
            f"formats of {thing}: {', '.join(able)}" if able else "`luthier show` prints it; `luthier report` draws it"
        )
        raise InputError(what, where=SourceLocation(field=word), hint=hint)
    if with_base is not None and chosen != "adapter":
        flag = "--base" if with_base else "--no-base"
        what, hint = "is for adapters: every other form holds the whole model", "leave it out"
        raise InputError(what, where=SourceLocation(field=flag), hint=hint)
    to = target.workspace.resolve(to)
    notes: list[str] = []
    if makes == "dataset":
        from luthier.data.export import export_dataset as export_data

        export_data(artifact_ref.artifact, to, chosen, notes.append)
        _write_card(artifact_ref, to, notes)
    elif makes == "findings":
        from luthier.data.export import write_finding_rows

        write_finding_rows(artifact_ref.artifact, to)
    elif makes == "judgments":
        for name in ("judgments.jsonl", "preferences.jsonl"):
            write_atomically(to / name, artifact_ref.artifact.path(name).read_bytes())
    else:
        from luthier.models.export.checkpoint import export_model_folder as export_model

        measures = _measures(artifact_ref)
        before = (
            None
            if is_plain_classifier(artifact_ref.artifact)
            else PromptPrefix.of(artifact_ref.artifact).to_openai() or _usual(artifact_ref.artifact)
        )
        with _named(artifact_ref, word):
            export_model(
                artifact_ref.artifact, to, chosen, quant=quant, dequantize=dequantize,  # type: ignore[arg-type]
                with_base=with_base, measures=measures, before=before, say=notes.append,
            )  # fmt: skip  # `chosen` is one of `able`
        if before:
            notes.append("prompt.json belongs in front of every conversation; README.md says how")
    return ExportResult(sorted(path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file()), notes)


def _find(target: CommandTarget) -> ArtifactRef:
    """An artifact, or a base model by its name."""
    try:
        return find_artifact(target)
    except UnknownName:
        if not is_base_model(target.workspace, target.word or ""):
            raise
        return ArtifactRef(open_base_model(target.workspace, target.plain()))


@contextmanager
def _named(found: ArtifactRef, word: str) -> Iterator[None]:
    """Tell by its name on the command line what is wrong with a model, and not by where the store keeps it."""
    try:
        yield
    except ModelError as error:
        file = error.where.file
        if file is None or found.artifact.folder.parent not in Path(file).parents:
            raise
        raise type(error)(error.message, where=SourceLocation(field=word), hint=error.hint) from error


def _usual(artifact: Artifact) -> dict[str, Any] | None:
    """Return the common prefix of a model's training rows, for other programs."""
    try:
        system = get_training_system_message(artifact)
    except UnknownName:
        return None  # the data set was collected since
    return {"messages": [{"role": "system", "content": system}], "system": "usual"} if system else None


def _forms(makes: str) -> tuple[str, ...]:
    """The forms in which such an artifact goes out, the one that is meant when none is named first."""
    if makes == "dataset":
        from luthier.data.export import export_formats

        return export_formats()
    if makes in ("findings", "judgments"):
        return ("jsonl",)
    return get_args(ModelForm) if makes == "model" else ()


def _write_card(found: ArtifactRef, to: Path, notes: list[str]) -> None:
    """Write the data card next to the rows; an existing README is kept."""
    from luthier.data.dataset_card import render_dataset_card

    text = render_dataset_card(found.artifact, found.name, _findings(found)).encode()
    path = to / "README.md"
    if path.exists() and path.read_bytes() != text:
        notes.append("README.md is there already and was left as it is; the data card was not written")
    else:
        write_atomically(path, text)


def _findings(found: ArtifactRef) -> Findings | None:
    """Return the findings of the recipe's validation of a data set."""
    if found.plan is None:
        return None
    for planned in found.plan:
        if planned.step.makes == "findings" and planned.cached and planned.inputs.get("data") == found.artifact.digest:
            return read_findings(found.plan.store.open(planned.digest))
    return None


def _measures(found: ArtifactRef) -> ModelScores | None:
    """The measures of a model by the evaluations and explanations of its recipe, for the model card."""
    from luthier.models.export.model_card import ModelScores

    if found.plan is None:
        return None
    about = {
        planned.step.makes: found.plan.store.open(planned.digest)
        for planned in reversed(list(found.plan))
        if planned.cached and planned.inputs.get("model") == found.artifact.digest
    }
    scores = _subject(about["evaluation"]) if "evaluation" in about else None
    if "explanation" not in about:
        return scores
    return (scores or ModelScores({}))._replace(explanation=ExplanationSummary.read(about["explanation"]))


def _subject(evaluation: Artifact) -> ModelScores:
    """Return the evaluated model, besides the base model and the plain ones."""
    from luthier.models.export.model_card import ModelScores

    about = EvaluationSummary.read(evaluation)
    found = {
        name: {metric: score.as_json() for metric, score in scores.items()}
        for name, scores in EvaluationMetrics.read(evaluation).models.items()
    }
    evaluated_models = (model for model in about.models if model.name != about.subject)
    return ModelScores(
        values=found[about.subject],
        compared_models={model.title: found[model.name] for model in evaluated_models if model.name in found},
        where=f"{about.rows} rows of `{about.split}` (`{about.rows_digest[:12]}`)",
        conclusion=about.verdict_sentence,
    )
