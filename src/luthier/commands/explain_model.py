"""Explain a whole model without a recipe: what tuning changed, what flips a label, rules, label sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from luthier.artifacts.dataset import has_split, read_evenly_spaced_examples, read_examples
from luthier.artifacts.decisions import ConformalSummary, CounterfactualRecord, CounterfactualSummary, SurrogateSummary
from luthier.artifacts.model_diff import ModelDiff
from luthier.artifacts.model_explanation import ModelExplanationRecord
from luthier.chat.messages import Example, prompt_of
from luthier.commands.explain import find_row
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, InputError, SourceLocation
from luthier.models.load import get_model_name, get_output_classes, get_training_data

if TYPE_CHECKING:
    from luthier.explain.decisions.classifier import LabelScorer

Show = Literal["answer", "changes", "flips", "rules", "label-sets"]
Dtype = Literal["float32", "bfloat16", "auto"]
CHANGES_ROWS, FLIPS_ROWS, RULES_ROWS, SETS_ROWS = 50, 20, 500, 2000
"""Rows of a split that are read at most."""
_SHOWN = 8


@dataclass(frozen=True)
class ModelExplanation:
    """The result for a model, or for one text."""

    summary: ModelExplanationRecord | None = None
    flip: CounterfactualRecord | None = None
    """The edits that flip the label of the text."""
    labels: tuple[str, ...] | None = None
    """The labels that the text may have."""

    def as_json(self) -> dict[str, Any]:
        """The documented shape of `explain --show … --json`."""
        found: dict[str, Any] = {}
        if self.summary is not None:
            found[self.summary.kind] = self.summary.model_dump(mode="json")
        if self.flip is not None:
            found["flip"] = self.flip.model_dump(mode="json")
        if self.labels is not None:
            found["labels"] = list(self.labels)
        return found

    def lines(self) -> list[str]:
        """Return the lines for a terminal."""
        lines = [] if self.labels is None else [f"the text is one of: {', '.join(self.labels) or 'no label'}"]
        if self.flip is not None:
            lines += _flip_lines(self.flip)
        if self.summary is not None:
            lines += [self.summary.sentence, *_measure_lines(self.summary), *_detail_lines(self.summary)]
            lines += [f"note: {note}" for note in self.summary.notes]
        return lines


def explain_model(
    show: Show,
    model: Artifact,
    against: Artifact | None = None,
    *,
    text: str | None = None,
    row: str | None = None,
    dtype: Dtype = "float32",
    seed: int = 0,
) -> ModelExplanation:
    """Explain a model by the held-out rows of the data that it was tuned on; `flips` and `label-sets` take a text, too.

    Raises:
        DataError: the model's data are not known, or have too few rows.
        ModelError: weights that are not here, or a model that was not tuned.
    """
    data = get_training_data(model) or (get_training_data(against) if against is not None else None)
    if data is None:
        what = f"{get_model_name(model)} was not tuned here, so no held-out rows are known"
        raise DataError(what, hint="name a tuned step (RECIPE:STEP), or write a step of this kind into a recipe")
    if against is not None and show != "changes":
        where = SourceLocation(field="against")
        raise InputError("only changes are compared with another model", where=where, hint="leave `--against` out")
    example = _find_example(model, text, row)
    if example is not None and show in ("changes", "rules"):
        hint = "leave `--text` and `--row` out, or take `--show flips` or `--show label-sets`"
        raise InputError(f"{show} are about a whole model", where=SourceLocation(field="text"), hint=hint)
    if show == "changes":
        return _explain_changes(model, against, data, dtype, seed)
    from luthier.explain.decisions.classifier import LabelScorer

    labeler = LabelScorer(model, data, dtype)
    if show == "rules":
        return _explain_rules(labeler, data, seed)
    return (_explain_flips if show == "flips" else _explain_label_sets)(labeler, data, example, seed)


def _find_example(model: Artifact, text: str | None, row: str | None) -> Example | None:
    from luthier.recipe.predict import RowPromptSettings

    if text is not None and row is not None:
        raise InputError("name either a text or a row", hint='--text "Where is my parcel?", or --row ID')
    if row is not None:
        return find_row(model, row)
    return RowPromptSettings.of(model, None).example(text, 1) if text is not None else None


def _find_held_out_split(data: Artifact) -> str:
    return next(split for split in ("test", "validation", "train") if has_split(data, split))


def _explain_changes(
    model: Artifact, against: Artifact | None, data: Artifact, dtype: Dtype, seed: int
) -> ModelExplanation:
    from luthier.explain.diff.compare import compare_models, read_compared_rows
    from luthier.explain.diff.pair import open_model_pair

    pair = open_model_pair(model, against, dtype)
    split = _find_held_out_split(data)
    compared = read_compared_rows(data, get_output_classes(model), split=split, limit=CHANGES_ROWS)
    return ModelExplanation(compare_models(pair, compared, seed=seed).summary)


def _explain_rules(labeler: LabelScorer, data: Artifact, seed: int) -> ModelExplanation:
    from luthier.explain.decisions.surrogate import fit_surrogate, read_labelled_texts

    split = _find_held_out_split(data)
    trained, held_out = (read_labelled_texts(labeler, data, name, RULES_ROWS) for name in ("train", split))
    return ModelExplanation(fit_surrogate((labeler.name, labeler.artifact.digest), trained, held_out, seed=seed))


def _explain_flips(labeler: LabelScorer, data: Artifact, example: Example | None, seed: int) -> ModelExplanation:
    from luthier.explain.decisions.counterfactuals import (
        USUAL_LIMITS,
        find_counterfactual,
        find_label_words,
        summarize_counterfactuals,
    )

    trained = read_examples(data, "train") if has_split(data, "train") else []
    words = find_label_words(trained, labeler.labels, USUAL_LIMITS.substitutes)
    if example is not None:
        return ModelExplanation(
            flip=find_counterfactual(labeler, prompt_of(example), example.tools, substitutes=words, row=example.id)
        )
    found, skipped = [], Counter[str]()
    for one in read_evenly_spaced_examples(data, _find_held_out_split(data), FLIPS_ROWS):
        try:
            found.append(find_counterfactual(labeler, prompt_of(one), one.tools, substitutes=words, row=one.id))
        except DataError as error:
            skipped[error.message] += 1
    return ModelExplanation(summarize_counterfactuals(labeler, found, skipped, USUAL_LIMITS, seed=seed))


def _explain_label_sets(labeler: LabelScorer, data: Artifact, example: Example | None, seed: int) -> ModelExplanation:
    from luthier.explain.decisions.label_sets import (
        ConformalSettings,
        fit_label_sets,
        score_rows,
        split_rows,
    )
    from luthier.metrics.conformal import select_label_set

    halves = split_rows(score_rows(labeler, read_evenly_spaced_examples(data, _find_held_out_split(data), SETS_ROWS)))
    summary, _ = fit_label_sets(
        (labeler.name, labeler.artifact.digest), labeler.labels, halves, ConformalSettings(), seed=seed
    )
    if example is None:
        return ModelExplanation(summary)
    (scores,) = labeler.compute_log_scores([(prompt_of(example), example.tools)])
    return ModelExplanation(summary, labels=select_label_set(summary, scores.tolist()))


def _measure_lines(summary: ModelExplanationRecord) -> Iterator[str]:
    for name, measure in summary.measures.items():
        interval = f" ({measure.low:.4g} to {measure.high:.4g})" if measure.low < measure.high else ""
        yield f"  {summary.kind}.{name}  {measure.value:.4g}{interval}"


def _detail_lines(summary: ModelExplanationRecord) -> Iterator[str]:
    if isinstance(summary, ModelDiff):
        yield from _diff_lines(summary)
    elif isinstance(summary, SurrogateSummary):
        for rule in summary.rules:
            yield f"  {rule.condition} → {rule.label} ({rule.rows} held-out rows)"
    elif isinstance(summary, CounterfactualSummary):
        for one in summary.counterfactuals[:_SHOWN]:
            yield from _flip_lines(one)
    elif isinstance(summary, ConformalSummary):
        for each in summary.classes:
            yield f"  {each.label}: coverage {each.coverage.value:.3f}, {each.size:.2f} labels in a set"


def _diff_lines(diff: ModelDiff) -> Iterator[str]:
    for span in diff.top_spans[:_SHOWN]:
        yield f"  KL {span.kl:.3g} over {span.tokens} tokens: {' '.join(span.text.split())}"
    for word in diff.words[:_SHOWN]:
        yield f"  word of {word.part} “{word.word}”: {word.count} of {word.of} (p {word.p_holm:.2g} after Holm)"
    for pair, count in diff.transitions.items():
        yield f"  {pair}: {count}"
    for layer in diff.layers:
        weights = "" if layer.weights is None else f", weights {layer.weights:.4f}"
        lens = "" if layer.lens_after is None else f", lens {layer.lens_before:.2f} → {layer.lens_after:.2f}"
        yield f"  layer {layer.layer}: states {layer.distance.value:.4f}{weights}{lens}"
    for matrix in diff.matrices[:_SHOWN]:
        rank = "" if matrix.effective_rank is None else f", effective rank {matrix.effective_rank:.1f}"
        intruders = "" if matrix.intruders is None else f", {matrix.intruders} intruders"
        yield f"  {matrix.name}: {matrix.distance:.4f}{rank}{intruders}"


def _flip_lines(flip: CounterfactualRecord) -> Iterator[str]:
    begins = f"{flip.label} ({flip.probability:.2f})"
    if not flip.flipped_to:
        yield f"{begins}: no edits within the limits flip it ({flip.texts_read} variants read)"
        return
    edits = ", ".join(f"−{edit.before}" + (f" +{edit.after}" if edit.after else "") for edit in flip.edits)
    proof = "each is needed" if flip.minimal else "not each is needed"
    yield f"{begins} becomes {flip.flipped_to} ({flip.probability_after:.2f}) by {edits} ({proof})"
