"""Doing what operators say: edits into texts, drops out of batches, and an event for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from luthier.core.digest import digest_of
from luthier.data.operator import Drop, Edit, Operator, Outcome, RowOperator, Secret
from luthier.data.passes.tables import Event
from luthier.data.row import Batch, Row

Numbered = tuple[int, Event]
"""An event and the number of its row, by which events are put in order."""


Tables = dict[str, dict[str, dict[str, int]]]
"""Counts by operator, by what was found, and where."""


class Named(NamedTuple):
    """An operator and the name it goes by in this recipe: its kind, numbered when it stands there twice."""

    name: str
    operator: Operator


class Through(NamedTuple):
    """A batch behind some operators, and what happened on the way."""

    batch: Batch
    events: list[Numbered]
    notes: list[str]
    counts: Tables


def named(operators: Sequence[Operator]) -> list[Named]:
    """Operators with their names."""
    seen: dict[str, int] = {}
    found: list[Named] = []
    for operator in operators:
        count = seen[operator.kind] = seen.get(operator.kind, 0) + 1
        found.append(Named(operator.kind if count == 1 else f"{operator.kind}-{count}", operator))
    return found


def run_row_operators(batch: Batch, operators: Sequence[Named], guards: Sequence[Operator]) -> Through:
    """Take a batch through row operators in order."""
    events: list[Numbered] = []
    notes: list[str] = []
    counts: Tables = {}
    for one in operators:
        assert isinstance(one.operator, RowOperator)
        outcome = one.operator.apply(batch.rows)
        notes += outcome.notes
        if outcome.counts:
            counts[one.name] = outcome.counts
        batch, made = take(batch, one, outcome, guards)
        events += made
    events.sort(key=lambda numbered: numbered[0])
    return Through(batch, events, notes, counts)


def take(batch: Batch, one: Named, outcome: Outcome, guards: Sequence[Operator]) -> tuple[Batch, list[Numbered]]:
    """Do what an operator said about the rows of a batch."""
    events: list[Numbered] = []
    rows = batch.rows
    if outcome.edits:
        rows = list(rows)
        for place in sorted(outcome.edits):
            rows[place], made = _edit(rows[place], one, outcome.edits[place], guards)
            events += made
    for place, drop in outcome.drops.items():
        events.append((rows[place].n, drop_event(rows[place], one.name, drop)))
    columns = {f"{one.name}.{name}": list(values) for name, values in outcome.attributes.items()}
    whole = Batch(rows, {**batch.attributes, **columns})
    return whole.keep([place not in outcome.drops for place in range(len(rows))]), events


def drop_event(row: Row, operator: str, drop: Drop) -> Event:
    """The event of a row that is left out."""
    return Event(row.id, row.file, row.line, operator, "drop", drop.reason, twin=drop.twin, similarity=drop.similarity)


def _edit(row: Row, one: Named, edits: Sequence[Edit], guards: Sequence[Operator]) -> tuple[Row, list[Numbered]]:
    """Put an operator's edits into one row."""
    events: list[Numbered] = []
    for name in dict.fromkeys(edit.field for edit in edits):
        text = row.text(name)
        mine = sorted((edit for edit in edits if edit.field == name), key=lambda edit: (edit.start, edit.end))
        changed = spliced(text, mine)
        row = row.with_text(name, changed)
        for edit, (before, after) in zip(mine, shown(text, changed, mine, guards), strict=True):
            event = Event(
                row.id, row.file, row.line, one.name, "edit", edit.reason, name, edit.start, edit.end, before, after
            )
            events.append((row.n, event))
    return row, events


def spliced(text: str, edits: Sequence[Edit]) -> str:
    """The text with sorted, separate spans replaced."""
    parts: list[str] = []
    at = 0
    for edit in edits:
        if edit.start < at or text[edit.start : edit.end] != edit.before:
            raise AssertionError(f"an edit of {edit.field} does not fit the text: {edit.reason}")
        parts += (text[at : edit.start], edit.after)
        at = edit.end
    return "".join([*parts, text[at:]])


def shown(text: str, changed: str, edits: Sequence[Edit], guards: Sequence[Operator]) -> list[tuple[str, str]]:
    """What events may show of each edit: what touches a secret, before or after, is replaced by its keyed hash."""
    bare = [edit for edit in edits if edit.hidden is None]
    before = _secrets(text, guards) if _tells(edit.before for edit in bare) else []
    after = _secrets(changed, guards) if _tells(edit.after for edit in bare) else []
    found: list[tuple[str, str]] = []
    moved = 0
    for edit in edits:
        start = edit.start + moved
        moved += len(edit.after) - len(edit.before)
        old = edit.hidden if edit.hidden is not None else _veiled(edit.before, edit.start, before)
        found.append((old, _veiled(edit.after, start, after)))
    return found


def _tells(spans: Iterable[str]) -> bool:
    """Whether any of these holds a letter or digit: nothing else can give a secret away."""
    return any(any(map(str.isalnum, span)) for span in spans)


def _secrets(text: str, guards: Sequence[Operator]) -> list[Secret]:
    return [secret for guard in guards for secret in guard.secrets(text)]


def _veiled(text: str, start: int, secrets: Sequence[Secret]) -> str:
    """A stretch of a text that begins at `start`, with every secret in it replaced by what may be shown."""
    parts: list[str] = []
    at = start
    end = start + len(text)
    for secret in sorted(secrets):
        if secret.end <= at or secret.start >= end:
            continue
        parts += (text[at - start : max(secret.start, at) - start], secret.shown)
        at = min(secret.end, end)
    return "".join([*parts, text[at - start :]])


def category(reason: str) -> str:
    """What a drop is counted under: its reason up to the colon."""
    return reason.partition(": ")[0]


def place_id(source: str, file: str, line: int) -> str:
    """The id of a row that never became an example: a digest of its place."""
    return digest_of([source, file, line])[:16]
