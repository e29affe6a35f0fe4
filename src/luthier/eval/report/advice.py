"""Suggest improvements where a plain baseline does as well as the tuned model: one command each, cheapest first."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

import yaml

from luthier.artifacts.dataset import DatasetSummary
from luthier.core.artifact import Artifact
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.eval.report.facts.data import ValidationFacts
from luthier.eval.report.facts.models import Advice, ConfusionMatrix, EvaluationFacts
from luthier.eval.report.facts.tuning import TuningFacts
from luthier.eval.report.formatting import classify_comparison, find_best_baseline, format_thousands
from luthier.models.catalog import CATALOG

MOST_EPOCHS = 8.0
"""Number of epochs from which more are not suggested: rows are memorized."""
RISEN = 1.02
"""Ratio to the lowest held-out loss from which a curve counts as rising."""
LARGER, MUCH_LARGER = 2.0, 12.0
"""Minimum and maximum size of a suggested larger base, relative to the base."""
_GIVEN = "# given on the command line: "
"""Before each override in the text of a recipe that was run."""


@dataclass(frozen=True, kw_only=True)
class RecipeArtifacts:
    """A recipe's artifacts by step, and its text."""

    artifacts: Mapping[str, Artifact]
    text: str
    file: str
    tunings: Sequence[TuningFacts] = ()
    validations: Sequence[ValidationFacts] = ()

    def command(self, *assignments: str, only: str = "") -> str:
        """`luthier run` with the overrides that the recipe was run with, and further ones, which take their place."""
        given = [line.removeprefix(_GIVEN) for line in self.text.splitlines() if line.startswith(_GIVEN)]
        changed = {assignment.partition("=")[0] for assignment in assignments}
        given = [entry for entry in given if entry.partition("=")[0] not in changed]
        ends = ["--only", only] if only else []
        return shlex.join(["luthier", "run", PurePath(self.file).name, *given, *assignments, *ends])

    @cached_property
    def written(self) -> Mapping[str, Any]:
        """The steps as written, without overrides; empty where the text is not a recipe."""
        recipe = yaml.safe_load(self.text) if self.text else None
        steps = recipe.get("steps") if isinstance(recipe, dict) else None
        return steps if isinstance(steps, dict) else {}

    def step_of(self, digest: str) -> str:
        """The step that made an artifact; empty when it is another recipe's."""
        return next((name for name, artifact in self.artifacts.items() if artifact.digest == digest), "")


def suggest_improvements(facts: EvaluationFacts, made: RecipeArtifacts) -> tuple[Advice, ...]:
    """Suggest changes; empty where the tuned model beats all plain baselines, or is one itself."""
    tuned, plain = next(iter(facts.of_role("tuned")), None), find_best_baseline(facts)
    evaluation = made.artifacts.get(facts.name)
    if tuned is None or plain is None or tuned.is_plain or evaluation is None:
        return ()
    compared = facts.compared(tuned.name, plain.name, facts.main_metric)
    if compared is not None and classify_comparison(compared) == "better":
        return ()
    step = made.step_of(evaluation.manifest.inputs.get("model", ""))
    if not step or made.artifacts[step].manifest.kind != "tune":
        return ()
    tuning = next((tuning_facts for tuning_facts in made.tunings if tuning_facts.name == step), None)
    advices = [_plain(facts, made, step) if plain.name == "tfidf" else None]
    advices += [_passes(tuning, made, step), _rows(made, step), _merged(facts, made, tuned.name), _larger(made, step)]
    return tuple(advice for advice in advices if advice is not None)


def _plain(facts: EvaluationFacts, made: RecipeArtifacts, step: str) -> Advice | None:
    settings = made.artifacts[step].manifest.settings
    data = made.step_of(made.artifacts[step].manifest.inputs.get("data", ""))
    if not data:
        return None
    rows = "" if settings.get("max_train_samples") is None else f", max_train_samples: {settings['max_train_samples']}"
    return Advice(
        what=gettext_noop("Take the plain classifier as the model."),
        why=gettext_noop("It is trained in seconds, and evaluated, exported, served and watched as any other model."),
        command=made.command(f"steps.{step}={{kind: tune, data: {data}, technique: plain{rows}}}", only=facts.name),
    )


def _passes(tuning: TuningFacts | None, made: RecipeArtifacts, step: str) -> Advice | None:
    """Suggest twice as many epochs, unless the rows were seen often or held-out rows say that it is enough."""
    epochs = made.artifacts[step].manifest.settings.get("epochs")
    if tuning is None or not isinstance(epochs, int | float) or epochs >= MOST_EPOCHS or _rises(tuning):
        return None
    steps = tuning.steps or 0
    return Advice(
        what=gettext_noop(f"Train for {2 * epochs:g} passes."),
        why=gettext_noop(
            f"The model saw each row once, in {format_counted_noun(steps, 'step')}. Twice the passes take "
            "twice as long."
            if epochs == 1
            else f"The model saw each row {epochs:g} times, in {format_counted_noun(steps, 'step')}. Twice the passes "
            "take twice as long."
        ),
        command=made.command(f"steps.{step}.epochs={2 * epochs:g}"),
    )


def _rises(tuning: TuningFacts) -> bool:
    """Return whether the held-out loss was lowest before the end."""
    losses = [point.held_out_loss for point in tuning.log if point.held_out_loss is not None]
    return len(losses) > 1 and losses[-1] > RISEN * min(losses)


