"""Rows judged by published rules; every drop names the rule, the value and the limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from luthier.chat.messages import MEDIA_MARK
from luthier.core.errors import did_you_mean
from luthier.core.events import format_counts_by_name, format_rows_affected
from luthier.core.messages import gettext_noop
from luthier.core.param_space import ParamDistribution, list_unique_values
from luthier.data.cleaning.quality_measures import TextFeatures
from luthier.data.cleaning.quality_rules import NAMES, RULES, QualityRule, RuleSet
from luthier.data.operator import Column, Drop, OperatorResult, Reads, RowOperator, Suggestion
from luthier.data.row import Row
from luthier.pii.batch import concatenate_into_blocks

if TYPE_CHECKING:
    from luthier.data.suggest.profile import SourceProfile

_PLACEHOLDERS = frozenset({"tbd", "todo", "asdf", "asdfasdf", "qwerty", "xxx", "lorem ipsum", "...", "…"})
_LONGEST_PLACEHOLDER = max(map(len, _PLACEHOLDERS))
_PROSE_WORDS = 5
_MOST_DROPPED = 0.2
"""Where more rows than this share break a rule, it does not fit the texts: nobody's data is rubbish by a fifth."""


class QualityRuleViolation(NamedTuple):
    """A rule that a text breaks, and how."""

    name: str
    how: str


class _Look(NamedTuple):
    """A text, and the rules that it may break."""

    text: TextFeatures
    rules: tuple[QualityRule, ...]


_NOTHING = _Look(TextFeatures("", 0), ())


def _text_of_prompt(row: Row) -> str:
    """What is asked in words; nothing where a row shows or plays something and asks no more."""
    return row.prompt.replace(MEDIA_MARK, "").strip() if row.media_key else row.prompt


