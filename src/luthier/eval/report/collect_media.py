"""The pictures and sounds of the rows that a report shows, as small copies that stand in the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from luthier.chat.messages import MEDIA_MARK, Media
from luthier.core.artifact import Artifact
from luthier.core.errors import LuthierError
from luthier.eval.report.facts.models import EvaluationFacts, MediaFact, RowFact
from luthier.eval.report.views import MOST_FLIPS, MOST_SAMPLES

if TYPE_CHECKING:
    from luthier.artifacts.media import MediaReader

MOST_BYTES: Final = 8 << 20
"""Bytes of all small copies of an evaluation; media beyond them are named and not shown."""
_WORDS = {"image": "picture", "audio": "sound"}


def add_row_media(facts: EvaluationFacts, evaluation: Artifact, split: str) -> EvaluationFacts:
    """The facts of an evaluation with the media of the rows that it shows; the same facts where there are none."""
    from luthier.artifacts.dataset import read_example_batches
    from luthier.artifacts.media import MediaReader
    from luthier.eval.task import expand_example_turns

    shown = (*facts.broken[:MOST_FLIPS], *facts.fixed[:MOST_FLIPS], *facts.samples[:MOST_SAMPLES])
    row_ids = dict.fromkeys(row.id for row in shown)
    if "data" not in evaluation.manifest.inputs:
        return facts
    data = evaluation.parent("data")
    found: dict[str, tuple[Media, ...]] = {}
    for batch in read_example_batches(data, split):
        for example in expand_example_turns(batch):
            media = tuple(medium for turn in example.messages for medium in turn.media)
            if media:
                found.setdefault(example.id, media)
    if not found:
        return facts
    with MediaReader(data) as reader:
        previews = _collect_previews([(row, found[row]) for row in row_ids if row in found], reader)
    changed = {
        name: tuple(_name_marks(row, found.get(row.id, ())) for row in getattr(facts, name))
        for name in ("broken", "fixed", "samples", "everything")
    }
    return facts.model_copy(update={**changed, "media": previews})


def _collect_previews(
    rows: Iterable[tuple[str, Sequence[Media]]], reader: MediaReader
) -> dict[str, tuple[MediaFact, ...]]:
    """Small copies by row, each medium made once, as long as there is room."""
    from luthier.chat.media_preview import preview_media

    room, known = MOST_BYTES, dict[str, str]()
    found: dict[str, tuple[MediaFact, ...]] = {}
    for row, media in rows:
        facts = []
        for number, medium in enumerate(media, start=1):
            if medium.digest not in known:
                with suppress(LuthierError):  # gone, broken, or no library: it is named, and the page shows the rest
                    url = preview_media(medium, reader.read(medium.digest)).url
                    if len(url) <= room:
                        room -= len(url)
                        known[medium.digest] = url
            url = known.get(medium.digest, "")
            facts.append(MediaFact(kind=medium.kind, title=f"{number}: {medium.describe()}", url=url))
        found[row] = tuple(facts)
    return found


def _name_marks(row: RowFact, media: Sequence[Media]) -> RowFact:
    """A row's text with a word in the place of each picture and sound."""
    first, *texts = row.text.split(MEDIA_MARK)
    if len(texts) != len(media):
        return row
    words = (f"[{_WORDS[medium.kind]} {number}]" for number, medium in enumerate(media, start=1))
    text = first + "".join(f"{word}{text}" for word, text in zip(words, texts, strict=True))
    return row.model_copy(update={"text": text})
