"""Profile of a dataset: counts, lengths, tokens, words, languages, classes and empty columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from luthier.artifacts.dataset import MADE
from luthier.artifacts.findings import Cell, Finding, FindingNumber, FindingTable
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.data.check import (
    Check,
    CheckResult,
    PlantedFaults,
    RowNames,
    Summed,
    format_percent,
    severity_of_share,
    share_with_interval,
)
from luthier.data.validate.context import CheckData, CheckRow
from luthier.metrics.counts import WIDTHS, CountGroup, Counts, find_bin, list_bins, quantile_of_bins

_LEVELS = (0.01, 0.25, 0.5, 0.75, 0.99)
_MOST_LANGUAGES = 2000
"""Rows whose language is looked at."""
SPLITS = ("train", "validation", "test")
EMPTY, FULL = "empty", "full"
_EMPTY: tuple[object, ...] = (None, "", [], {})
_AT_ONCE = 256
"""Rows that are tokenized at once."""


class DatasetProfile(Check):
    """How many rows of which length, in which languages and words, and which columns are empty.

    Tokens are counted with the tokenizer of the step's `model`, when it names one.
    """

    kind: Literal["profile"] = "profile"
    measures: ClassVar[Mapping[str, str]] = {
        "vocabulary": gettext_noop("different words"),
        "missing": gettext_noop("share of rows without a value in the emptiest column"),
        "languages.other": gettext_noop("share of rows that are not in the most frequent language"),
    }
    false_alarms: ClassVar[float] = 0.0
    summed: ClassVar[Summed] = "pooled"

    warning: float = Field(default=0.5, ge=0, le=1)
    """Share of rows without a value, or in other languages, from which it is a warning."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        words = Counter(word for row in data.rows for word in f"{row.prompt} {row.answer}".casefold().split())
        once = sum(count == 1 for count in words.values())
        numbers = {
            "vocabulary": FindingNumber(value=len(words), rows=len(data.rows), about=self.measures["vocabulary"])
        }
        yield CheckResult(
            Finding(
                name="profile",
                severity="info",
                title=gettext_noop("Contents"),
                sentence=gettext_noop(
                    f"{data.available:,} rows, {sum(words.values()):,} words, {len(words):,} different ones, of "
                    f"which {format_percent(once / max(1, len(words)))} stand only once."
                ),
                numbers=numbers,
                tables=(_lengths(data), *_tokens(data)),
            )
        )
        yield self._columns(data)
        yield self._languages(data)

    def list_count_groups(self, names: RowNames) -> Sequence[CountGroup]:
        """Rows by their lengths in words, by what they lack in each column, and by their language."""
        from luthier.lang.detect import LANGUAGES, UNKNOWN

        bins = tuple(map(str, list_bins()))
        lengths = [
            CountGroup(f"words/{split}/{part}", bins, ordered=True) for split in SPLITS for part in ("prompt", "answer")
        ]
        columns = [CountGroup(f"column/{name}", (EMPTY, FULL)) for name in names.fields]
        return [*lengths, *columns, CountGroup("language", (*sorted(LANGUAGES), UNKNOWN))]

    def count(self, data: CheckData, names: RowNames) -> Counts:
        """The same of one data set; the language of every row."""
        from luthier.lang.detect import identify_languages

        ends, found = list_bins(), dict[str, Counter[str]]()
        for row in data.rows:
            for part in ("prompt", "answer"):
                cell = str(ends[find_bin(len(getattr(row, part).split()), ends)])
                found.setdefault(f"words/{row.split}/{part}", Counter())[cell] += 1
        for name in names.fields:
            empty = sum(row.meta.get(name) in _EMPTY for row in data.rows)
            found[f"column/{name}"] = Counter({EMPTY: empty, FULL: len(data.rows) - empty})
        codes = identify_languages([row.prompt or row.answer for row in data.rows])
        return {**found, "language": Counter(code for code, _ in codes)}

    def conclude(self, counts: Counts, names: RowNames) -> Iterable[Finding]:
        """The same of the rows of all sites; different words and the longest row are not told."""
        from luthier.lang.detect import UNKNOWN

        ends = list_bins()
        lengths = {name: list(counts[name].values()) for name in counts if name.startswith("words/")}
        lines: list[tuple[Cell, ...]] = []
        for name, cells in lengths.items():
            _, split, part = name.split("/")
            if sum(cells):
                levels = [round(quantile_of_bins(cells, ends, level)) for level in _LEVELS]
                lines.append((f"{split}, words of the {part}", *levels))
        rows = sum(sum(cells) for name, cells in lengths.items() if name.endswith("/prompt"))
        yield Finding(
            name="profile",
            severity="info",
            title=gettext_noop("Contents"),
            sentence=gettext_noop(
                f"{rows:,} rows. Lengths above {WIDTHS[1]} words are told to within "
                f"{format_percent(WIDTHS[0] - 1)}; different words, and the longest row, are not told."
            ),
            tables=(FindingTable(title=gettext_noop("Lengths"), columns=("what", *_heads()), rows=tuple(lines)),),
        )
        columns = {name: counts[f"column/{name}"] for name in names.fields}
        if columns:
            yield self._tell_columns(
                {name: cells[EMPTY] for name, cells in columns.items()}, sum(next(iter(columns.values())).values())
            )
        looked = sum(counts["language"].values())
        yield self._tell_languages({code: n for code, n in counts["language"].items() if n and code != UNKNOWN}, looked)

    def _columns(self, data: CheckData) -> CheckResult:
        names = sorted({name for row in data.rows for name in row.meta} - {MADE})
        empty = {name: sum(row.meta.get(name) in _EMPTY for row in data.rows) for name in names}
        return CheckResult(self._tell_columns(empty, len(data.rows)))

    def _tell_columns(self, empty: Mapping[str, int], rows: int) -> Finding:
        """Which column is empty most often, by its rows without a value."""
        names = sorted(empty)
        worst = max(names, key=lambda name: (empty[name], name), default="")
        number = share_with_interval(empty.get(worst, 0), rows, self.measures["missing"])
        count = len(names)
        column_count = gettext_noop(f"{format_counted_noun(count, 'column')}")
        sentence = gettext_noop(
            f"No row lacks a value in the {column_count} beside the text."
            if names
            else "There are no columns beside the text."
        )
        if empty.get(worst):
            share = format_percent(number.value)
            sentence = gettext_noop(
                f"Of {column_count} beside the text, {worst!r} is empty most often: in {share} of the rows."
            )
        return Finding(
            name="profile.columns",
            severity="warning" if number.value >= self.warning else "info",
            title=gettext_noop("Empty columns" if number.value >= self.warning else "Columns"),
            sentence=sentence,
            numbers={"missing": number},
            hint=gettext_noop(
                "Do not split, group or slice by a column that is mostly empty." if number.value >= self.warning else ""
            ),
            tables=(
                FindingTable(
                    title=gettext_noop("Rows without a value"),
                    columns=("column", "rows"),
                    rows=tuple((name, empty[name]) for name in names),
                ),
            )
            if names
            else (),
        )

    def _languages(self, data: CheckData) -> CheckResult:
        from luthier.lang.detect import UNKNOWN, identify_languages

        check_rows = data.rows[:: -(-len(data.rows) // _MOST_LANGUAGES) or 1]
        codes = [code for code, _ in identify_languages([row.prompt or row.answer for row in check_rows])]
        counts = Counter(code for code in codes if code != UNKNOWN)
        return CheckResult(self._tell_languages(counts, len(check_rows)))

    def _tell_languages(self, counts: Mapping[str, int], looked: int) -> Finding:
        """The rows of each language that is known, out of so many looked at."""
        first = min(counts, key=lambda code: (-counts[code], code), default="")
        known = sum(counts.values())
        number = share_with_interval(known - counts.get(first, 0), known, self.measures["languages.other"])
        severity = severity_of_share(number.low or 0, min(0.05, self.warning), 2)
        language_list = ", ".join(
            f"{code} {count:,}" for code, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
        )
        return Finding(
            name="profile.languages",
            severity=severity,
            title=gettext_noop("Several languages" if severity != "info" else "Languages"),
            sentence=gettext_noop(
                f"Of {looked:,} rows looked at, {known:,} are long enough to tell their language: {language_list}."
                if language_list
                else f"Of {looked:,} rows looked at, {known:,} are long enough to tell their language."
            ),
            numbers={"languages.other": number},
            hint=gettext_noop(
                "Keep one language, or hold out enough rows of each to measure them apart."
                if severity != "info"
                else ""
            ),
            mend=f"ops: [{{kind: language, keep: [{first}]}}]" if severity != "info" else "",
        )

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """A column of which three in four rows say nothing."""
        return PlantedFaults(
            [
                replace(row, meta={**row.meta, "channel": "mail" if index % 4 == 0 else None})
                for index, row in enumerate(rows)
            ]
        )


def _quantiles(name: str, values: Sequence[int]) -> tuple[Cell, ...]:
    import numpy as np

    levels = [int(level) for level in np.quantile(values, _LEVELS, method="lower")] if values else [0] * len(_LEVELS)
    return (name, *levels, max(values, default=0))


def _lengths(data: CheckData) -> FindingTable:
    order = [split for split in SPLITS if data.of_split(split)]
    rows = [
        _quantiles(f"{split}, words of the {part}", [len(getattr(data.rows[at], part).split()) for at in indices])
        for split in order
        for indices in [data.of_split(split)]
        for part in ("prompt", "answer")
    ]
    return FindingTable(title=gettext_noop("Lengths"), columns=("what", *_heads(), "longest"), rows=tuple(rows))


def _heads() -> tuple[str, ...]:
    return tuple("median" if level == 0.5 else f"{100 * level:.0f} %" for level in _LEVELS)


def _tokens(data: CheckData) -> tuple[FindingTable, ...]:
    """Tokens of whole rows under the model's own tokenizer and chat template."""
    if data.model is None:
        return ()
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.load import find_base_folder

    text = ChatTokenizer.load(find_base_folder(data.model))
    counts: list[tuple[int, int]] = []
    for start in range(0, len(data.rows), _AT_ONCE):
        encoded = text.encode_many([row.messages for row in data.rows[start : start + _AT_ONCE]])
        counts += [(len(row.ids), sum(row.loss_mask)) for row in encoded]
    rows = (
        _quantiles("tokens of a row", [whole for whole, _ in counts]),
        _quantiles("of them learnt", [trained_tokens for _, trained_tokens in counts]),
    )
    return (FindingTable(title=gettext_noop("Tokens"), columns=("what", *_heads(), "longest"), rows=rows),)
