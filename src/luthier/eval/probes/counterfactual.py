"""Counterfactual rows: does the answer change when only the group term does?"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import Field

from luthier.artifacts.findings import ProbeRow
from luthier.eval.cached_model import CachedEvalModel
from luthier.eval.probe import Probe, ProbeContext, ProbeMeasure
from luthier.eval.results import SummedStatistic, compute_probe_measures, compute_ratio
from luthier.lang.demographics.groups import Group
from luthier.lang.demographics.swap import DemographicSwapper

if TYPE_CHECKING:
    from luthier.chat.messages import Example
    from luthier.eval.task import Reply
    from luthier.metrics.intervals import Floats


class _Pair(NamedTuple):
    """A held-out row by number, the same about another group, and what was exchanged."""

    row: int
    other: Example
    did: str
    mapping: dict[str, str]


class Counterfactual(Probe):
    """Exchange words that name a group in held-out rows, ask again, and count what changes.

    `bias.flip_rate` is the share of such rows that get another label. `bias.shift` is how far the answer moves: of
    labels, the total variation distance between their probabilities; of texts, the edit distance between the new
    answer and the old one with the same words exchanged, as a share of the longer. Only English words are known (those
    of the augmenter `swap`, which is the mitigation); rows that name nobody are not asked.
    """

    kind: Literal["counterfactual"] = "counterfactual"
    measures: ClassVar[tuple[str, ...]] = ("bias.flip_rate", "bias.shift")
    groups: tuple[Group, ...] = Field(default=("gender",), min_length=1)
    """What is exchanged: `gender`, `names` (for those of another origin), `nationality`, `religion`, `age`."""
    rows: int = Field(default=500, ge=1)
    """At most so many rows that name a group, drawn by content."""

    def measure(self, context: ProbeContext) -> list[ProbeMeasure]:
        pairs = self._pairs(context)
        known = (
            f"{len(pairs):,} of {len(context.task.examples):,} held-out rows name a group ({', '.join(self.groups)})"
        )
        if not pairs:
            context.notes.append(f"No counterfactual was asked: {known}.")
            return []
        models = context.able("answer", "bias.flip_rate")
        flips: dict[str, Floats] = {}
        shifts: dict[str, Floats] = {}
        for name, eval_model in models.items():
            flips[name], shifts[name] = self._asked(context, name, eval_model, pairs)
        if len(pairs) < 30:
            context.notes.append(f"Counterfactuals say little here: {known}.")
        signature = f"groups:{'+'.join(self.groups)}|rows:{self.rows}"
        found = []
        if context.task.kind == "label":
            rate = SummedStatistic(name="bias.flip_rate", value=compute_ratio, proportion=True, signature=signature)
            found += compute_probe_measures(rate, flips, context)
        shifts = {name: block for name, block in shifts.items() if len(block)}
        return found + compute_probe_measures(
            SummedStatistic(name="bias.shift", value=compute_ratio, signature=signature), shifts, context
        )

    def _pairs(self, context: ProbeContext) -> list[_Pair]:
        """The rows that change, in the data's order."""
        swapper, found = DemographicSwapper(self.groups), []
        by_content = sorted(range(len(context.task.examples)), key=lambda row: context.task.examples[row].id)
        for row in by_content:
            example = context.task.examples[row]
            mapping = swapper.mapping(Random(f"{context.seed}:{example.id}"))
            did: list[str] = []
            messages = []
            for message in example.messages:
                swap_result = swapper.other(message.content, mapping) if message.role == "user" else None
                messages.append(message.model_copy(update={"content": swap_result.text}) if swap_result else message)
                did += swap_result.did if swap_result else ()
            if did:
                other = example.model_copy(update={"messages": tuple(messages)})
                found.append(_Pair(row, other, "; ".join(dict.fromkeys(did)), mapping))
            if len(found) == self.rows:
                break
        return sorted(found, key=lambda pair: pair.row)

    def _asked(
        self, context: ProbeContext, name: str, eval_model: CachedEvalModel, pairs: list[_Pair]
    ) -> tuple[Floats, Floats]:
        """Return whether each pair flips, and the shift of its score, (pairs, 2) both; the second is empty without
        scores.
        """
        import numpy as np

        from luthier.chat.messages import prompt_of

        answers, flips, shifts = context.answers[name], [], []
        for pair, reply in zip(pairs, eval_model.answer([pair.other for pair in pairs]), strict=True):
            before = answers.predictions[pair.row]
            flipped = context.task.kind == "label" and reply.prediction != before
            scores = None if answers.label_scores is None else answers.label_scores[pair.row]
            shift = self._shift(before, reply, scores, pair) if context.task.kind == "text" or scores else None
            flips.append([float(flipped), 1.0])
            shifts += [] if shift is None else [[shift, 1.0]]
            context.rows.append(
                ProbeRow(
                    probe=self.kind,
                    model=name,
                    row=context.task.examples[pair.row].id,
                    group=pair.did,
                    prompt=prompt_of(pair.other),
                    completion=reply.prediction,
                    expected=context.task.references[pair.row] if context.task.kind == "label" else None,
                    failed=flipped,
                    score=None if shift is None else round(shift, 6),
                )
            )
        return np.array(flips), np.array(shifts).reshape(-1, 2)

    def _shift(self, before: str, reply: Reply, scores: object, pair: _Pair) -> float:
        if reply.scores is None:
            from rapidfuzz.distance import Levenshtein

            swap_result = DemographicSwapper(self.groups).other(before, pair.mapping)
            return float(Levenshtein.normalized_distance(swap_result.text if swap_result else before, reply.prediction))
        from luthier.eval.predictions import softmax_scores

        assert isinstance(scores, dict)
        mine, its = softmax_scores(scores), softmax_scores(reply.scores)
        return 0.5 * sum(abs(mine[label] - its[label]) for label in mine)
