"""What a model takes each of some labels to be worth, row by row; finished chunks are kept, so that a killed run goes
on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact
from luthier.core.digest import canonical
from luthier.core.errors import DataError
from luthier.core.files import write_aside
from luthier.core.step import Work
from luthier.models.options import Normalise, Sums, normalise
from luthier.text.messages import Message, as_openai, emptied
from luthier.text.prompt import Prompt

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.text.ids import Text

Asked = tuple[tuple[Message, ...], tuple[dict[str, Any], ...]]
"""What stands before the answer, and the tools on offer."""
CHUNK = 32
_PACK_TOKENS = 4096
_DIGITS = 6


class Scorer:
    """Log-scores of labels by a model on this machine, or behind an endpoint."""

    def __init__(self, artifact: Artifact, labels: Sequence[str], how: Normalise, work: Work) -> None:
        from luthier.models.load import is_endpoint, outputs_of

        self._artifact, self._labels, self._how, self._work = artifact, list(labels), how, work
        self._far = is_endpoint(artifact)
        self._classes = () if self._far else outputs_of(artifact)
        if self._classes and (unknown := sorted(set(labels) - set(self._classes))):
            what = f"the model's head has no class {unknown[0]!r}"
            raise DataError(what, remedy=f"it was tuned to name {', '.join(self._classes)}")

    def scores(self, rows: Iterator[list[Asked]], total: int) -> Iterator[list[dict[str, float] | None]]:
        """For each batch, each row's score by label; None where an endpoint named none of them."""
        number = done = 0
        for batch in rows:
            found: list[dict[str, float] | None] = []
            for start in range(0, len(batch), CHUNK):
                found += self._kept(number, batch[start : start + CHUNK])
                number += 1
            done += len(batch)
            self._work.events.progress(done, total, "rows")
            yield found

    def _kept(self, number: int, chunk: Sequence[Asked]) -> list[dict[str, float] | None]:
        path = self._work.scratch / f"scores-{number:07d}.json"
        if path.is_file():
            kept: list[dict[str, float] | None] = json.loads(path.read_text(encoding="utf-8"))
            return kept
        found = self._asked_far(chunk) if self._far else self._asked_here(chunk)
        write_aside(path, canonical(found).encode())
        return found

    def _asked_here(self, chunk: Sequence[Asked]) -> list[dict[str, float] | None]:
        rows = self._named(chunk) if self._classes else self._normalised(chunk)
        return [{label: round(s, _DIGITS) for label, s in zip(self._labels, row, strict=True)} for row in rows]

    def _asked_far(self, chunk: Sequence[Asked]) -> list[dict[str, float] | None]:
        from luthier.models.endpoint import Client

        client = Client.of(self._artifact, self._work.scratch / "asked")
        before = Prompt.of(self._artifact)
        picked = client.pick([as_openai(before.wrap(messages)) for messages, _ in chunk], self._labels)
        found: list[dict[str, float] | None] = []
        for one in picked:
            scores = one.by_label(self._labels)
            named = one.label(self._labels)
            found.append(scores if scores is not None else {named: 0.0} if named in self._labels else None)
        return found

    def _named(self, chunk: Sequence[Asked]) -> list[list[float]]:
        """Scores by the model's own head."""
        from luthier.models.generate import label_scores

        places = [self._classes.index(label) for label in self._labels]
        ids = self._text.prompts([messages for messages, _ in chunk], [tools for _, tools in chunk])
        found = label_scores(self._loaded.model, ids, tokens=_PACK_TOKENS)
        return [[row[place] for place in places] for row in found]

    def _normalised(self, chunk: Sequence[Asked]) -> list[list[float]]:
        totals = self._sums(chunk)
        empty = [(emptied(messages), tools) for messages, tools in chunk]
        priors: Sequence[Sums] = self._sums(empty) if self._how == "prior" else [()] * len(chunk)
        return [normalise(self._how, row, prior) for row, prior in zip(totals, priors, strict=True)]

    def _sums(self, chunk: Sequence[Asked]) -> list[list[tuple[float, int]]]:
        from luthier.models.generate import score_options

        told = [self._text.options(messages, self._labels, tools) for messages, tools in chunk]
        sums = score_options(
            self._loaded.model, [one for one, _ in told], [ids for _, ids in told], tokens=_PACK_TOKENS
        )
        return [
            [(score, len(ids)) for score, ids in zip(scores, own, strict=True)]
            for scores, (_, own) in zip(sums, told, strict=True)
        ]

    @cached_property
    def _loaded(self) -> Loaded:
        from luthier.models.load import load

        return load(self._artifact, dtype="float32")

    @cached_property
    def _text(self) -> Text:
        from luthier.text.ids import Text

        return Text.load(self._loaded.folder, before=Prompt.of(self._artifact))
