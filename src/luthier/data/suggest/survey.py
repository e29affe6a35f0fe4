"""Survey a source before a recipe is written: its columns from the first rows, and what the operators would find."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from luthier.core.errors import DataError, SourceLocation
from luthier.core.events import (
    format_counted_noun,
    format_counts_by_name,
    format_rows_affected,
    take_evenly_spaced,
)
from luthier.core.messages import gettext_noop
from luthier.data.columns.choose import LayoutChoice, Task
from luthier.data.columns.media import outline_media, place_media
from luthier.data.columns.recognize import build_source_for_path
from luthier.data.dedup.shingles import digest8, prompt_key
from luthier.data.engine.reader import EMPTY_ANSWER, why_unusable
from luthier.data.ops.label_spelling import map_label_variants
from luthier.data.ops.language import LanguageOperator
from luthier.data.ops.normalize import holds_html, is_about_html
from luthier.data.row import BrokenRow, Row, SourceRecord, UnusableRowError, count_record_characters, take_first_chunk
from luthier.data.source import Source, build_broken_row, files_by_column
from luthier.data.split import SplitKeys, count_held_out_rows
from luthier.data.suggest.profile import ColumnProfile, SourceProfile
from luthier.data.suggest.question import ClassTexts, add_prompt_columns
from luthier.data.suggest.separability import LabelSeparability, measure_separability
from luthier.data.task import AnswerCounter
from luthier.pii.span import KINDS

SEED = 7
"""That of a proposed recipe."""
SHARES = (0.1, 0.2)
"""What it holds out: of many rows, and of few."""
LOOKED_AT = 2000
WHOLE_BYTES = 32 << 20
"""Files up to this size are counted; rows of larger ones are estimated."""
_QUICK_ROWS = 200
"""Rows whose language a quick look recognizes."""
_BY_LINE = (".csv", ".tsv", ".jsonl", ".ndjson")
"""Endings of files whose rows know the line that they stand on."""
_NUMBER = frozenset("0123456789.,-+eE% ")


def profile_path(path: Path | str) -> SourceProfile:
    """Look at the columns and rows of a file, a folder, a pattern or a URL."""
    source, base = build_source_for_path(path)
    return profile_source(source, base, source.path)[0]


class SurveyedSource(NamedTuple):
    """What a look at a source shows."""

    profile: SourceProfile
    choice: LayoutChoice
    rows: Sequence[Row]
    """The rows that were looked at."""


def profile_source(
    source: Source, recipe_dir: Path, name: str, task: Task | None = None
) -> tuple[SourceProfile, LayoutChoice]:
    """Look at a source, choose what its columns mean, and look at the rows in that light."""
    return survey_source(source, recipe_dir, name, task)[:2]


def survey_source(
    source: Source, recipe_dir: Path, name: str, task: Task | None = None, *, quick: bool = False
) -> SurveyedSource:
    """Look at a source, choose what its columns mean, and look at the rows in that light.

    Where the rows are single messages, the conversations that they make are looked at. A `quick` look tries no operator
    and searches for no personal data.
    """
    notes: list[str] = []
    size = source.size(recipe_dir)
    whole = size is not None and size <= WHOLE_BYTES
    records, broken = _read(source, recipe_dir, name, None if whole else LOOKED_AT, notes)
    first = broken[0] if broken else None
    columns = _columns(records)
    choice = source.choice(columns, [record.values for record in records[:200]], name, task)
    if choice.turns:
        conversations = source.model_copy(update={"turns": choice.turns})
        return survey_source(conversations, recipe_dir, name, task, quick=quick)
    choice = add_prompt_columns(choice, list(columns), records)
    source_records = records[:: -(-len(records) // LOOKED_AT)]
    source_profile = SourceProfile(
        path=name,
        kind=source.kind,
        rows=len(records) + len(broken) if whole or size is None else _estimate(records, size, recipe_dir / name),
        estimated=not whole,
        gathered=source.turns is not None,
        looked_at=len(source_records),
        broken=len(broken),
        first_broken=f"{_place(first, name)}: {first.message}" if first else "",
        first_remedy=first.hint if first else "",
        columns=columns,
        notes=notes,
    )
    mapped = source.model_copy(update={key: value for key, value in choice.settings.items() if key != "turns"})
    answers, unfit = _fitting(mapped, records)
    if unfit:
        source_profile = _with_unfit(source_profile, unfit, len(records), name)
    rows, left = _rows(mapped, source_records)
    if left:
        reason_list = format_counts_by_name(dict(sorted(left.items())))
        notes.append(
            gettext_noop(
                f"{format_rows_affected(left.total(), len(source_records), 'has', 'have')} nothing to train on and "
                f"will be dropped: {reason_list}"
            )
        )
        source_profile = source_profile.model_copy(update={"notes": notes, "unlabeled": left[EMPTY_ANSWER]})
    labeled = bool(answers) or choice.is_label
    profile = _with_rows(source_profile, rows, answers if whole else Counter(), labeled=labeled, quick=quick)
    return SurveyedSource(profile, choice, rows)


def _place(broken: BrokenRow, name: str) -> str:
    """The line of a broken row, and its file where there are several."""
    return broken.location if broken.file == name else f"{broken.location} of {broken.file}"


def _read(
    source: Source, recipe_dir: Path, name: str, limit: int | None, notes: list[str]
) -> tuple[list[SourceRecord], list[BrokenRow]]:
    """Good records and broken rows, as far as the limit."""
    rows = source.records(recipe_dir, notes.append)
    found = list(rows) if limit is None else take_first_chunk(rows, limit, count_record_characters)
    records = [record for record in found if isinstance(record, SourceRecord)]
    broken = [each for each in found if isinstance(each, BrokenRow) and not each.left_out]
    left = Counter(each.message for each in found if isinstance(each, BrokenRow) and each.left_out)
    notes.extend(
        gettext_noop(f"{format_counted_noun(count, 'row is', 'rows are')} left out: {why}")
        for why, count in left.most_common()
    )
    if not records and not broken:
        what = f"every row is left out: {', '.join(left)}"
        raise DataError(what, where=SourceLocation(file=name), hint="give rows that can be used")
    if not records:
        raise broken[0].error()
    return records, broken


def _fitting(source: Source, records: Sequence[SourceRecord]) -> tuple[Counter[str], list[BrokenRow]]:
    """All different answers with their counts, when they are classes; and the rows that make no example."""
    answer_counter = AnswerCounter()
    unfit: list[BrokenRow] = []
    mapping, holders = source.mapping(list(records)), files_by_column(records)
    for record in records:
        try:
            parts = mapping.parts(record.values)
        except UnusableRowError as error:
            unfit.append(build_broken_row(record, error, holders))
            continue
        if parts.messages[-1].content.strip():
            answer_counter.add(parts.messages[-1].content, parts.kind)
    if answer_counter.decide().task == "text":
        return Counter(), unfit
    return Counter(answer_counter.labels[code] for code in answer_counter.of_rows), unfit


def _with_unfit(base: SourceProfile, unfit: Sequence[BrokenRow], records: int, name: str) -> SourceProfile:
    """Rows that make no example are broken ones, too; an error where there are no others."""
    if len(unfit) == records:
        raise unfit[0].error()
    update: dict[str, Any] = {"broken": base.broken + len(unfit)}
    first = unfit[0]
    problem = f"{_place(first, name)}: {first.message}"
    if base.broken:
        update["first_broken"] = f"{base.first_broken}; {len(unfit)} of them make no example, the first {problem}"
    else:
        update |= {"first_broken": problem, "first_remedy": first.hint}
    return base.model_copy(update=update)


def _estimate(records: Sequence[SourceRecord], size: int, file: Path) -> int:
    """Rows of so many bytes, from what those that were read took of the file; else from their values as JSON."""
    is_by_line = file.suffix.lower() in _BY_LINE and file.is_file() and file.stat().st_size == size
    if is_by_line and (before := _bytes_before(file, records[-1].line)):
        return round(size / before * (len(records) - 1))
    bytes_read = sum(len(json.dumps(record.values, ensure_ascii=False, default=str).encode()) for record in records)
    return round(size / bytes_read * len(records))


def _bytes_before(file: Path, line: int) -> int:
    with file.open("rb") as content:
        return sum(len(each) for each in islice(content, line - 1))


def _columns(records: Sequence[SourceRecord]) -> dict[str, ColumnProfile]:
    names = dict.fromkeys(name for record in records for name in record.values)
    return {name: _column(name, [record.values.get(name) for record in records]) for name in names}


def _column(name: str, values: Sequence[Any]) -> ColumnProfile:
    filled = [value for value in values if value not in (None, "", [], {})]
    texts = [
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str) for value in filled
    ]
    counts = Counter(texts)
    return ColumnProfile(
        name=name,
        kind=_kind_of(filled),
        filled=len(filled),
        distinct=len(counts),
        mean_chars=round(sum(map(len, texts)) / max(1, len(texts)), 1),
        max_chars=max(map(len, texts), default=0),
        mean_words=round(sum(len(text.split()) for text in texts) / max(1, len(texts)), 1),
        common={text: count for text, count in counts.most_common(200) if len(text) <= 64},
    )


def _kind_of(values: Sequence[Any]) -> Literal["text", "number", "list", "object", "empty"]:
    if not values:
        return "empty"
    kinds: Counter[Literal["text", "number", "list", "object"]] = Counter()
    for value in values:
        if isinstance(value, (list, dict)):
            kinds["list" if isinstance(value, list) else "object"] += 1
        elif isinstance(value, str) and not set(value) <= _NUMBER:
            kinds["text"] += 1
        else:
            kinds["number"] += 1
    return kinds.most_common(1)[0][0]


def _rows(source: Source, records: Sequence[SourceRecord]) -> tuple[list[Row], Counter[str]]:
    """The looked-at records as rows, as far as they can be mapped and learnt from; and why others cannot be learnt."""
    mapping = source.mapping(list(records))
    found: list[Row] = []
    left: Counter[str] = Counter()
    for number, record in enumerate(records):
        if (parts := mapping.try_parts(record.values)) is None:
            continue
        if source.media == "read":
            with suppress(UnusableRowError):  # it is told when all rows are read
                placed = place_media(parts.messages, parts.meta, outline_media, strict=False)
                parts = parts._replace(messages=placed.messages, meta=placed.meta)
        row = Row(
            n=number,
            id=f"{number:016x}",
            source=source.kind,
            file=record.file,
            line=record.line,
            kind=parts.kind,
            messages=parts.messages,
            tools=parts.tools,
            meta=parts.meta,
            group=parts.group,
            row=record.row,
        )
        if why := why_unusable(row):
            left[why] += 1
        else:
            found.append(row)
    return found, left


def _held_out(rows: Sequence[Row]) -> dict[str, int]:
    """Rows that each share holds out; of rows in groups, chance decides too much."""
    if any(row.group for row in rows):
        return {}
    prompts = np.array([digest8(prompt_key(row)) for row in rows], dtype=np.uint64)
    keys = SplitKeys(prompts, np.zeros(len(rows), dtype=np.uint64), None)
    return dict(zip(map(str, SHARES), count_held_out_rows(keys, SHARES, SEED), strict=True))


def _turns(rows: Sequence[Row]) -> dict[str, int]:
    """How often the assistant speaks and calls, and how many rows go on from others."""
    spoken = [[message for message in row.messages if message.role == "assistant"] for row in rows]
    several = [row for row, turns in zip(rows, spoken, strict=True) if sum(turn.learn for turn in turns) > 1]
    return {
        "called": sum(any(turn.tool_calls for turn in turns) for turns in spoken),
        "several": len(several),
        "going_on": _going_on(several, rows),
        "answers_in_all": sum(map(len, spoken)),
        "calls_in_all": sum(bool(turn.tool_calls) for turns in spoken for turn in turns),
    }


def _going_on(several: Sequence[Row], rows: Sequence[Row]) -> int:
    """How many of some rows begin with all turns of another row."""
    if not several:
        return 0
    whole = {_said(row)[-1] for row in rows}
    return sum(any(start_text in whole for start_text in _said(row)[:-1]) for row in several)


def _said(row: Row) -> list[str]:
    """A digest of the turns of a row up to each of them."""
    so_far, found = sha256(), []
    for message in row.messages:
        so_far.update(message.model_dump_json(exclude_defaults=True).encode())
        found.append(so_far.hexdigest())
    return found


def _with_rows(
    base: SourceProfile, rows: list[Row], answers: Counter[str], *, labeled: bool, quick: bool
) -> SourceProfile:
    """Add what the rows show, and, unless the look is quick, what the operators find in them."""
    if not rows:
        return base
    spoken = take_evenly_spaced(rows, _QUICK_ROWS) if quick else rows
    with_html = list(filter(holds_html, rows))
    spellings = map_label_variants(answers, ClassTexts(rows, SEED).alike)
    media = Counter(kind for row in rows for kind in {one.kind for turn in row.messages for one in turn.media})
    update = {
        "languages": dict(Counter(LanguageOperator().apply(spoken).attributes["language"]).most_common()),
        "row_bytes": sum(len(text.encode()) for row in rows for _, text in row.everything()) / len(rows),
        "html_rows": len(with_html),
        "about_html": sum(map(is_about_html, with_html)),
        "with_tools": sum(bool(row.tools) for row in rows),
        "calling": sum(bool(row.messages[-1].tool_calls) for row in rows),
        **_turns(rows),
        "spellings": spellings,
        "separability": _separability(rows, spellings) if labeled and not media else None,
        "media": dict(media),
        "conflicts": _conflicts(rows, spellings) if labeled else 0,
        "prompt_words": round(sum(len(row.prompt.split()) for row in rows) / len(rows), 1),
        "held_out": _held_out(rows),
        "answers": dict(answers.most_common()),
        **_answer_forms(rows),
        "answer_words": round(sum(len(row.says.split()) for row in rows) / len(rows), 1),
    }
    if quick:
        return base.model_copy(update=update)
    from luthier.data.ops.pii import Pii
    from luthier.data.pii.name_evidence import rows_with_names
    from luthier.data.suggest.trial import try_operators

    pii = Pii(action="flag").apply(rows).attributes
    update |= {
        "pii": {kind: holding for kind in KINDS if (holding := sum(map(bool, pii[kind])))},
        "names": rows_with_names(rows),
    }
    profile = base.model_copy(update=update)
    if profile.names and not profile.holds_names:
        profile = profile.model_copy(update={"notes": [*profile.notes, _few_names(profile)]})
    return profile.model_copy(update={"trials": try_operators(rows, profile)})


def _separability(rows: Sequence[Row], spellings: Mapping[str, str]) -> LabelSeparability | None:
    """How well words separate the classes, spellings brought together."""
    return measure_separability([row.prompt for row in rows], [spellings.get(row.says, row.says) for row in rows])


def _conflicts(rows: Sequence[Row], spellings: Mapping[str, str]) -> int:
    """Rows whose prompt another row has, too, with another class."""
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        labels[prompt_key(row)][spellings.get(row.says, row.says)] += 1
    return sum(found.total() for found in labels.values() if len(found) > 1)


_ALIKE = 0.6
"""The share of an answer's words that come from what was asked, from which it is the same text in another form."""
_FEWEST_WORDS = 4


def _answer_forms(rows: Sequence[Row]) -> dict[str, Any]:
    """How many answers are JSON, with their keys, and how many say again what was asked."""
    keys, found, alike = Counter[str](), 0, 0
    for row in rows:
        if row.answer.lstrip()[:1] in ("{", "["):
            try:
                value = json.loads(row.answer)
            except ValueError:
                continue
            found += 1
            keys.update(value.keys() if isinstance(value, dict) else ())
            continue
        words, given = row.answer.lower().split(), set(row.prompt.lower().split())
        same = sum(word in given for word in words)
        alike += len(words) >= _FEWEST_WORDS and same >= _ALIKE * max(len(words), _ALIKE * len(given))
    return {"json_answers": found, "json_keys": tuple(name for name, _ in keys.most_common()), "alike_answers": alike}


def _few_names(profile: SourceProfile) -> str:
    """What is said of names that few rows hold."""
    position_list = ", ".join(f"{position} in {rows}" for position, rows in profile.names.items())
    return gettext_noop(
        f"names of persons are seen in few of {format_counted_noun(profile.looked_at, 'row')} ({position_list}) "
        "and stay in clear; "
        "`{kind: pii, ner: rampart}` among `ops` takes them out (`luthier docs personal-data`)"
    )
