"""Augment rows in waves: request drafts, check them, accept or refuse them, and record the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from luthier.artifacts.dataset import MADE
from luthier.chat.messages import MEDIA_MARK, Media, example_id
from luthier.data.augment.checks import DraftChecker, DraftRejection
from luthier.data.augment.requests import AugmentBudget, AugmentJob, NamedAugmenter
from luthier.data.augmenter import AugmentContext, AugmentedDraft
from luthier.data.cleaning.spans import diff_to_edits
from luthier.data.engine.batch import drop_category_of, redact_edits
from luthier.data.engine.tables import RowEvent
from luthier.data.operator import Operator
from luthier.data.row import Row

MAKING = "made from its twin"
"""The reason in an event of a row that was kept; its words may be secret, so what was done stands in the row alone."""
WAVE = 256
"""Wishes that are answered together; what comes out does not depend on it."""


@dataclass
class AugmenterCounts:
    """Counts of the requests, accepted drafts and rejections of one augmenter."""

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
        """Return the counts as stored in `augment.json`."""
        counts = {"tried": self.tried, "nothing": self.nothing, "made": self.made, "kept": self.kept}
        return {**counts, "refused": dict(sorted(self.refused.items()))}


@dataclass
class AugmentLoop:
    """Runs augmentation requests until the row budget or the requests are used up."""

    augmenters: Sequence[NamedAugmenter]
    around: AugmentContext
    inspector: DraftChecker
    budget: AugmentBudget
    guards: Sequence[Operator] = ()
    """Operators that detect text which must not appear in clear in an event."""
    add_media: Callable[[Media, bytes], None] | None = None
    """Keeps the bytes of pictures and sounds that rows are made with."""
    tallies: dict[str, AugmenterCounts] = field(default_factory=dict)

    def run(self, jobs: Iterator[AugmentJob]) -> Iterator[tuple[list[Row], list[RowEvent]]]:
        """Made rows and what happened, wave by wave."""
        self.tallies = {augmenter.name: AugmenterCounts() for augmenter in self.augmenters}
        while not self.budget.done and (some := list(islice(jobs, WAVE))):
            yield self._wave([job for job in some if self.budget.has(job)])

    def _wave(self, wave: Sequence[AugmentJob]) -> tuple[list[Row], list[RowEvent]]:
        drafts = self._drafts(wave)
        rows = [None if draft is None else self._row(job, draft) for job, draft in zip(wave, drafts, strict=True)]
        refusals = self._refusals(wave, drafts, rows)
        kept: list[Row] = []
        events: list[RowEvent] = []
        for index, (job, draft, row) in enumerate(zip(wave, drafts, rows, strict=True)):
            if not self.budget.has(job):
                continue
            tally = self.tallies[self.augmenters[job.number].name]
            tally.tried += 1
            if draft is None or row is None:
                tally.nothing += 1
                continue
            refusal = refusals[index] or (self.inspector.take(row) if self._is_text(job) else None)
            if refusal is not None:
                tally.refused[drop_category_of(refusal.reason)] += 1
                events.append(self._refused(job, row, refusal))
                continue
            tally.kept += 1
            self.budget.take(job)
            kept.append(row)
            self._keep_media(draft)
            events += self._made(job, draft, row)
        return kept, events

    def _keep_media(self, draft: AugmentedDraft) -> None:
        for message in draft.messages:
            for media in message.media:
                if media.digest in draft.media and self.add_media is not None:
                    self.add_media(media, draft.media[media.digest])

    def _drafts(self, wave: Sequence[AugmentJob]) -> list[AugmentedDraft | None]:
        """The drafts of each augmenter in one call."""
        augmented_drafts: list[AugmentedDraft | None] = [None] * len(wave)
        for number, augmenter in enumerate(self.augmenters):
            indices = [index for index, job in enumerate(wave) if job.number == number]
            if indices:
                made = augmenter.augmenter.write([wave[index].request for index in indices], self.around)
                for index, draft in zip(indices, made, strict=True):
                    augmented_drafts[index] = None if draft is None or _has_lost_media(draft) else draft
        return augmented_drafts

    def _row(self, job: AugmentJob, draft: AugmentedDraft) -> Row:
        """Return the row of a draft, with its origin."""
        parent, name = job.request.row, self.augmenters[job.number].name
        lineage = {
            "by": name,
            "parents": list(dict.fromkeys([parent.id, *draft.parents])),
            "did": list(draft.did),
            "copy": job.request.copy,
        }
        meta = {**({} if draft.new else parent.meta), **draft.meta, MADE: lineage}
        own = example_id(draft.messages, job.label, {"parent": parent.id, MADE: lineage})
        return replace(parent, id=own, source=name, messages=draft.messages, meta=meta)

    def _refusals(
        self, wave: Sequence[AugmentJob], drafts: Sequence[AugmentedDraft | None], rows: Sequence[Row | None]
    ) -> dict[int, DraftRejection | None]:
        """Return the result of the checks for each draft, by its index in the wave; None for one that passed or was not
        checked.
        """
        able = [
            (index, job.request, draft, row)
            for index, (job, draft, row) in enumerate(zip(wave, drafts, rows, strict=True))
            if draft is not None and row is not None
        ]
        texts = [entry for entry in able if self._is_text(wave[entry[0]])]
        indices, requests, made, new = [list(column) for column in zip(*texts, strict=True)] or [[], [], [], []]
        draft_rejections = self.inspector.refusals(requests, made, new)
        return {index: None for index, *_ in able} | dict(zip(indices, draft_rejections, strict=True))

    def _is_text(self, job: AugmentJob) -> bool:
        """Return whether the job changes texts; the checks of texts do not apply to images."""
        return self.augmenters[job.number].augmenter.changes == "text"

    def _refused(self, job: AugmentJob, row: Row, refusal: DraftRejection) -> RowEvent:
        text = self._shown(row.prompt or row.answer)
        name = self.augmenters[job.number].name
        return RowEvent(
            row.id, row.file, row.line, name, "drop", refusal.reason, after=text, twin=refusal.twin,
            similarity=refusal.similarity,
        )  # fmt: skip

    def _made(self, job: AugmentJob, draft: AugmentedDraft, row: Row) -> Iterator[RowEvent]:
        """Return one event for each span in which a row differs from its parent, or one event for a new row."""
        parent = job.request.row
        before = {} if draft.new else dict(parent.texts(("system", "user", "assistant", "tool")))
        after = dict(row.texts(("system", "user", "assistant", "tool")))
        found = [
            (name, edit, excerpt)
            for name, text in after.items()
            if name in before and before[name] != text
            for spans in [diff_to_edits(name, before[name], text, MAKING)]
            for edit, excerpt in zip(spans, redact_edits(before[name], text, spans, self.guards), strict=True)
        ]
        row_columns = (row.id, row.file, row.line, row.source, "make", MAKING)
        for name, edit, (old, new) in found:
            yield RowEvent(*row_columns, name, edit.start, edit.end, old, new, parent.id)
        if not found:
            yield RowEvent(*row_columns, twin=parent.id)

    def _shown(self, text: str) -> str:
        """A text as an event may show it."""
        whole = diff_to_edits("text", "", text, "made")
        return "".join(new for _, new in redact_edits("", text, whole, self.guards))


def _has_lost_media(draft: AugmentedDraft) -> bool:
    """Return whether a turn's text has lost a placeholder of one of its images or audio clips."""
    return any(message.media and message.content.count(MEDIA_MARK) != len(message.media) for message in draft.messages)