class Quality(RowOperator):
    """Judge prompt and answer by published rules, and drop or flag what breaks one.

    `no_letters` and `placeholder` catch rows that say nothing (`???`, `TODO`). `gopher`, `c4` and `fineweb` hold
    documents to the limits of those papers, which short texts would break by chance; `chat` is for texts of any length.
    """

    kind: Literal["quality"] = "quality"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer")
    suggested_at: ClassVar[int] = 40
    writes: ClassVar[dict[str, Column]] = {"broken": "text", "words": "count"}

    rules: RuleSet | tuple[RuleSet, ...] = "chat"
    """`chat` for questions, tickets and answers; `gopher`, `c4`, `fineweb`, or several of them (`[gopher, fineweb]`),
    for prose of at least 50 words."""
    action: Literal["drop", "flag"] = "drop"
    """Leave such rows out, or only write the names of the broken rules."""
    skip: tuple[str, ...] = ()
    """Names of rules that are not applied, such as `stop_words` for texts that are not English."""
    limits: dict[str, tuple[float | None, float | None]] = Field(default_factory=dict)
    """Other limits for some rules, least and most (`{words: [10, 5000], mean_word: [2, null]}`)."""

    @field_validator("skip", "limits")
    @classmethod
    def _known_rules(
        cls, value: tuple[str, ...] | dict[str, tuple[float | None, float | None]]
    ) -> tuple[str, ...] | dict[str, tuple[float | None, float | None]]:
        for name in value:
            if name not in NAMES:
                raise ValueError(f"rule {name!r} is unknown; {did_you_mean(name, NAMES)}")
        return value

    @cached_property
    def _rules(self) -> tuple[QualityRule, ...]:
        """The rules that apply, with their limits."""
        sets = (self.rules,) if isinstance(self.rules, str) else self.rules
        chosen = {rule.name: rule for name in sets for rule in RULES[name] if rule.name not in self.skip}
        return tuple(rule.within(*self.limits[name]) if name in self.limits else rule for name, rule in chosen.items())

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Judge each row."""
        broken: list[str] = []
        words: list[int] = []
        outcome = OperatorResult(attributes={"broken": broken, "words": words})
        prompts = self._looked_at([_text_of_prompt(row) for row in rows])
        answers = self._looked_at([row.answer for row in rows])
        for index, (row, prompt, answer) in enumerate(zip(rows, prompts, answers, strict=True)):
            found = self._broken(row, prompt, answer)
            broken.append(",".join(found))
            words.append(prompt.text.word_count + answer.text.word_count)
            if found and self.action == "drop":
                name, how = next(iter(found.items()))
                outcome.drops[index] = Drop(f"quality {name}" + (f": {how}" if how else ""))
        return outcome

    def _looked_at(self, texts: Sequence[str]) -> list[_Look]:
        """Texts with the rules that must be asked, because a look at many texts at once does not clear them."""
        if not any(texts):
            return [_NOTHING] * len(texts)
        if all(rule.ahead is None for rule in self._rules):
            return [_Look(TextFeatures(text), self._rules) for text in texts]
        looks: list[_Look] = []
        for begin, flat in concatenate_into_blocks(texts):
            if flat is None:
                looks.append(_Look(TextFeatures(texts[begin]), self._rules))
                continue
            doubts = np.stack([rule.in_doubt(flat) for rule in self._rules])  # (rules, texts)
            rules_of_text: list[tuple[QualityRule, ...]] = [()] * len(flat.texts)
            for index in np.flatnonzero(doubts.any(axis=0)).tolist():
                rules_of_text[index] = tuple(compress(self._rules, doubts[:, index]))
            looks += map(_Look, map(TextFeatures, flat.texts, flat.words.tolist()), rules_of_text)
        return looks

    def _broken(self, row: Row, prompt: _Look, answer: _Look) -> dict[str, str]:
        """Broken rules with how they are broken, prompt first."""
        breaks = self._judge(*prompt) if prompt.text.text else []
        if answer.text.text and not row.messages[-1].tool_calls and not (breaks and self.action == "drop"):
            breaks += self._judge_answer(answer, is_alone=not prompt.text.text)
        found: dict[str, str] = {}
        for rule_violation in breaks:
            found.setdefault(rule_violation.name, rule_violation.how)
        return found

    def _judge_answer(self, answer: _Look, *, is_alone: bool) -> list[QualityRuleViolation]:
        """Answers may be bare signs or numbers (a class, a result); prose is judged as such."""
        if answer.text.word_count < _PROSE_WORDS and not is_alone:
            says_nothing = "placeholder" not in self.skip and _says_nothing(answer.text.text)
            return [QualityRuleViolation("placeholder", "")] if says_nothing else []
        return self._judge(*answer)

    def judge(self, text: str) -> list[str]:
        """Names of the rules that a text breaks; of the first alone when that is enough to drop it."""
        return [rule_violation.name for rule_violation in self._judge(TextFeatures(text), self._rules)]

    def _judge(self, text: TextFeatures, rules: Sequence[QualityRule]) -> list[QualityRuleViolation]:
        rule_violations: list[QualityRuleViolation] = []
        if "no_letters" not in self.skip and not any(map(str.isalnum, text.text)):
            rule_violations.append(QualityRuleViolation("no_letters", ""))
        elif "placeholder" not in self.skip and _says_nothing(text.text):
            rule_violations.append(QualityRuleViolation("placeholder", ""))
        for rule in rules:
            if rule_violations and self.action == "drop":
                break  # one reason is enough
            if (value := rule.breaks(text)) is not None:
                rule_violations.append(QualityRuleViolation(rule.name, rule.says(value)))
        return rule_violations

    @classmethod
    def suggest(cls, profile: SourceProfile) -> Suggestion | None:
        """Worth it when the sample holds rows that break a rule; marked only, where that is how these texts are."""
        tried = profile.trials.get("quality")
        if tried is None:
            return None
        broken = {name.removeprefix("quality "): count for name, count in sorted(tried.dropped.items())}
        shown = format_counts_by_name(broken)
        bad, rows = sum(broken.values()), profile.looked_at
        why = gettext_noop(
            f"{format_rows_affected(bad, rows, 'says nothing or repeats itself', 'say nothing or repeat themselves')}: "
            f"{shown}"
        )
        if sum(broken.values()) > _MOST_DROPPED * profile.looked_at:
            skip = max(broken, key=broken.__getitem__)
            stay = gettext_noop(
                f"so many are marked and stay; `skip: [{skip}]` leaves out a rule that does not fit your texts"
            )
            return Suggestion({"action": "flag"}, f"{why}; {stay}")
        if profile.answers and tried.lost:
            stay = gettext_noop(f"to drop them would leave no row of {tried.lost_shown}, so they are marked and stay")
            return Suggestion({"action": "flag"}, f"{why}; {stay}")
        return Suggestion({}, why)

    @classmethod
    def trial(cls) -> Quality:
        """With the rules for chat."""
        return cls()

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """How long a document must be at least, where rules for documents are asked and rows dropped."""
        if self.action != "drop" or "words" in self.skip or all(rule.name != "words" for rule in self._rules):
            return {}
        others = ({**self.limits, "words": (least, None)} for least in (20, 50, 100, 200))
        return {"limits": ParamDistribution(values=list_unique_values((self.limits, *others)))}


def _says_nothing(text: str) -> bool:
    bare = text.strip()
    return len(bare) <= _LONGEST_PLACEHOLDER and bare.casefold() in _PLACEHOLDERS
