"""The rules of a gate, a small grammar:

    rule   = name ( ">" | ">=" | "<" | "<=" ) limit | "no" severity "findings"
    limit  = number ["%"] | model [ ("+" | "-") number ["%"] ]

`name` is a metric (`macro_f1`), the measure of a probe (`bias.gap`), the score of a task (`arc_easy.acc`, or
`arc_easy.drop`: how much of it the tuned model lost), a number of a check of data (`label_errors`) or what people said
(`people.difference`);
`model` is `base` or a baseline (`tfidf`); a per cent is a hundredth of the metric's scale: one point of BLEU's;
`severity` is `serious`, or `warning`, which means that or worse.
"macro_f1 > base", "rougeL >= base - 0.01", "accuracy >= 80%", "bias.gap <= 0.05", "no serious findings".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from luthier.core.component import members
from luthier.core.phrase import Phrase, Sign, Word, WrongRule, plain
from luthier.eval.task import SCORES
from luthier.text.findings import COUNTS

__all__ = ["Rule", "WrongRule", "parse"]

PEOPLE = "people."
PEOPLE_MEASURES = tuple(
    PEOPLE + name for name in ("points", "difference", "agreement", "planted_right", "ties", "first_shown")
)
"""What people's judgments say; `people.difference.NAME` is the difference from a further model."""


class Rule(NamedTuple):
    """One rule: a measure, a sign, and a limit that is a number, or a model's value plus a margin."""

    name: str
    sign: Sign
    model: str | None
    margin: float
    """The limit itself when there is no model."""

    @property
    def upward(self) -> bool:
        """Whether more is wanted."""
        return self.sign.startswith(">")

    @property
    def strict(self) -> bool:
        """Whether the limit itself does not pass."""
        return len(self.sign) == 1


def parse(text: str, *, findings: bool = False, people: bool = False) -> Rule:
    """Read a rule; `WrongRule` says at which column it is wrong, and what was wanted there.

    With `findings`, rules about the data are read as well; which numbers their checks have, the findings know. With
    `people`, so are rules about what people said.
    """
    words = Phrase(text)
    if words.next.text == "no":
        return _none(words, findings=findings)
    name = words.take("name", "the name of a metric")
    measures = _measures()
    if name.text.startswith(PEOPLE):
        rule_name = _of_people(words, name, people=people)
    else:
        free = is_of_a_task(name.text) or (findings and not _among(name, measures))
        rule_name = name.text if free else words.known(name, measures, "metric")
    sign = words.sign()
    model, margin = _limit(words)
    words.end()
    return Rule(rule_name, sign, model, round(margin * _scale(rule_name), 9) if "%" in text else margin)


def _scale(name: str) -> float:
    """What a whole is of a metric or of a task's score: 100 of those that are written from 0 to 100, else 1."""
    from luthier.metrics.metric import Metric

    found = members(Metric).get(name.rpartition(".")[2])
    return found.whole() if found is not None else 1.0


def _limit(words: Phrase) -> tuple[str | None, float]:
    if words.has("number") or words.has("sign", "-"):
        return None, words.limit()
    model = words.known(words.take("name", "a number, or a model such as base"), _models(), "model")
    if not words.has("end") and not words.has("sign", "+", "-"):
        words.take("sign", "+ or -", {"+", "-"})
    return model, words.margin()


def is_about_models(rule: Rule) -> bool:
    """Whether a rule is about an evaluation, rather than about what was found in data."""
    return rule.name in _measures() or is_of_a_task(rule.name)


def is_of_a_task(name: str) -> bool:
    """Whether a name is that of a task's score, such as `arc_easy.acc`: which tasks there are, the evaluation knows."""
    return any(part in SCORES for part in name.split(".")[1:])


def is_about_people(rule: Rule) -> bool:
    """Whether a rule is about what people said of the answers."""
    return rule.name.startswith(PEOPLE)


def _of_people(words: Phrase, name: Word, *, people: bool) -> str:
    if not people:
        what = "nobody was asked; name a step of kind `judgments` in `people`"
        raise words.wrong(name.column, what)
    if name.text.startswith(f"{PEOPLE}difference."):
        return name.text
    return words.known(name, PEOPLE_MEASURES, "measure")


def _none(words: Phrase, *, findings: bool) -> Rule:
    """`no serious findings`: their count is at most 0."""
    if not findings:
        raise words.wrong(words.next.column, "no data was checked; name a `validate` step in `findings`")
    words.take("name", "`no`")
    severity = words.take("name", "a severity", {name.rpartition(".")[2] for name in COUNTS})
    words.take("name", "`findings`", {"findings"})
    words.end()
    return Rule(f"findings.{severity.text}", "<=", None, 0.0)


def _among(word: Word, known: Iterable[str]) -> bool:
    return plain(word.text) in {plain(name) for name in known}


def _measures() -> list[str]:
    """Everything that an evaluation can measure: metrics, and the measures of probes."""
    from luthier.eval.probe import Probe
    from luthier.metrics.metric import Metric

    probes = members(Probe).values()
    metrics = members(Metric)
    return [*metrics, *(name for probe in probes for name in probe.measures)]


def _models() -> list[str]:
    from luthier.eval.baseline import Baseline

    return ["base", "against", *members(Baseline)]
