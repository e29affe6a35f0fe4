"""The smallest edits that flip a label: words are taken away or replaced until a model names another one.

A beam search widens sets of edits one by one; all variants of a round are rows of the same packs. Of the edits that
flip the label, each that is not needed is left out again, so that every one that is reported is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from luthier.artifacts.decisions import CounterfactualEdit, CounterfactualRecord, CounterfactualSummary
from luthier.chat.messages import Message, join_user_turns
from luthier.core.errors import DataError
from luthier.core.events import format_counted_noun
from luthier.explain.diff.answers import find_words
from luthier.explain.measures import compute_mean, compute_share
from luthier.explain.units import PromptUnit, cut_messages

if TYPE_CHECKING:
    from luthier.chat.messages import Example
    from luthier.explain.decisions.classifier import LabelScorer
    from luthier.explain.subject import Tools

BEAM = 4
"""Sets of edits that are widened in a round."""
PLACES = 8
"""Words that are replaced: those that matter the most when they are taken away."""
WIDENED = 12
"""Single edits by which a set is widened, the most promising ones."""
SHOWN, SHOWN_WORDS = 30, 12
Edits = frozenset[tuple[int, str]]
"""Word indices with their replacements (empty: removed)."""


class EditLimits(NamedTuple):
    """Limits of the search."""

    most_edits: int = 5
    substitutes: int = 4
    """Words of each other label that are tried in a word's place."""


USUAL_LIMITS = EditLimits()


class _Verdict(NamedTuple):
    label: int
    margin: float
    """The log-score of the label before all edits minus the best other one's."""
    probability: float
    """Probability of the predicted label."""


class _EditSearch:
    """One text, and the model's predictions of its variants; each is computed once."""

    def __init__(self, model: LabelScorer, messages: tuple[Message, ...], tools: Tools) -> None:
        self._model, self.messages, self._tools = model, messages, tools
        self.units = [unit for unit in cut_messages(messages, "words").units if unit.role != "system"]
        self._known: dict[Edits, _Verdict] = {}
        scores = model.compute_log_scores([(messages, tools)])[0]
        self.original = int(scores.argmax())
        self._known[frozenset()] = self._judge(scores)

    @property
    def texts_read(self) -> int:
        """Number of computed variants."""
        return len(self._known)

    def ask(self, variants: Sequence[Edits]) -> list[_Verdict]:
        """Return the model's prediction of each variant."""
        missing = [edits for edits in dict.fromkeys(variants) if edits not in self._known]
        scores = self._model.compute_log_scores([(self.apply(edits), self._tools) for edits in missing])
        self._known |= {edits: self._judge(row) for edits, row in zip(missing, scores, strict=True)}
        return [self._known[edits] for edits in variants]

    def apply(self, edits: Edits) -> tuple[Message, ...]:
        """The conversation after some edits."""
        contents = {number: message.content for number, message in enumerate(self.messages)}
        for number, word in sorted(edits, key=lambda edit: -edit[0]):
            unit = self.units[number]
            content = contents[unit.message]
            contents[unit.message] = content[: unit.start] + _replace(unit, word) + content[unit.end :]
        return tuple(
            message if message.content == contents[number] else message.model_copy(update={"content": contents[number]})
            for number, message in enumerate(self.messages)
        )

    def flips(self, edits: Edits) -> bool:
        """Return whether the edits change the label."""
        return self.ask([edits])[0].label != self.original

    def _judge(self, scores: np.ndarray[tuple[int], np.dtype[np.float64]]) -> _Verdict:
        label = int(scores.argmax())
        others = np.delete(scores, self.original)
        shares = np.exp(scores - scores.max())
        margin = float(scores[self.original] - others.max()) if len(others) else np.inf
        return _Verdict(label, margin, float(shares[label] / shares.sum()))


def _replace(unit: PromptUnit, word: str) -> str:
    """A word in the place of another, with the white space behind it; nothing takes the space away, too."""
    return word + unit.text[len(unit.text.rstrip()) :] if word else ""


def find_counterfactual(
    model: LabelScorer,
    messages: tuple[Message, ...],
    tools: Tools = (),
    *,
    substitutes: Mapping[str, Sequence[str]] | None = None,
    limits: EditLimits = USUAL_LIMITS,
    row: str = "",
) -> CounterfactualRecord:
    """The fewest edits that were found to flip the label of a conversation; `substitutes` are telling words by label.

    Raises:
        DataError: the conversation has no word.
    """
    search = _EditSearch(model, messages, tools)
    if not search.units:
        raise DataError("the text has no word to edit", hint="give a longer text")
    original = model.labels[search.original]
    words = [
        word for label, own in (substitutes or {}).items() if label != original for word in own[: limits.substitutes]
    ]
    found = _prune(search, _search(search, list(dict.fromkeys(words)), limits.most_edits))
    before = search.ask([frozenset()])[0]
    text = join_user_turns(messages)
    if not found:
        return CounterfactualRecord(
            row=row, text=text, label=original, probability=before.probability, flipped_to="",
            words=len(search.units), texts_read=search.texts_read,
        )  # fmt: skip
    (after,), order = search.ask([found]), sorted(found)
    without = search.ask([found - {edit} for edit in order])
    return CounterfactualRecord(
        row=row,
        text=text,
        label=original,
        probability=before.probability,
        flipped_to=model.labels[after.label],
        probability_after=after.probability,
        edits=tuple(
            CounterfactualEdit(
                message=search.units[number].message,
                start=search.units[number].start,
                end=search.units[number].end,
                before=search.units[number].text.strip(),
                after=word,
                label_without=model.labels[verdict.label],
            )
            for (number, word), verdict in zip(order, without, strict=True)
        ),
        edited=join_user_turns(search.apply(found)),
        minimal=all(verdict.label == search.original for verdict in without),
        words=len(search.units),
        texts_read=search.texts_read,
    )


