"""Doing what operators say: edits into texts, drops out of batches, and an event for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from luthier.chat.messages import MEDIA_MARK, Media, Message
from luthier.core.hashing import digest_of
from luthier.data.engine.tables import RowEvent
from luthier.data.operator import (
    Drop,
    MediaEdit,
    Operator,
    OperatorResultLike,
    RedactionSpan,
    RowOperator,
    TextEdit,
)
from luthier.data.row import Batch, Row

Numbered = tuple[int, RowEvent]
"""An event and the number of its row, by which events are put in order."""


SOURCE = "source"
"""What events call the reader of rows."""
_SHOWN_CHARS = 80
"""So much of a row that is left out is kept for whoever looks through them."""
_READ_CHARS = 2000
Tables = dict[str, dict[str, dict[str, int]]]
"""Counts by operator, by what was found, and where."""


class NamedOperator(NamedTuple):
    """An operator and the name it goes by in this recipe: its kind, numbered when it stands there twice."""

    name: str
    operator: Operator


class OperatorsOutput(NamedTuple):
    """A batch behind some operators, and what happened on the way."""

    batch: Batch
    events: list[Numbered]
    notes: list[str]
    counts: Tables


def name_operators(operators: Sequence[Operator]) -> list[NamedOperator]:
    """Operators with their names."""
    kind_counts: dict[str, int] = {}
    named_operators: list[NamedOperator] = []
    for operator in operators:
        count = kind_counts[operator.kind] = kind_counts.get(operator.kind, 0) + 1
        named_operators.append(NamedOperator(operator.kind if count == 1 else f"{operator.kind}-{count}", operator))
    return named_operators


def run_row_operators(batch: Batch, operators: Sequence[NamedOperator], guards: Sequence[Operator]) -> OperatorsOutput:
    """Take a batch through row operators in order."""
    events: list[Numbered] = []
    notes: list[str] = []
    counts: Tables = {}
    for operator in operators:
        assert isinstance(operator.operator, RowOperator)
        outcome = operator.operator.apply(batch.rows)
        notes += outcome.notes
        if outcome.counts:
            counts[operator.name] = outcome.counts
        changed = _with_media_edits(batch, operator.name, outcome.media)
        batch, made = apply_operator_result(changed.batch, operator, outcome, guards)
        events += [*changed.events, *made]
    events.sort(key=lambda numbered: numbered[0])
    return OperatorsOutput(batch, events, notes, counts)


def apply_operator_result(
    batch: Batch, one: NamedOperator, outcome: OperatorResultLike, guards: Sequence[Operator]
) -> tuple[Batch, list[Numbered]]:
    """Do what an operator said about the rows of a batch."""
    rows = batch.rows
    changes: list[_Change] = []
    if outcome.edits:
        rows = list(rows)
        for index in sorted(outcome.edits):
            rows[index], made = _edit(rows[index], outcome.edits[index])
            changes += made
    shown_spans = _shown([(change.before, change.after, change.edits) for change in changes], guards)
    fields = _fields([change.field for change in changes], guards)
    events = [
        event
        for change, spans in zip(changes, shown_spans, strict=True)
        for event in _edit_events(change, fields.get(change.field, change.field), spans, one.name)
    ]
    opening_texts = redact_openings([opening_text_of(rows[index]) for index in outcome.drops], guards)
    for (index, drop), text in zip(outcome.drops.items(), opening_texts, strict=True):
        events.append((rows[index].n, drop_event(rows[index], one.name, drop, text)))
    columns = {f"{one.name}.{name}": list(values) for name, values in outcome.attributes.items()}
    whole = Batch(rows, {**batch.attributes, **columns})
    return whole.keep([index not in outcome.drops for index in range(len(rows))]), events


class _EditedBatch(NamedTuple):
    batch: Batch
    events: list[Numbered]


def _with_media_edits(batch: Batch, operator: str, edits: Mapping[int, Sequence[MediaEdit]]) -> _EditedBatch:
    """A batch with other pictures and sounds in place of some, and an event for each: digests say which they were."""
    if not edits:
        return _EditedBatch(batch, [])
    rows, events = list(batch.rows), list[Numbered]()
    for index, row_edits in sorted(edits.items()):
        row = rows[index]
        messages = list(row.messages)
        for edit in row_edits:
            media = list(messages[edit.turn].media)
            if media[edit.number].digest != edit.before:
                raise AssertionError(f"an edit of {edit.field} does not fit the row: {edit.reason}")
            media[edit.number] = edit.after
            messages[edit.turn] = messages[edit.turn].model_copy(update={"media": tuple(media)})
            event_columns = (edit.field, None, None, edit.before, edit.after.digest, None, None, row.row)
            event = RowEvent(row.id, row.file, row.line, operator, "edit", edit.reason, *event_columns)
            events.append((row.n, event))
        rows[index] = replace(row, messages=tuple(messages))
    return _EditedBatch(Batch(rows, batch.attributes), events)


def drop_event(row: Row, operator: str, drop: Drop, text: str | None = None) -> RowEvent:
    """The event of a row that is left out; `text` is what may be shown of it."""
    event = RowEvent(row.id, row.file, row.line, operator, "drop", drop.reason, row=row.row, text=text or None)
    return event._replace(twin=drop.twin, similarity=drop.similarity)


def opening_text_of(row: Row) -> str:
    """How a row begins, with so much behind it that what may not be shown is found whole: its prompt, or what it says
    where nothing was asked."""
    return (row.prompt or row.says)[:_READ_CHARS]


def redact_openings(texts: Sequence[str], guards: Sequence[Operator]) -> list[str]:
    """What events may show of how rows begin, as one line: what private operators cut off is not there, and secrets are
    replaced by their keyed hashes."""
    lines = [" ".join(text.split()) for text in _without_private(texts, guards)]
    secrets = _secrets(lines, guards) if guards and lines else {}
    return [_begun(line, secrets.get(line, ())) for line in lines]


def _without_private(texts: Sequence[str], guards: Sequence[Operator]) -> Sequence[str]:
    """Texts without what operators take out that know no secrets by themselves, such as signatures."""
    for guard in guards:
        if isinstance(guard, RowOperator) and type(guard).secrets is Operator.secrets:
            rows = [Row(0, "", "", "", 0, "chat", _asked(text)) for text in texts]
            edits = guard.apply(rows).edits
            texts = [(_edit(row, edits[index])[0] if index in edits else row).prompt for index, row in enumerate(rows)]
    return texts


def _asked(text: str) -> tuple[Message, ...]:
    return Message(role="user", content=text), Message(role="assistant", content="")


def _begun(text: str, secrets: Sequence[RedactionSpan]) -> str:
    return _veiled(text[:_SHOWN_CHARS], 0, secrets) + "…" * (len(text) > _SHOWN_CHARS)


class _Change(NamedTuple):
    """One text of a row, and what edits make of it."""

    row: Row
    field: str
    before: str
    after: str
    edits: Sequence[TextEdit]
    """In order."""


def _edit(row: Row, edits: Sequence[TextEdit]) -> tuple[Row, list[_Change]]:
    """Put an operator's edits into one row."""
    changes: list[_Change] = []
    for name in dict.fromkeys(edit.field for edit in edits):
        text = row.text(name)
        text_edits = sorted((edit for edit in edits if edit.field == name), key=lambda edit: (edit.start, edit.end))
        changes.append(_Change(row, name, text, apply_edits(text, text_edits), text_edits))
        row = _with_media_left(row.with_text(name, changes[-1].after), name, text, text_edits)
    return row, changes


