"""Suggest which further columns belong to the prompt and which leak the answer, by trials on a sample.

Where answers are classes, a plain classifier predicts held-out rows with and without the column. Where they are free
text, the trial counts the words that an answer shares with the column in its own row and in another row. `ClassTexts`
tells from a plain classifier whether the texts of two classes differ.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.core.events import format_counted_noun, take_evenly_spaced
from luthier.core.messages import gettext_noop
from luthier.data.columns.choose import LayoutChoice, is_heading_column
from luthier.data.columns.mapping import ColumnTemplate, join_as_template
from luthier.data.columns.turns import cell_to_text
from luthier.data.row import Row, SourceRecord, UnusableRowError
from luthier.models import text_classifier

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEED = 7
_FEWEST_ROWS = 50
"""Of fewer rows, nothing is shown."""
_MOST_ROWS = 1000
_FEWEST_TRIED = 300
_CHARACTERS = 300_000
"""Of each column, so much is read, where that leaves rows enough: the whole trial takes a second or two."""
_TEXT_CHARACTERS = 2000
_MOST_COLUMNS = 6
_MOST_CLASSES = 10
"""Rows of more classes than these, the most frequent, are not tried: each takes time."""
_NO_HELP = 0.02
"""A column does not help where it adds less than this share of right answers, or of an answer's words, for sure."""
_ALONE = 0.95
"""A column of few values that alone foretells so many answers was filled in by who knew them."""
_ALONE_TEXT = 0.9
"""The same of texts, which a classifier that learnt from half of the rows never foretells better than nearly."""
_CLEARLY = 0.1
"""A column that foretells answers hardly better than the question itself does is a part of it."""
_ROWS_A_WORD = 4
"""Texts that people write bring a new word in more than one of so many rows."""
_SAME = 0.8
"""Two texts that share so many of their words say the same."""
_REPEATS = 0.95
_ONE_SIDED, _TWO_SIDED = 1.645, 1.96
_WORD = re.compile(r"\w{3,}")


class PromptColumnDecision(NamedTuple):
    """Whether a column belongs in the prompt, and why."""

    column: str
    belongs: bool
    why: str


class _Sample(NamedTuple):
    """Texts of some rows."""

    prompts: list[str]
    answers: list[str]
    columns: dict[str, list[str]]


def add_prompt_columns(choice: LayoutChoice, columns: Sequence[str], records: Sequence[SourceRecord]) -> LayoutChoice:
    """The choice with all columns in its prompt that belong there, and with what is said of those that do not."""
    if not choice.more and not choice.suspects:
        return choice
    more, over = choice.more[:_MOST_COLUMNS], choice.more[_MOST_COLUMNS:]
    lacking = Counter(name for name in more for record in records if name not in record.values)
    present = [name for name in more if not lacking[name]]
    sample = _sample(choice, records, [*present, *(name for name in choice.suspects if name not in choice.more)])
    column_decisions = [
        PromptColumnDecision(
            name, belongs=False, why=gettext_noop(f"{format_counted_noun(rows, 'row has', 'rows have')} no such column")
        )
        for name, rows in lacking.items()
    ]
    column_decisions += _try(sample, present, choice)
    column_decisions += [
        PromptColumnDecision(name, belongs=False, why=gettext_noop("too many columns of text to try")) for name in over
    ]
    prompt_columns = ColumnTemplate.parse(choice.settings["prompt"], "prompt").columns
    whole = {
        *prompt_columns,
        *(column_decision.column for column_decision in column_decisions if column_decision.belongs),
    }
    ordered = sorted(whole, key=lambda name: (not is_heading_column(name), columns.index(name)))
    why = [
        choice.reasons["prompt"],
        *(
            gettext_noop(
                f"{column_decision.column!r} belongs to it: {column_decision.why}"
                if column_decision.belongs
                else f"{column_decision.column!r} is left out: {column_decision.why}"
            )
            for column_decision in column_decisions
        ),
    ]
    settings, reasons = dict(choice.settings), dict(choice.reasons)
    settings["prompt"] = join_as_template(ordered) if len(whole) > len(prompt_columns) else choice.settings["prompt"]
    reasons["prompt"] = "; ".join(why)
    return choice._replace(settings=settings, reasons=reasons)