def _rows(made: RecipeArtifacts, step: str) -> Advice | None:
    """Suggest all rows where only some are used; else more, as far as a learning curve says that they help."""
    limit = made.artifacts[step].manifest.settings.get("max_train_samples")
    data = made.artifacts.get(made.step_of(made.artifacts[step].manifest.inputs.get("data", "")))
    if data is None:
        return None
    has = DatasetSummary.read(data).rows.get("train", 0)
    if isinstance(limit, int) and limit < has:
        why = gettext_noop(f"It was trained on {format_thousands(limit)} of {format_thousands(has)} training rows.")
        return Advice(
            what=gettext_noop("Train on all rows."),
            why=why,
            command=made.command(f"steps.{step}.max_train_samples=null"),
        )
    gain = next((number for number in _numbers(made, "enough.gain")), None)
    if gain is not None:
        if gain.high <= 0:
            return None
        why = gettext_noop(
            f"By the learning curve, twice the {format_thousands(has)} rows take {100 * gain.value:.1f} points "
            "off the errors of "
            f"the plain classifier (95 % interval {100 * gain.low:.1f} to {100 * gain.high:.1f})."
        )
        return Advice(what=gettext_noop("Add rows to the source, and run it again."), why=why, command=made.command())
    check = f"steps.enough={{kind: validate, data: {made.step_of(data.digest)}, checks: [enough]}}"
    return Advice(
        what=gettext_noop("Compute the learning curve to see whether more rows help."),
        why=gettext_noop(f'The model was trained on {format_thousands(has)} rows; the check "enough" was not run.'),
        command=made.command(check, only="enough"),
    )


def _numbers(made: RecipeArtifacts, name: str) -> Iterator[Any]:
    """What validations measured under a name."""
    for validation in made.validations:
        for finding in validation.findings:
            if (number := finding.finding.numbers.get(name)) is not None:
                yield number


def _merged(facts: EvaluationFacts, made: RecipeArtifacts, model: str) -> Advice | None:
    """Suggest merging the two classes that are confused most."""
    confusion = next((matrix for matrix in facts.confusions if matrix.model == model), None)
    step = next((name for name, artifact in made.artifacts.items() if artifact.manifest.kind == "prepare"), "")
    written = made.written.get(step)
    if confusion is None or len(confusion.labels) < 3 or not isinstance(written, dict):
        return None
    rarer, usual, mistaken, wrong = _most_confused(confusion)
    if not mistaken:
        return None
    ops = _with_merged(written.get("ops") or [], rarer, usual)
    value = yaml.safe_dump(ops, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False).strip()
    return Advice(
        what=gettext_noop(f"Merge the classes {rarer} and {usual}, if they mean the same to you."),
        why=gettext_noop(
            f"{format_thousands(mistaken)} of {format_counted_noun(wrong, 'wrong answer')} take one of them for "
            "the other."
        ),
        command=made.command(f"steps.{step}.ops={value}"),
    )


def _most_confused(confusion: ConfusionMatrix) -> tuple[str, str, int, int]:
    """The rarer and the more frequent class of the pair with most mistakes, how many those are, and all mistakes."""
    counts, labels = confusion.counts, confusion.labels
    indices = range(len(labels))
    pairs = [(counts[a][b] + counts[b][a], a, b) for a in indices for b in indices if a < b]
    mistaken, one, other = max(pairs, key=lambda pair: (pair[0], -pair[1], -pair[2]))
    rarer, usual = sorted((one, other), key=lambda at: (sum(counts[at]), at))
    wrong = sum(sum(row) - row[at] for at, row in enumerate(counts))
    return labels[rarer], labels[usual], mistaken, wrong


def _with_merged(ops: Sequence[Any], old: str, new: str) -> list[Any]:
    """Operators as they are written, with `label_spelling` told of one more spelling."""
    found: list[Any] = []
    for entry in ops:
        kind, settings = (entry, {}) if isinstance(entry, str) else (entry.get("kind"), entry)
        if kind == "label_spelling":
            found.append({**settings, "kind": kind, "also": {**settings.get("also", {}), old: new}})
        else:
            found.append(entry)
    if found == list(ops):
        found.append({"kind": "label_spelling", "also": {old: new}})
    return found


def _larger(made: RecipeArtifacts, step: str) -> Advice | None:
    """The next larger model of the catalog, of the same family where there is one."""
    model = made.artifacts[step]
    if model.manifest.settings.get("model") is not None or "model" not in model.manifest.inputs:
        return None
    model_info = model.parent("model").read_json("model.json")
    name, size = str(model_info["name"]), model_info.get("parameters") or 0
    able = {
        other: entry.parameters / size
        for other, entry in CATALOG.items()
        if size and entry.licence == "apache-2.0" and LARGER <= entry.parameters / size <= MUCH_LARGER
    }
    if not able:
        return None
    family = name.partition("-")[0]
    best = min(able, key=lambda other: (not other.startswith(family), able[other]))
    millions, factor = f"{size / 1e6:,.0f}", f"{able[best]:.1f}"
    return Advice(
        what=gettext_noop(f"Begin with a larger base model, {best}."),
        why=gettext_noop(
            f"{name} has {millions} million parameters; one {factor} times as large knows more, and takes about "
            f"{factor} times as long."
        ),
        command=made.command(f"model={best}"),
    )