def _with_media_left(row: Row, name: str, before: str, edits: Sequence[TextEdit]) -> Row:
    """The row without the pictures and sounds whose places an edit took out of a text."""
    if MEDIA_MARK not in before or not name.startswith("messages["):
        return row
    index = int(name.removeprefix("messages[").partition("]")[0])
    message = row.messages[index]
    if not message.media or not name.endswith(".content"):
        return row
    left: list[Media] = []
    number = at = 0
    for edit in edits:
        untouched = before.count(MEDIA_MARK, at, edit.start)
        left += message.media[number : number + untouched]
        number += untouched
        stays, had = edit.after.count(MEDIA_MARK), edit.before.count(MEDIA_MARK)
        if stays > had:
            raise AssertionError(f"an edit of {edit.field} makes places for media: {edit.reason}")
        left += message.media[number : number + stays]
        number, at = number + had, edit.end
    left += message.media[number:]
    changed = message.model_copy(update={"media": tuple(left)})
    return replace(row, messages=(*row.messages[:index], changed, *row.messages[index + 1 :]))


def _fields(fields: Sequence[str], guards: Sequence[Operator]) -> dict[str, str]:
    """What fields inside nested values are called in events: who is asked by name there (`meta.owners/jo@x.example`)
    is not named."""
    nested = [field for field in dict.fromkeys(fields) if "/" in field]
    return {field: _veiled(field, 0, secrets) for field, secrets in _secrets(nested, guards).items() if secrets}