def _sample(choice: LayoutChoice, records: Sequence[SourceRecord], columns: Sequence[str]) -> _Sample:
    """Texts of rows that have an answer, spread over all."""
    prompt = ColumnTemplate.parse(choice.settings["prompt"], "prompt")
    answer = ColumnTemplate.parse(choice.settings["answer"], "answer")
    missing = {"", *choice.settings.get("null_values", ())}
    sample = _Sample([], [], {name: [] for name in columns})
    source_records = take_evenly_spaced(records, _MOST_ROWS)
    longest = max(
        sum(len(_text(record.values, name)) for record in source_records) for name in (*columns, *prompt.columns)
    )
    rows = round(_CHARACTERS * len(source_records) / max(1, longest))
    for record in take_evenly_spaced(source_records, max(_FEWEST_TRIED, min(rows, _MOST_ROWS))):
        try:
            prompt_text, answer_text = prompt.fill(record.values), answer.fill(record.values).strip()
        except UnusableRowError:
            continue
        if answer_text not in missing:
            sample.prompts.append(prompt_text[:_TEXT_CHARACTERS])
            sample.answers.append(answer_text)
            for name in columns:
                sample.columns[name].append(_text(record.values, name))
    return sample


def _text(values: Mapping[str, Any], column: str) -> str:
    try:
        return cell_to_text(values.get(column), column)[:_TEXT_CHARACTERS]
    except UnusableRowError:
        return ""


def _try(sample: _Sample, columns: Sequence[str], choice: LayoutChoice) -> list[PromptColumnDecision]:
    """What is known of columns that may be part of the question, and of those that give the answer away."""
    rows = len(sample.answers)
    if rows < _FEWEST_ROWS:
        explanation = f"{format_counted_noun(rows, 'row')} are too few to try it"
        return [
            PromptColumnDecision(name, belongs=True, why=f"a text like the others, and {explanation}")
            for name in columns
        ]
    repeated = [name for name in columns if _repeats(sample.columns[name], sample.prompts)]
    column_decisions = [
        PromptColumnDecision(name, belongs=False, why=gettext_noop("it repeats what is asked")) for name in repeated
    ]
    tried = {name: sample.columns[name] for name in columns if name not in repeated}
    if not choice.is_label:
        return column_decisions + _by_words(sample, tried, choice.suspects)
    few = {name: texts for name, texts in sample.columns.items() if name not in columns}
    return column_decisions + _given_away(sample, few) + (_by_classifier(sample, tried, choice) if tried else [])


def _repeats(texts: Sequence[str], prompts: Sequence[str]) -> bool:
    """Whether nearly all words of a column stand in the question already."""
    shares = [
        len(words & _words(question)) / len(words)
        for text, question in zip(texts, prompts, strict=True)
        if (words := _words(text))
    ]
    return bool(shares) and sum(shares) >= _REPEATS * len(shares)


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))


def _given_away(sample: _Sample, columns: Mapping[str, Sequence[str]]) -> list[PromptColumnDecision]:
    """Columns of few values of which each goes with one answer."""
    usual = max(Counter(sample.answers).values()) / len(sample.answers)
    found = []
    for name, values in columns.items():
        share = _foretold(values, sample.answers)
        if share >= _ALONE and share - usual >= _CLEARLY:
            found.append(PromptColumnDecision(name, belongs=False, why=_leak(share, len(values))))
    return found


def _leak(share: float, rows: int) -> str:
    """What is said of a column that foretells the answers."""
    return gettext_noop(
        f"it gives the answer away, for it alone foretells {100 * share:.0f} % of them "
        f"({format_counted_noun(rows, 'row')}); name it in `--prompt` if it is known before the answer is"
    )


def _foretold(values: Sequence[str], answers: Sequence[str]) -> float:
    """The share of answers that the values of a column foretell, each half of the rows by the other one."""
    pairs = list(zip(values, answers, strict=True))
    random.Random(SEED).shuffle(pairs)
    halves = pairs[::2], pairs[1::2]
    right = 0
    for learn, ask in (halves, halves[::-1]):
        answers_by_value: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for value, answer in learn:
            answers_by_value[value][answer] += 1
        right += sum(
            answer == answers_by_value[value].most_common(1)[0][0] for value, answer in ask if value in answers_by_value
        )
    return right / len(answers)


