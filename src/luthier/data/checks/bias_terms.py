"""Check of demographic terms: the groups that texts mention, and labels that go with some of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from luthier.artifacts.findings import Finding, FindingNumber, FindingTable, Severity
from luthier.core.events import format_rows_affected
from luthier.core.messages import gettext_noop
from luthier.data.check import Check, CheckResult, PlantedFaults
from luthier.data.validate.context import CheckData, CheckRow

TERMS: Mapping[str, Mapping[str, str]] = {
    "gender": {
        "female": "female females woman women girl girls sister sisters she her hers herself daughter daughters mother "
        "mothers wife wives",
        "male": "male males man men boy boys brother brothers he him his himself son sons father fathers husband "
        "husbands",
        "nonbinary": "nonbinary transgender trans",
    },
    "orientation": {
        "gay, lesbian, bisexual, queer": "gay lesbian bisexual queer lgbt lgbtq homosexual",
        "straight": "heterosexual",
    },
    "religion": {
        "Christian": "christian christians catholic catholics protestant protestants",
        "Muslim": "muslim muslims",
        "Jewish": "jewish jew jews",
        "Buddhist": "buddhist buddhists",
        "Hindu": "hindu hindus",
        "Sikh": "sikh sikhs",
    },
    "origin": {
        "African": "african africans",
        "American": "american americans",
        "Asian": "asian asians chinese japanese indian indians",
        "European": "european europeans",
        "Hispanic": "hispanic hispanics latino latina latinos latinx mexican mexicans",
    },
    "age": {"old": "elderly older", "young": "teenage teenager teenagers younger"},
    "ability": {"disabled": "blind deaf paralyzed paralysed disabled"},
}
"""Words by which groups are named: the identity terms of Dixon et al. 2018 (AIES, "Measuring and mitigating unintended
bias in text classification") without those that mostly mean something else (black, white, straight, old), and for
gender the word sets of Caliskan, Bryson and Narayanan 2017 (Science 356, WEAT 7 and 8), with their plurals. English."""
_WORD = re.compile(r"[^\W\d_]+")
_COMMON = 40
"""The number of words of free answers that are examined: the most frequent of those in 2 to 50 % of the answers."""


class _Pair(NamedTuple):
    """The log odds ratio of an answer between one group and the other groups of its axis, with its standard error."""

    axis: str
    group: str
    feature: str
    log_odds: float
    error: float
    rows: int

    @property
    def z(self) -> float:
        return self.log_odds / self.error


class BiasTerms(Check):
    """Groups of people named in the prompts: how often each, and which answers go with one more than with others.

    For each kind of group (gender, religion, …) rows that name one group are set against rows that name another; the
    measure is the log-odds ratio with half a row added to each count (Haldane 1956, Anscombe 1956), its interval
    Woolf's, corrected after Holm for the number of pairs looked at. Of free text the features are the frequent words
    of the answers. Names of groups are found by words alone, in English. Copies of a row are no evidence of their own:
    they count once.
    """

    kind: Literal["bias_terms"] = "bias_terms"
    measures: ClassVar[Mapping[str, str]] = {
        "bias.rows": gettext_noop("rows that name a group of people"),
        "bias.terms": gettext_noop("answers that go with one group clearly more than with others"),
        "bias.log_odds": gettext_noop("the largest such log-odds ratio, by the lower end of its interval"),
    }
    false_alarms: ClassVar[float] = 0.05

    min: int = Field(default=10, ge=2)
    """Groups that fewer rows name are counted but not compared."""
    warning: float = Field(default=0.7, ge=0)
    """Log-odds ratio from which an association is a warning, by the lower end of its corrected interval: 0.7 doubles
    the odds."""
    serious: float = Field(default=2.5, ge=0)
    """The same from which it is serious: 2.5 makes odds twelvefold."""
    level: float = Field(default=0.05, gt=0, lt=1)
    """Level of the corrected test, over all pairs."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        named = [find_demographic_groups(prompt) for prompt in data.prompts]
        features = _features(data)
        once = _once(data, named, features)
        groups_once, seen_once = [named[index] for index in once], [features[index] for index in once]
        pairs = [pair for axis in TERMS for pair in _pairs(axis, groups_once, seen_once, self.min)]
        sure = _holm(pairs, self.level)
        strong = [(pair, low) for pair, low in sure if low >= self.warning]
        strong.sort(key=lambda entry: (-entry[1], entry[0].axis, entry[0].group, entry[0].feature))
        rows = sum(bool(groups) for groups in named)
        worst = strong[0] if strong else None
        low = worst[1] if worst else 0.0
        severity: Severity = "info" if worst is None else "serious" if low >= self.serious else "warning"
        yield CheckResult(
            Finding(
                name=self.kind,
                severity=severity,
                title=gettext_noop("Answers that go with a group of people" if worst else "Groups of people"),
                sentence=_sentence(rows, len(data.rows), worst[0] if worst else None, low, len(strong)),
                rows=sum(
                    _concerned(groups, strong, row_features)
                    for groups, row_features in zip(named, features, strict=True)
                ),
                numbers={
                    "bias.rows": FindingNumber(value=rows, rows=len(data.rows), about=self.measures["bias.rows"]),
                    "bias.terms": FindingNumber(value=len(strong), rows=rows, about=self.measures["bias.terms"]),
                    "bias.log_odds": _worst(worst, rows, self.measures["bias.log_odds"]),
                },
                hint=gettext_noop(
                    "Look whether the world or the collection of rows makes it so; add rows that say the same of "
                    "the other group, and measure the tuned model by group."
                    if worst
                    else ""
                ),
                tables=tuple(_tables(named, strong)),
            ),
            [
                (row, None, ", ".join(sorted(groups)))
                for row, groups, row_features in zip(data.rows, named, features, strict=True)
                if _concerned(groups, strong, row_features)
            ],
        )

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """Women write about one class only, men about the others."""
        first = min(row.label or row.answer for row in rows)
        made = []
        for index, row in enumerate(rows):
            mine = row.label == first if row.label else index % 2 == 0
            answer = None if row.label else f"{row.answer} {'Call the kitchen.' if mine else 'Call the office.'}"
            made.append(row.saying(prompt=f"{row.prompt} says {'she' if mine else 'he'}", answer=answer))
        return PlantedFaults(made)


_GROUP_OF = {
    word: f"{axis}: {group}"
    for axis, groups in TERMS.items()
    for group, words in groups.items()
    for word in words.split()
}


def find_demographic_groups(text: str) -> frozenset[str]:
    """The groups that a text names, each with its kind."""
    return frozenset(_GROUP_OF[word] for word in _WORD.findall(text.casefold()) if word in _GROUP_OF)


def _once(data: CheckData, named: Sequence[frozenset[str]], features: Sequence[frozenset[str]]) -> list[int]:
    """Places of the rows that count: of copies that name the same groups and answer alike, the first."""
    found: dict[tuple[int, frozenset[str], frozenset[str]], int] = {}
    for index, (head, groups, row_features) in enumerate(zip(data.heads.tolist(), named, features, strict=True)):
        found.setdefault((head, groups, row_features), index)
    return sorted(found.values())


def _features(data: CheckData) -> list[frozenset[str]]:
    """Return the class of each row; for free text, the frequent words of its answer."""
    if data.task == "label":
        return [frozenset({row.label or ""}) for row in data.rows]
    words = [frozenset(_WORD.findall(row.answer.casefold())).difference(_GROUP_OF) for row in data.rows]
    counts = Counter(word for row in words for word in row)
    usual = [word for word, count in counts.items() if 0.02 * len(words) <= count <= 0.5 * len(words)]
    common = frozenset(sorted(usual, key=lambda word: (-counts[word], word))[:_COMMON])
    return [row & common for row in words]


def _pairs(
    axis: str, named: Sequence[frozenset[str]], features: Sequence[frozenset[str]], least: int
) -> Iterable[_Pair]:
    """Every group of a kind with every feature, against the other groups of that kind."""
    rows = [
        (next(iter(mine)), row_features)
        for groups, row_features in zip(named, features, strict=True)
        if len(mine := {group for group in groups if group.startswith(f"{axis}: ")}) == 1
    ]
    sizes = Counter(group for group, _ in rows)
    large = sorted(group for group, size in sizes.items() if size >= least)
    if len(large) < 2:
        return
    both = Counter((group, feature) for group, row_features in rows for feature in row_features)
    totals = Counter(feature for _, row_features in rows for feature in row_features)
    for group in large:
        for feature in sorted(totals):
            a, rest = both[group, feature], totals[feature] - both[group, feature]
            b, others = sizes[group] - a, len(rows) - sizes[group]
            if others >= least:
                cells = [cell + 0.5 for cell in (a, b, rest, others - rest)]
                log_odds = math.log(cells[0] * cells[3] / (cells[1] * cells[2]))
                yield _Pair(axis, group.partition(": ")[2], feature, log_odds, math.sqrt(sum(1 / c for c in cells)), a)


def _holm(pairs: Sequence[_Pair], level: float) -> list[tuple[_Pair, float]]:
    """Pairs that go together after Holm's correction, each with the lower end of its corrected interval."""
    from scipy.special import ndtri

    found = []
    ordered = sorted(pairs, key=lambda pair: (-abs(pair.z), pair.axis, pair.group, pair.feature))
    for index, pair in enumerate(ordered):
        z = float(ndtri(1 - level / (2 * (len(ordered) - index))))
        if abs(pair.z) <= z:
            break
        if pair.log_odds > 0:
            found.append((pair, round(pair.log_odds - z * pair.error, 4)))
    return found


def _concerned(groups: frozenset[str], strong: Sequence[tuple[_Pair, float]], row_features: frozenset[str]) -> bool:
    return any(f"{pair.axis}: {pair.group}" in groups and pair.feature in row_features for pair, _ in strong)


def _worst(worst: tuple[_Pair, float] | None, rows: int, about: str) -> FindingNumber:
    if worst is None:
        return FindingNumber(value=0, rows=rows, about=about)
    pair, low = worst
    high = round(2 * pair.log_odds - low, 4)
    return FindingNumber(value=round(pair.log_odds, 4), low=low, high=high, rows=rows, about=about)


def _sentence(rows: int, of: int, worst: _Pair | None, low: float, count: int) -> str:
    if worst is None:
        return gettext_noop(
            f"{format_rows_affected(rows, of, 'names', 'name')} a group of people; no answer goes with one of them "
            "clearly more than with others."
        )
    named = gettext_noop(f"{format_rows_affected(rows, of, 'names', 'name')} a group of people")
    factor = f"{math.exp(low):.1f}"
    return gettext_noop(
        f"{named}; {count} {'pair goes' if count == 1 else 'pairs go'} together: the odds of {worst.feature!r} are at "
        f"least {factor} times as high where {worst.group!r} is named as where others are ({worst.axis})."
    )


def _tables(named: Sequence[frozenset[str]], strong: Sequence[tuple[_Pair, float]]) -> Iterable[FindingTable]:
    counts = Counter(group for groups in named for group in groups)
    if counts:
        rows = tuple(sorted(counts.items(), key=lambda count: (-count[1], count[0])))
        yield FindingTable(title=gettext_noop("Rows that name a group"), columns=("group", "rows"), rows=rows)
    if strong:
        cells = tuple(
            (pair.axis, pair.group, pair.feature, pair.rows, round(pair.log_odds, 2), round(low, 2))
            for pair, low in strong[:50]
        )
        heads = ("kind", "group", "answer", "rows", "log-odds", "at least")
        yield FindingTable(title=gettext_noop("What goes together"), columns=heads, rows=cells)
