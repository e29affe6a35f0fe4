"""Changed answers, and the words associated with changes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from luthier.artifacts.model_diff import IndicativeWord
from luthier.models.lm.base import ChoiceRequest, GenerateRequest

if TYPE_CHECKING:
    from luthier.artifacts.explanation import MeasureOverRows
    from luthier.chat.messages import Example
    from luthier.explain.diff.pair import ModelPair
    from luthier.models.lm.base import LanguageModel

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
FEWEST = 3
"""Minimum rows with a word, and without it, for a test."""
MOST_WORDS = 400
"""Words that are tested in each part, those in the most rows first: each further one costs the others power."""


class PairedAnswer(NamedTuple):
    """The answers of both models."""

    row: str
    prompt: str
    reference: str
    before: str
    after: str
    length: tuple[int, int] = (0, 0)
    """Words of the answer before and after."""

    @property
    def changed(self) -> bool:
        """Whether the answer changed."""
        return self.before != self.after


def answer_rows(
    pair: ModelPair, examples: Sequence[Example], options: dict[str, str], *, max_new_tokens: int
) -> list[PairedAnswer]:
    """Ask both models about the same rows: the likeliest label where there are labels, else what they write."""
    from luthier.chat.messages import answer_of, user_text_of

    labelled = bool(options or pair.after.classes)
    after = _generate_answers(pair.after, examples, options, max_new_tokens)
    with pair.use_base():
        before = _generate_answers(pair.before, examples, options, max_new_tokens)
    return [
        PairedAnswer(
            row=example.id,
            prompt=user_text_of(example),
            reference=(example.label or "") if labelled else answer_of(example),
            before=was,
            after=now,
            length=(len(was.split()), len(now.split())),
        )
        for example, was, now in zip(examples, before, after, strict=True)
    ]


def _generate_answers(
    lm: LanguageModel, examples: Sequence[Example], options: dict[str, str], max_new_tokens: int
) -> list[str]:
    from luthier.chat.messages import prompt_of

    if not examples:
        return []
    if labels := lm.classes or tuple(options):
        texts = lm.classes or tuple(options.values())
        requests = [ChoiceRequest(prompt=prompt_of(row), options=texts, tools=row.tools) for row in examples]
        return [choice.label(labels) for choice in lm.choose(requests)]
    questions = [GenerateRequest(prompt=prompt_of(row), max_tokens=max_new_tokens, tools=row.tools) for row in examples]
    return [response.text.strip() for response in lm.generate(questions)]


def find_telling_words(answers: Sequence[PairedAnswer], *, written: bool) -> list[IndicativeWord]:
    """Words of prompts that go with changed answers, and of `written` answers that come in or go."""
    found = _prompt_words(answers)
    if written:
        found += _answer_words(answers)
    return sorted(found, key=lambda word: (word.p_holm, word.p, word.word))


def _prompt_words(answers: Sequence[PairedAnswer]) -> list[IndicativeWord]:
    from scipy.stats import fisher_exact

    rows, changed = len(answers), sum(answer.changed for answer in answers)
    if not 0 < changed < rows:
        return []
    words = [find_words(answer.prompt) for answer in answers]
    with_word = Counter(word for own in words for word in own)
    with_both = Counter(word for own, answer in zip(words, answers, strict=True) if answer.changed for word in own)
    tested = []
    for word, count in _list_testable_words(with_word, rows):
        both = with_both[word]
        table = [[both, count - both], [changed - both, rows - count - changed + both]]
        p = float(fisher_exact(table).pvalue)
        tested.append((word, both, count, (changed - both) / (rows - count), p))
    return _corrected("prompt", tested)


def _answer_words(answers: Sequence[PairedAnswer]) -> list[IndicativeWord]:
    from luthier.metrics.paired import mcnemar

    came, went = Counter[str](), Counter[str]()
    for answer in answers:
        before, after = find_words(answer.before), find_words(answer.after)
        came.update(after - before)
        went.update(before - after)
    tested = []
    for word, count in _list_testable_words(came + went, None):
        tested.append((word, came[word], count, 0.5, mcnemar(came[word], went[word])))
    return _corrected("answer", tested)


def _list_testable_words(counts: Counter[str], rows: int | None) -> list[tuple[str, int]]:
    enough = [
        (word, count) for word, count in counts.items() if count >= FEWEST and (rows is None or rows - count >= FEWEST)
    ]
    return sorted(enough, key=lambda entry: (-entry[1], entry[0]))[:MOST_WORDS]


def _corrected(part: str, tested: Sequence[tuple[str, int, int, float, float]]) -> list[IndicativeWord]:
    from luthier.metrics.paired import adjust_holm

    adjusted = adjust_holm([p for *_, p in tested])
    return [
        IndicativeWord(
            word=word, part=part, count=count, of=of, share=count / of, otherwise=otherwise, p=min(1.0, p), p_holm=holm
        )
        for (word, count, of, otherwise, p), holm in zip(tested, adjusted, strict=True)
    ]


def find_words(text: str) -> set[str]:
    """The words of a text, in small letters."""
    return {match[0] for match in WORD.finditer(text.casefold())}


def measure_answer_changes(answers: Sequence[PairedAnswer], *, labelled: bool, seed: int) -> dict[str, MeasureOverRows]:
    """`changed`: the share of rows with another answer. `fixed`: of labels, the share of rows that became right less
    that of rows that became wrong. `words`: of texts, how many words longer answers are."""
    from luthier.artifacts.explanation import MeasureOverRows
    from luthier.explain.measures import compute_mean
    from luthier.metrics.intervals import wilson_interval
    from luthier.metrics.paired import bonett_price_interval

    if not answers:
        return {}
    rows, changed = len(answers), sum(answer.changed for answer in answers)
    low, high = wilson_interval(changed, rows)
    found = {"changed": MeasureOverRows(value=changed / rows, low=low, high=high, rows=rows)}
    if labelled:
        known = [answer for answer in answers if answer.reference]
        fixed = sum(answer.changed and answer.after == answer.reference for answer in known)
        broken = sum(answer.changed and answer.before == answer.reference for answer in known)
        if known:
            interval = bonett_price_interval(fixed, broken, len(known))
            found["fixed"] = MeasureOverRows(
                value=interval.value, low=interval.low, high=interval.high, rows=len(known)
            )
    else:
        found["words"] = compute_mean(
            [float(after - before) for before, after in (one.length for one in answers)], seed
        )
    return found
