"""Operators tried on a sample of somebody's rows: how much each would change, with examples that give nothing away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeGuard

from luthier.core.component import components_by_kind
from luthier.core.messages import gettext_noop
from luthier.data.engine.batch import NamedOperator, apply_edits, apply_operator_result, drop_category_of
from luthier.data.engine.corpus import InMemoryRows
from luthier.data.operator import Drop, Operator, OperatorResultLike, RowOperator, SetOperator, Suggestion, TextEdit
from luthier.data.pii.name_evidence import find_possible_names
from luthier.data.row import Batch, Row, format_row_location
from luthier.data.suggest.profile import ChangeExample, OperatorTrial, SourceProfile
from luthier.pii.detect import find_pii
from luthier.pii.hmac_key import TAG

SHOWN_CHARS = 64
"""Longer texts are shown with their middle left out."""
_CONTEXT_CHARS = 16
_EXAMPLES = 2


def try_operators(rows: Sequence[Row], profile: SourceProfile) -> dict[str, OperatorTrial]:
    """What every operator that offers a trial would do to these rows; those that would do nothing are left out.

    They come in the order in which they would stand in a recipe, and each sees what those before it have left, as it
    would in a run: one that suggests itself from the profile, and not only to mark rows, has done its work, with the
    settings that it suggests.
    """
    found: dict[str, OperatorTrial] = {}
    for member in sorted(components_by_kind(Operator).values(), key=lambda entry: (entry.suggested_at, entry.__name__)):
        operator = member.trial()
        if operator is None:
            continue
        outcome = _note(found, operator, rows)
        suggestion = member.suggest(profile.model_copy(update={"trials": found}))
        if _acts(suggestion) and (candidate := _tried(operator, suggestion)) != operator:
            operator, outcome = candidate, _note(found, candidate, rows)
            suggestion = member.suggest(profile.model_copy(update={"trials": found}))
        if _acts(suggestion) and operator.kind in found:
            rows = apply_operator_result(Batch(list(rows)), NamedOperator(operator.kind, operator), outcome, [])[0].rows
    return found


def _tried(operator: Operator, suggestion: Suggestion) -> Operator:
    """An operator with the settings that it suggests; as it is, where these would ask a model, which takes long."""
    candidate = Operator.parse({**operator.settings(), **suggestion.settings})
    return operator if candidate.model_s(1) else candidate


def _acts(suggestion: Suggestion | None) -> TypeGuard[Suggestion]:
    """Whether an operator suggests itself, and not only to mark rows."""
    return suggestion is not None and suggestion.settings.get("action") != "flag"


def _note(found: dict[str, OperatorTrial], operator: Operator, rows: Sequence[Row]) -> OperatorResultLike:
    """Try an operator, and keep what it would do; nothing of one that would do nothing."""
    outcome = apply_operator_in_memory(operator, rows)
    found.pop(operator.kind, None)
    if (tried := _trial(operator, rows, outcome)) != OperatorTrial():
        found[operator.kind] = tried
    return outcome


def _trial(operator: Operator, rows: Sequence[Row], outcome: OperatorResultLike) -> OperatorTrial:
    dropped = Counter(drop_category_of(drop.reason) for drop in outcome.drops.values())
    flagged = {
        name: sum(map(bool, outcome.attributes[name])) for name, kind in operator.writes.items() if kind == "flag"
    }
    edited = _edited(rows, outcome, is_private=operator.is_private)
    return OperatorTrial(
        edited=len(outcome.edits),
        dropped=dict(sorted(dropped.items())),
        flagged={name: count for name, count in flagged.items() if count},
        lost=_lost(rows, outcome.drops),
        contested=_contested(rows, outcome.drops),
        examples=tuple(dict.fromkeys((*edited, *_dropped(rows, outcome))))[:_EXAMPLES],
    )


def _lost(rows: Sequence[Row], drops: Collection[int]) -> tuple[str, ...]:
    """Answers that come again and again in rows, of which nothing stays."""
    gone = Counter(rows[index].answer for index in drops)
    return tuple(
        answer for answer, count in sorted(Counter(row.answer for row in rows).items()) if 1 < count == gone[answer]
    )


def _contested(rows: Sequence[Row], drops: Mapping[int, Drop]) -> int:
    """Dropped rows whose twin has another answer."""
    answers = {row.id: row.says for row in rows}
    return sum(drop.twin in answers and answers[drop.twin] != rows[index].says for index, drop in drops.items())


def apply_operator_in_memory(operator: Operator, rows: Sequence[Row]) -> OperatorResultLike:
    """What an operator of either form says about rows in memory."""
    if isinstance(operator, RowOperator):
        return operator.apply(rows)
    assert isinstance(operator, SetOperator)
    return operator.settle(InMemoryRows(operator, list(rows)))


def _edited(rows: Sequence[Row], outcome: OperatorResultLike, *, is_private: bool) -> Iterator[ChangeExample]:
    """The changes that are quickest to read, a different one each."""
    every = [(index, edit) for index, edits in sorted(outcome.edits.items()) for edit in edits]
    every.sort(key=lambda entry: _effort(entry[1]))
    visited: set[tuple[str, str]] = set()
    for index, edit in every:
        if (edit.before, edit.after) in visited:
            continue
        visited.add((edit.before, edit.after))
        text = rows[index].text(edit.field)
        whole = [text_edit for text_edit in outcome.edits[index] if text_edit.field == edit.field]
        is_short = len(text) <= SHOWN_CHARS and not is_private
        change = _whole(text, whole) if is_short else _change(text, edit, is_private=is_private)
        if change.before != change.after and edit.hidden != edit.after:  # a tag for a tag tells nothing
            yield change
        if len(visited) == _EXAMPLES:
            return


def _effort(edit: TextEdit) -> tuple[bool, bool, int]:
    """What is visible is shown before white space, and what is short before what is long."""
    return not edit.before.strip(), len(edit.before) > SHOWN_CHARS, abs(len(edit.before) - _CONTEXT_CHARS)


def _whole(text: str, edits: Sequence[TextEdit]) -> ChangeExample:
    """A short text before and after all its edits."""
    return ChangeExample(
        before=mask_pii(text), after=mask_pii(apply_edits(text, sorted(edits, key=lambda edit: edit.start)))
    )


def _change(text: str, edit: TextEdit, *, is_private: bool) -> ChangeExample:
    """One edit with a little of what stands around it."""
    start, end = max(0, edit.start - _CONTEXT_CHARS), min(len(text), edit.end + _CONTEXT_CHARS)
    masked = mask_pii(text)
    hidden = edit.hidden if edit.hidden and not TAG.fullmatch(edit.hidden) else _starred(edit.before)
    taken = hidden if is_private else masked[edit.start : edit.end]
    left, right = masked[start : edit.start], masked[edit.end : end]
    begin, close = "…" if start else "", "…" if end < len(text) else ""
    shown = [f"{begin}{left}{_short(middle)}{right}{close}" for middle in (taken, mask_pii(edit.after))]
    return ChangeExample(before=shown[0], after=shown[1])


def _dropped(rows: Sequence[Row], outcome: OperatorResultLike) -> Iterator[ChangeExample]:
    """The first row of each reason."""
    visited: set[str] = set()
    location_of = {row.id: format_row_location(row.line, row.row) for row in rows}
    for index, drop in sorted(outcome.drops.items()):
        if (reason := drop_category_of(drop.reason)) not in visited:
            visited.add(reason)
            text = rows[index].prompt or rows[index].answer
            twin, why = location_of.get(drop.twin or ""), drop.reason
            yield ChangeExample(
                before=_short(mask_pii(text)),
                after=gettext_noop(f"dropped: {why}" if twin is None else f"dropped: {why} of {twin}"),
            )


def mask_pii(text: str) -> str:
    """Replace every letter and digit of personal data, names included, by a star; the length stays the same."""
    starred = list(text)
    for start, end in [*((pii_span.start, pii_span.end) for pii_span in find_pii(text)), *find_possible_names(text)]:
        starred[start:end] = _starred(text[start:end])
    return "".join(starred)


def _starred(text: str) -> str:
    return "".join("*" if char.isalnum() else char for char in text)


def _short(text: str) -> str:
    if len(text) <= SHOWN_CHARS:
        return text
    half = SHOWN_CHARS // 2
    return f"{text[:half].rstrip()} … {text[-half:].lstrip()}"
