"""The rules of a gate, a small grammar:

    rule   = name ( ">" | ">=" | "<" | "<=" ) limit | "no" severity "findings"
    limit  = number ["%"] | model [ ("+" | "-") number ["%"] ]

`name` is a metric (`macro_f1`), the measure of a probe (`bias.gap`), the score of a task (`arc_easy.acc`, or
`arc_easy.drop`: how much of it the tuned model lost), a number of a check of data (`label_errors`) or what people said
(`people.difference`);
`model` is `base` or a baseline (`tfidf`); `severity` is `serious`, or `warning`, which means that or worse.
"macro_f1 > base", "rougeL >= base - 0.01", "accuracy >= 80%", "bias.gap <= 0.05", "no serious findings".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from luthier.core.component import members
from luthier.core.errors import did_you_mean
from luthier.eval.task import SCORES
from luthier.text.findings import COUNTS

Sign = Literal[">", ">=", "<", "<="]
_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_][\w.]*)|(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)|(?P<sign>[<>]=?|[+-])|(?P<percent>%))"
)


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


class WrongRule(ValueError):
    """A rule that does not follow the grammar, with the column (from 1) where it stops making sense."""


class _Token(NamedTuple):
    kind: str
    text: str
    column: int


def parse(text: str, *, findings: bool = False, people: bool = False) -> Rule:
    """Read a rule; `WrongRule` says at which column it is wrong, and what was wanted there.

    With `findings`, rules about the data are read as well; which numbers their checks have, the findings know. With
    `people`, so are rules about what people said.
    """
    tokens = [*_tokens(text), _Token("end", "", len(text.rstrip()) + 1)]
    if tokens[0].text == "no":
        return _none(text, tokens, findings=findings)
    name = _take(text, tokens, "name", "the name of a metric")
    measures = _measures()
    if name.text.startswith(PEOPLE):
        rule_name = _of_people(text, name, people=people)
    else:
        free = is_of_a_task(name.text) or (findings and not _among(name, measures))
        rule_name = name.text if free else _known(text, name, measures, "metric")
    sign = _take(text, tokens, "sign", "one of > >= < <=", {">", ">=", "<", "<="})
    model, margin = _limit(text, tokens)
    _take(text, tokens, "end", "nothing more")
    return Rule(rule_name, sign.text, model, margin)  # type: ignore[arg-type]  # one of the four by construction


def _limit(text: str, tokens: list[_Token]) -> tuple[str | None, float]:
    wanted = "a number, or a model such as base"
    if tokens[0].kind == "sign" and tokens[0].text == "-":
        tokens.pop(0)
        return None, -_number(text, tokens)
    if tokens[0].kind == "number":
        return None, _number(text, tokens)
    model = _known(text, _take(text, tokens, "name", wanted), _models(), "model")
    if tokens[0].kind == "end":
        return model, 0.0
    sign = _take(text, tokens, "sign", "+ or -", {"+", "-"})
    number = _number(text, tokens)
    return model, number if sign.text == "+" else -number


def _number(text: str, tokens: list[_Token]) -> float:
    """A number, or so many per cent."""
    number = float(_take(text, tokens, "number", "a number").text)
    if tokens[0].kind != "percent":
        return number
    tokens.pop(0)
    return number / 100


def is_about_models(rule: Rule) -> bool:
    """Whether a rule is about an evaluation, rather than about what was found in data."""
    return rule.name in _measures() or is_of_a_task(rule.name)


def is_of_a_task(name: str) -> bool:
    """Whether a name is that of a task's score, such as `arc_easy.acc`: which tasks there are, the evaluation knows."""
    return any(part in SCORES for part in name.split(".")[1:])


def is_about_people(rule: Rule) -> bool:
    """Whether a rule is about what people said of the answers."""
    return rule.name.startswith(PEOPLE)


def _of_people(text: str, name: _Token, *, people: bool) -> str:
    if not people:
        what = "nobody was asked; name a step of kind `judgments` in `people`"
        raise _wrong(text, name.column, what)
    if name.text.startswith(f"{PEOPLE}difference."):
        return name.text
    return _known(text, name, PEOPLE_MEASURES, "measure")


def _none(text: str, tokens: list[_Token], *, findings: bool) -> Rule:
    """`no serious findings`: their count is at most 0."""
    if not findings:
        raise _wrong(text, tokens[0].column, "no data was checked; name a `validate` step in `findings`")
    tokens.pop(0)
    severity = _take(text, tokens, "name", "a severity", {name.rpartition(".")[2] for name in COUNTS})
    _take(text, tokens, "name", "`findings`", {"findings"})
    _take(text, tokens, "end", "nothing more")
    return Rule(f"findings.{severity.text}", "<=", None, 0.0)


def _tokens(text: str) -> Iterable[_Token]:
    place = 0
    while place < len(text.rstrip()):
        found = _TOKEN.match(text, place)
        if found is None:
            column = place + len(text[place:]) - len(text[place:].lstrip())
            raise _wrong(text, column + 1, f"{text[column]!r} has no meaning in a rule")
        kind = str(found.lastgroup)
        yield _Token(kind, found[kind], found.start(kind) + 1)
        place = found.end()


def _take(text: str, tokens: list[_Token], kind: str, wanted: str, among: Iterable[str] = ()) -> _Token:
    token = tokens[0]
    if token.kind != kind or (among and token.text not in among):
        raise _wrong(text, token.column, f"wanted {wanted}, came {token.text!r}" if token.text else f"wanted {wanted}")
    return tokens.pop(0)


def _known(text: str, token: _Token, known: Iterable[str], what: str) -> str:
    """The name as it is written in the files; case and underscores are overlooked (`rouge_l` is `rougeL`)."""
    names = {_plain(name): name for name in known}
    if _plain(token.text) in names:
        return names[_plain(token.text)]
    raise _wrong(text, token.column, f"{what} {token.text!r} is unknown; {did_you_mean(token.text, names.values())}")


def _among(token: _Token, known: Iterable[str]) -> bool:
    return _plain(token.text) in {_plain(name) for name in known}


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _measures() -> list[str]:
    """Everything that an evaluation can measure: metrics, and the measures of probes."""
    from luthier.eval.probe import Probe
    from luthier.metrics.metric import Metric

    probes = members(Probe).values()
    metrics = members(Metric)
    return [*metrics, *(name for probe in probes for name in probe.measures)]


def _models() -> list[str]:
    from luthier.eval.baseline import Baseline

    return ["base", *members(Baseline)]


def _wrong(text: str, column: int, what: str) -> WrongRule:
    before, semicolon, remedy = what.partition("; ")
    return WrongRule(f"rule {text!r}, column {column}: {before}{semicolon}{remedy}")