def _edit_events(change: _Change, field: str, spans: Sequence[tuple[str, str]], operator: str) -> Iterator[Numbered]:
    row = change.row
    for edit, (before, after) in zip(change.edits, spans, strict=True):
        span_columns = (field, edit.start, edit.end)
        event_columns = (*span_columns, before, after, None, None, row.row)
        yield row.n, RowEvent(row.id, row.file, row.line, operator, "edit", edit.reason, *event_columns)


def apply_edits(text: str, edits: Sequence[TextEdit]) -> str:
    """The text with sorted, separate spans replaced."""
    parts: list[str] = []
    at = 0
    for edit in edits:
        if edit.start < at or text[edit.start : edit.end] != edit.before:
            raise AssertionError(f"an edit of {edit.field} does not fit the text: {edit.reason}")
        parts += (text[at : edit.start], edit.after)
        at = edit.end
    return "".join([*parts, text[at:]])


def redact_edits(
    text: str, changed: str, edits: Sequence[TextEdit], guards: Sequence[Operator]
) -> list[tuple[str, str]]:
    """What events may show of each edit: what touches a secret, before or after, is replaced by its keyed hash."""
    return _shown([(text, changed, edits)], guards)[0]


def _shown(
    changes: Iterable[tuple[str, str, Sequence[TextEdit]]], guards: Sequence[Operator]
) -> list[list[tuple[str, str]]]:
    """The same of many texts, each before and after its edits: guards look at all of them at once."""
    texts_and_edits = [(_telling(before, after, edits), edits) for before, after, edits in changes]
    secrets = _secrets([text for texts, _ in texts_and_edits for text in texts if text], guards)
    return [
        list(_spans(edits, secrets.get(before, ()), secrets.get(after, ())))
        for (before, after), edits in texts_and_edits
    ]


def _telling(before: str, after: str, edits: Sequence[TextEdit]) -> tuple[str, str]:
    """The text before and after, or nothing where what the edits show of it cannot give a secret away."""
    bare = [edit for edit in edits if edit.hidden is None]
    return (
        before if _tells(edit.before for edit in bare) else "",
        after if _tells(edit.after for edit in bare) else "",
    )


def _spans(
    edits: Sequence[TextEdit], before: Sequence[RedactionSpan], after: Sequence[RedactionSpan]
) -> Iterator[tuple[str, str]]:
    """Of each edit what stood there and what stands there, as far as it may be shown."""
    moved = 0
    for edit in edits:
        start = edit.start + moved
        moved += len(edit.after) - len(edit.before)
        old = edit.hidden if edit.hidden is not None else _veiled(edit.before, edit.start, before)
        yield old, _veiled(edit.after, start, after)


def _tells(spans: Iterable[str]) -> bool:
    """Whether any of these holds a letter or digit: nothing else can give a secret away."""
    return any(any(map(str.isalnum, span)) for span in spans)


def _secrets(texts: Sequence[str], guards: Sequence[Operator]) -> dict[str, list[RedactionSpan]]:
    """The secrets in each text."""
    found: dict[str, list[RedactionSpan]] = {text: [] for text in texts}
    unique = list(found)
    for guard in guards:
        for text, secrets in zip(unique, guard.secrets(unique), strict=True):
            found[text] += secrets
    return found


def _veiled(text: str, start: int, secrets: Sequence[RedactionSpan]) -> str:
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


def drop_category_of(reason: str) -> str:
    """What a drop is counted under: its reason up to the colon."""
    return reason.partition(": ")[0]


def id_from_location(source: str, file: str, line: int) -> str:
    """The id of a row that never became an example: a digest of its place."""
    return digest_of([source, file, line])[:16]