def _is_formula(texts: Sequence[str]) -> bool:
    """Whether a column says hardly more than a word of its own in each row, as what programs and desks note does."""
    words = Counter(word for text in texts for word in _words(text) if not word.isdigit())
    return len(words) < len(texts) / _ROWS_A_WORD


def _by_classifier(
    sample: _Sample, columns: Mapping[str, Sequence[str]], choice: LayoutChoice
) -> list[PromptColumnDecision]:
    """What a plain classifier, that gets one column more, makes of rows that it did not see."""
    import numpy as np
    from scipy.sparse import hstack

    classes = [name for name, rows in Counter(sample.answers).most_common(_MOST_CLASSES) if rows > 1]
    indices = [index for index, answer in enumerate(sample.answers) if answer in classes]
    codes = np.array([classes.index(sample.answers[index]) for index in indices], dtype=np.int64)
    if len(indices) < _FEWEST_ROWS or len(classes) < 2:
        count = len(indices)
        why = gettext_noop(f"a text like the others, and {format_counted_noun(count, 'row')} are too few to try it")
        return [PromptColumnDecision(name, belongs=True, why=why) for name in columns]
    usual = float(np.bincount(codes).max()) / len(codes)
    matrix = text_classifier.compute_tfidf_features([sample.prompts[index] for index in indices])
    before = _right(matrix, codes)
    found = []
    for name, texts in columns.items():
        own = text_classifier.compute_tfidf_features([texts[index] for index in indices])
        both = hstack([matrix, own]).tocsr()
        after = _right(both, codes)
        alone = 0.0
        if name in choice.suspects and after.mean() - before.mean() >= _CLEARLY:
            alone = float(_right(own, codes).mean())
        if alone >= _ALONE_TEXT and (name in choice.notes or _is_formula(texts)):
            found.append(PromptColumnDecision(name, belongs=False, why=_leak(alone, len(codes))))
            continue
        one = _compared(name, before, after, usual)
        if alone >= _ALONE_TEXT:
            one = one._replace(
                why=gettext_noop(f"{one.why}; leave it out by `--prompt` if it is written when the answer is known")
            )
        found.append(one)
        if one.belongs:
            matrix, before = both, after
    return found