def _search(search: _EditSearch, words: Sequence[str], most_edits: int) -> Edits:
    """Edits that flip the label, the fewest that the beam finds; none where it finds none."""
    deletions = [frozenset({(number, "")}) for number in range(len(search.units))]
    if found := _best_flip(search, deletions):
        return found
    positions = sorted(range(len(deletions)), key=lambda at: (search.ask([deletions[at]])[0].margin, at))[:PLACES]
    replaced = [frozenset({(number, word)}) for number in positions for word in words]
    if found := _best_flip(search, replaced):
        return found
    singles = sorted([*deletions, *replaced], key=lambda edits: (search.ask([edits])[0].margin, sorted(edits)))
    beam = singles[:BEAM]
    for _ in range(most_edits - 1):
        wider = [
            edits | single
            for edits in beam
            for single in singles[:WIDENED]
            if not {number for number, _ in edits} & {number for number, _ in single}
        ]
        wider = list(dict.fromkeys(wider))
        if not wider:
            break
        if found := _best_flip(search, wider):
            return found
        beam = sorted(wider, key=lambda edits: (search.ask([edits])[0].margin, sorted(edits)))[:BEAM]
    return frozenset()


def _best_flip(search: _EditSearch, variants: Sequence[Edits]) -> Edits:
    """The variant that flips the label most clearly."""
    verdicts = search.ask(variants)
    flipped = [
        (verdict.margin, sorted(edits), edits)
        for edits, verdict in zip(variants, verdicts, strict=True)
        if verdict.label != search.original
    ]
    return min(flipped, key=lambda entry: entry[:2])[2] if flipped else frozenset()


def _prune(search: _EditSearch, edits: Edits) -> Edits:
    """Remove every edit that is not needed to flip the label."""
    while len(edits) > 1:
        fewer = _best_flip(search, [edits - {edit} for edit in sorted(edits)])
        if not fewer:
            break
        edits = fewer
    return edits


def find_label_words(examples: Sequence[Example], labels: Sequence[str], count: int) -> dict[str, list[str]]:
    """The words that tell each label from the others, by the log-odds of rows that have them (half a row is added)."""
    rows = Counter(str(example.label) for example in examples if example.label in set(labels))
    with_word = {label: Counter[str]() for label in labels}
    for example in examples:
        if example.label in with_word:
            with_word[str(example.label)].update(find_words(join_user_turns(example.messages[:-1])))
    total, every = sum(rows.values()), sum(with_word.values(), Counter[str]())

    def odds(label: str, word: str) -> float:
        here, others = with_word[label][word], every[word] - with_word[label][word]
        inside = (here + 0.5) / (rows[label] - here + 0.5)
        return float(np.log(inside) - np.log((others + 0.5) / (total - rows[label] - others + 0.5)))

    return {label: sorted(with_word[label], key=lambda word: (-odds(label, word), word))[:count] for label in labels}


def summarize_counterfactuals(
    model: LabelScorer,
    found: Sequence[CounterfactualRecord],
    skipped: Mapping[str, int],
    limits: EditLimits,
    *,
    seed: int = 0,
) -> CounterfactualSummary:
    """Summarize the counterfactuals of rows.

    Raises:
        DataError: there is none.
    """
    if not found:
        reasons = "; ".join(skipped) or "there are no rows"
        raise DataError(f"no row could be edited: {reasons}", hint="take another split")
    flipped = [one for one in found if one.flipped_to]
    measures = {"flipped": compute_share(len(flipped), len(found))}
    if flipped:
        measures["edits"] = compute_mean([float(len(one.edits)) for one in flipped], seed)
        measures["share"] = compute_mean([len(one.edits) / one.words for one in flipped], seed)
    words = Counter(word for one in flipped for word in {edit.before.casefold().strip(".,;:!?") for edit in one.edits})
    flips = Counter(f"{one.label} → {one.flipped_to}" for one in flipped)
    order = sorted(found, key=lambda one: (not one.flipped_to, len(one.edits), one.row))
    summary = CounterfactualSummary(
        model=model.name,
        digest=model.artifact.digest,
        rows=len(found),
        sentence="",
        skipped=dict(sorted(skipped.items())),
        measures=measures,
        most_edits=limits.most_edits,
        counterfactuals=tuple(order[:SHOWN]),
        words=dict(sorted(words.items(), key=lambda entry: (-entry[1], entry[0]))[:SHOWN_WORDS]),
        flips=dict(sorted(flips.items(), key=lambda entry: (-entry[1], entry[0]))),
    )
    return summary.model_copy(update={"sentence": _summarize(summary, len(flipped))})


def _summarize(summary: CounterfactualSummary, flipped: int) -> str:
    over = format_counted_noun(summary.rows, "row")
    text = f"At most {format_counted_noun(summary.most_edits, 'edit')} flip the label of {flipped} of {over}"
    if edits := summary.measures.get("edits"):
        text += f", {edits.value:.1f} on average (95 % interval {edits.low:.1f} to {edits.high:.1f})"
    if summary.words:
        text += f"; the words that flip the most are {', '.join(f'“{word}”' for word in [*summary.words][:3])}"
    return f"{text}."
