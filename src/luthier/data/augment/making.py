"""The making of rows, wave by wave: drafts are asked for, checked, taken or refused, and entered into the books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from luthier.data.augment.checks import Inspector, Refusal
from luthier.data.augment.wishes import Asked, Named, Room
from luthier.data.augmenter import Around, Draft
from luthier.data.cleaning.diff import edits
from luthier.data.operator import Operator
from luthier.data.passes.apply import category, shown
from luthier.data.passes.tables import Event
from luthier.data.row import Row
from luthier.text.dataset import MADE
from luthier.text.messages import example_id

MAKING = "made from its twin"
"""The reason in an event of a row that was kept; its words may be secret, so what was done stands in the row alone."""
WAVE = 256
"""Wishes that are answered together; what comes out does not depend on it."""


@dataclass
class Tally:
    """What became of one augmenter's wishes."""

    tried: int = 0
    nothing: int = 0
    """Rows that gave it nothing to work with."""
    kept: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def made(self) -> int:
        """Drafts that came."""
        return self.kept + self.refused.total()

    def as_json(self) -> dict[str, Any]:
        """As `augment.json` keeps it."""
        told = {"tried": self.tried, "nothing": self.nothing, "made": self.made, "kept": self.kept}
        return {**told, "refused": dict(sorted(self.refused.items()))}


@dataclass
class Maker:
    """Answers wishes until there is no room or no wish left."""

    augmenters: Sequence[Named]
    around: Around
    inspector: Inspector
    room: Room
    guards: Sequence[Operator] = ()
    """Operators that know what may not stand in clear in an event."""
    tallies: dict[str, Tally] = field(default_factory=dict)

    def run(self, wishes: Iterator[Asked]) -> Iterator[tuple[list[Row], list[Event]]]:
        """Made rows and what happened, wave by wave."""
        self.tallies = {one.name: Tally() for one in self.augmenters}
        while not self.room.done and (some := list(islice(wishes, WAVE))):
            yield self._wave([asked for asked in some if self.room.has(asked)])

    def _wave(self, wave: Sequence[Asked]) -> tuple[list[Row], list[Event]]:
        drafts = self._drafts(wave)
        rows = [None if draft is None else self._row(asked, draft) for asked, draft in zip(wave, drafts, strict=True)]
        refusals = self._refusals(wave, drafts, rows)
        kept: list[Row] = []
        events: list[Event] = []
        for place, (asked, draft, row) in enumerate(zip(wave, drafts, rows, strict=True)):
            if not self.room.has(asked):
                continue
            tally = self.tallies[self.augmenters[asked.number].name]
            tally.tried += 1
            if draft is None or row is None:
                tally.nothing += 1
                continue
            refusal = refusals[place] or (self.inspector.take(row) if self._is_text(asked) else None)
            if refusal is not None:
                tally.refused[category(refusal.reason)] += 1
                events.append(self._refused(asked, row, refusal))
                continue
            tally.kept += 1
            self.room.take(asked)
            kept.append(row)
            events += self._made(asked, draft, row)
        return kept, events

    def _drafts(self, wave: Sequence[Asked]) -> list[Draft | None]:
        """The drafts of each augmenter in one call."""
        found: list[Draft | None] = [None] * len(wave)
        for number, one in enumerate(self.augmenters):
            places = [place for place, asked in enumerate(wave) if asked.number == number]
            if places:
                made = one.augmenter.write([wave[place].wish for place in places], self.around)
                for place, draft in zip(places, made, strict=True):
                    found[place] = draft
        return found

    def _row(self, asked: Asked, draft: Draft) -> Row:
        """A draft as a row of its own, which says where it comes from."""
        parent, name = asked.wish.row, self.augmenters[asked.number].name
        told = {
            "by": name,
            "parents": list(dict.fromkeys([parent.id, *draft.parents])),
            "did": list(draft.did),
            "copy": asked.wish.copy,
        }
        meta = {**({} if draft.new else parent.meta), **draft.meta, MADE: told}
        own = example_id(draft.messages, asked.label, {"parent": parent.id, MADE: told})
        return replace(parent, id=own, source=name, messages=draft.messages, meta=meta)

    def _refusals(
        self, wave: Sequence[Asked], drafts: Sequence[Draft | None], rows: Sequence[Row | None]
    ) -> dict[int, Refusal | None]:
        """What the checks say of each draft, by its place in the wave."""
        able = [
            (place, asked.wish, draft, row)
            for place, (asked, draft, row) in enumerate(zip(wave, drafts, rows, strict=True))
            if draft is not None and row is not None
        ]
        texts = [one for one in able if self._is_text(wave[one[0]])]
        places, wishes, made, new = [list(column) for column in zip(*texts, strict=True)] or [[], [], [], []]
        found = self.inspector.refusals(wishes, made, new)
        return {place: None for place, *_ in able} | dict(zip(places, found, strict=True))

    def _is_text(self, asked: Asked) -> bool:
        """Whether texts were changed; checks of texts say nothing of an image."""
        return self.augmenters[asked.number].augmenter.changes == "text"

    def _refused(self, asked: Asked, row: Row, refusal: Refusal) -> Event:
        text = self._shown(row.prompt or row.answer)
        name = self.augmenters[asked.number].name
        return Event(
            row.id, row.file, row.line, name, "drop", refusal.reason, after=text, twin=refusal.twin,
            similarity=refusal.similarity,
        )  # fmt: skip

    def _made(self, asked: Asked, draft: Draft, row: Row) -> Iterator[Event]:
        """One event for each span in which a row differs from its parent, or one for a row of its own."""
        parent = asked.wish.row
        before = {} if draft.new else dict(parent.texts(("system", "user", "assistant", "tool")))
        after = dict(row.texts(("system", "user", "assistant", "tool")))
        found = [
            (name, edit, told)
            for name, text in after.items()
            if name in before and before[name] != text
            for spans in [edits(name, before[name], text, MAKING)]
            for edit, told in zip(spans, shown(before[name], text, spans, self.guards), strict=True)
        ]
        place = (row.id, row.file, row.line, row.source, "make", MAKING)
        for name, edit, (old, new) in found:
            yield Event(*place, name, edit.start, edit.end, old, new, parent.id)
        if not found:
            yield Event(*place, twin=parent.id)

    def _shown(self, text: str) -> str:
        """A text as an event may show it."""
        whole = edits("text", "", text, "made")
        return "".join(new for _, new in shown("", text, whole, self.guards))