def _right(matrix: Any, codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """(rows,): 1 where the class of a row is found by a classifier that learnt from the other half."""
    probabilities = text_classifier.predict_out_of_fold(matrix, codes, seed=SEED, count=2)
    right: NDArray[np.float64] = (probabilities.probabilities.argmax(axis=1) == codes) * 1.0
    return right


def _compared(name: str, before: NDArray[np.float64], after: NDArray[np.float64], usual: float) -> PromptColumnDecision:
    """Whether a column helps the classifier, or at least is not shown to be of no help."""
    rows = len(before)
    gain, best = float((after - before).mean()), max(float(before.mean()), float(after.mean()))
    error = float((after - before).std()) / rows**0.5
    with_it, without = f"{100 * after.mean():.0f}", f"{100 * before.mean():.0f}"
    explanation = gettext_noop(
        f"a plain classifier finds {with_it} % of the classes with it, {without} % without "
        f"({format_counted_noun(rows, 'row')}, held out)"
    )
    if best - _TWO_SIDED * (best * (1 - best) / rows) ** 0.5 <= usual:
        return PromptColumnDecision(
            name,
            belongs=True,
            why=gettext_noop(f"{explanation}: no better than the most frequent class, which shows nothing"),
        )
    return PromptColumnDecision(name, belongs=gain + _ONE_SIDED * error >= _NO_HELP, why=explanation)


def _by_words(
    sample: _Sample, columns: Mapping[str, Sequence[str]], suspects: Sequence[str]
) -> list[PromptColumnDecision]:
    """What of the answers' words that the question has not stands in a column of the same row, and of another one."""
    import numpy as np

    answer_words = [_words(answer) for answer in sample.answers]
    new = [words - _words(prompt_text) for words, prompt_text in zip(answer_words, sample.prompts, strict=True)]
    found = []
    for name, texts in columns.items():
        own = [_words(text) for text in texts]
        same = np.mean([len(a & b) / max(1, len(a | b)) for a, b in zip(own, answer_words, strict=True)])
        if name in suspects and same >= _SAME:
            found.append(PromptColumnDecision(name, belongs=False, why=gettext_noop("it says what the answer says")))
            continue
        half = len(own) // 2
        rows = [index for index, words in enumerate(new) if words]
        with_own = np.array([len(new[at] & own[at]) / len(new[at]) for at in rows])
        by_chance = np.array([len(new[at] & own[(at + half) % len(own)]) / len(new[at]) for at in rows])
        if len(rows) < _FEWEST_ROWS:
            found.append(
                PromptColumnDecision(
                    name, belongs=True, why=gettext_noop("a text like the others, and too few rows to try it")
                )
            )
            continue
        shared = with_own - by_chance
        own_share, other_share = f"{100 * with_own.mean():.0f}", f"{100 * by_chance.mean():.0f}"
        helps = float(shared.mean()) + _ONE_SIDED * float(shared.std()) / len(rows) ** 0.5 >= _NO_HELP
        found.append(
            PromptColumnDecision(
                name,
                belongs=helps,
                why=gettext_noop(
                    f"{own_share} % of the answers' other words stand in it, {other_share} % in that of another row "
                    "(answers are no classes)"
                ),
            )
        )
    return found


_ALIKE_MOST_ROWS = 200
"""Rows of a class that are compared."""
_FEW_ROWS = 4
"""Of fewer rows of a class, nothing is known of how well two are told apart."""
_NEAREST = 0.5
"""So many of a class's rows go to the other class where their own is not among the choices."""
_TOLD_APART = 0.75
"""Area under the ROC curve from which two classes are told apart by their texts."""


class ClassTexts:
    """The texts of some rows by class."""

    def __init__(self, rows: Sequence[Row], seed: int) -> None:
        by_class: dict[str, list[str]] = {}
        for row in rows:
            by_class.setdefault(row.answer, []).append(row.prompt)
        self._texts = {label: texts[:_ALIKE_MOST_ROWS] for label, texts in by_class.items()}
        self._seed = seed

    def alike(self, one: str, other: str) -> bool:
        """Whether the rarer class's texts are taken for the other's rather than for a third's, and are not told apart.

        False where there is no third class, whose texts would show what unlike ones are.
        """
        if one not in self._texts or other not in self._texts or len(self._texts) < 3:
            return False
        rare, usual = sorted((one, other), key=lambda label: (len(self._texts[label]), label))
        return self._is_nearest(rare, usual) and not self._are_told_apart(rare, usual)

    def _is_nearest(self, rare: str, usual: str) -> bool:
        from luthier.models.text_classifier import build_logistic_regression

        others = [label for label in sorted(self._texts) if label != rare]
        matrix, codes = self._features([*others, rare])
        known = codes < len(others)
        predicted = build_logistic_regression().fit(matrix[known], codes[known]).predict(matrix[~known])
        return bool((predicted == others.index(usual)).mean() > _NEAREST)

    def _are_told_apart(self, rare: str, usual: str) -> bool:
        from sklearn.metrics import roc_auc_score

        from luthier.models.text_classifier import FOLDS, predict_out_of_fold

        if (rows := len(self._texts[rare])) < _FEW_ROWS:
            return False
        matrix, codes = self._features([usual, rare])
        return bool(
            roc_auc_score(
                codes, predict_out_of_fold(matrix, codes, seed=self._seed, count=min(FOLDS, rows)).probabilities[:, 1]
            )
            >= _TOLD_APART
        )

    def _features(self, labels: Sequence[str]) -> tuple[Any, NDArray[np.int64]]:
        """(rows, terms) of the texts of some classes, and (rows,) the place of each row's class among them."""
        import numpy as np

        from luthier.models.text_classifier import compute_tfidf_features

        texts = [text for label in labels for text in self._texts[label]]
        return compute_tfidf_features(texts), np.repeat(
            np.arange(len(labels)), [len(self._texts[label]) for label in labels]
        )
