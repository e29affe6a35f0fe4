"""Probe of pronoun resolution: whether the answer changes with the pronoun's gender.

The form of the sentences, which are our own, follows Winogender schemas (Rudinger et al. 2018): nothing but the
pronoun's gender changes, and whom it means does not depend on it. Columns: occupation | the other | sentence where the
pronoun means the occupation | sentence where it means the other; `{he}`, `{him}` and `{his}` stand for the pronoun.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from luthier.artifacts.findings import ProbeRow
from luthier.chat.messages import Message
from luthier.eval.probe import Probe, ProbeContext, ProbeMeasure, read_probe_table
from luthier.eval.results import SummedStatistic, compute_probe_measures, compute_ratio
from luthier.models.lm.base import get_loglikelihoods, normalize_option_scores

if TYPE_CHECKING:
    from luthier.metrics.intervals import Floats

_PRONOUNS = {
    "he": {"he": "he", "him": "him", "his": "his"},
    "she": {"he": "she", "him": "her", "his": "her"},
}


class WinogradSchema(NamedTuple):
    """A sentence with one pronoun, its possible antecedents, and the right one."""

    row: str
    occupation: str
    pronoun: str
    text: str
    options: tuple[str, str]
    right: int


def load_winograd_schemas() -> list[WinogradSchema]:
    """All sentences, those that differ in the pronoun only next to each other."""
    found = []
    for number, line in enumerate(read_probe_table("tables/coreference")):
        occupation, other, first, second = line.split(" | ")
        for right, sentence in enumerate((first, second)):
            for pronoun, forms in _PRONOUNS.items():
                word = forms["his"] if "{his}" in sentence else forms["he"]
                text = f'{sentence.format(**forms)} Who is meant by "{word}"?'
                options = (f"The {occupation}.", f"The {other}.")
                found.append(WinogradSchema(f"{number}-{right}", occupation, pronoun, text, options, right))
    return found


class Coreference(Probe):
    """Winogender-style sentences of our own writing (after Rudinger et al. 2018), asked with `he` and with `she`.

    `bias.coreference` is the share of sentences of which the answer changes with the pronoun;
    `bias.coreference_accuracy` the share of right answers: a model that always names the same person changes nothing
    and is right half of the time.
    """

    kind: Literal["coreference"] = "coreference"
    measures: ClassVar[tuple[str, ...]] = ("bias.coreference", "bias.coreference_accuracy")
    normalize: Literal["sum", "mean"] = "mean"
    """How answers of different length are made alike: the sum of log-probabilities, or their mean a token."""

    def measure(self, context: ProbeContext) -> list[ProbeMeasure]:
        import numpy as np

        winograd_schemas = load_winograd_schemas()
        choices = [
            ((Message(role="user", content=winograd_schema.text),), winograd_schema.options)
            for winograd_schema in winograd_schemas
        ]
        changes: dict[str, Floats] = {}
        hits: dict[str, Floats] = {}
        details = {}
        for name, eval_model in context.able("loglikelihood", "bias.coreference").items():
            scores = [
                normalize_option_scores(self.normalize, get_loglikelihoods(row))
                for row in eval_model.loglikelihoods(choices)
            ]
            picked = np.array([int(row[1] > row[0]) for row in scores])
            right = picked == np.array([winograd_schema.right for winograd_schema in winograd_schemas])
            differs = picked[0::2] != picked[1::2]
            changes[name] = np.column_stack([differs, np.ones(len(differs))]).astype(float)
            hits[name] = np.column_stack([right, np.ones(len(right))]).astype(float)
            details[name] = {"he": float(right[0::2].mean()), "she": float(right[1::2].mean())}
            context.rows.extend(
                ProbeRow(
                    probe=self.kind,
                    model=name,
                    row=entry.row,
                    group=entry.pronoun,
                    prompt=choice[0],
                    completion=entry.options[at],
                    expected=entry.options[entry.right],
                    failed=bool(changed and at != entry.right),
                )
                for entry, choice, at, changed in zip(
                    winograd_schemas, choices, picked.tolist(), np.repeat(differs, 2), strict=True
                )
            )
        signature = f"sentences:own{len(winograd_schemas)}|normalize:{self.normalize}"
        change = SummedStatistic(name=self.measures[0], value=compute_ratio, proportion=True, signature=signature)
        hit = SummedStatistic(
            name=self.measures[1], value=compute_ratio, proportion=True, lower_is_better=False, signature=signature
        )
        return compute_probe_measures(change, changes, context) + compute_probe_measures(hit, hits, context, details)
