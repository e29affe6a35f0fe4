"""The coordinator of queries: it queries all sites, sums their counts, and removes small ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from luthier.core.errors import DataError, InputError, ModelError, SourceLocation
from luthier.core.files import write_atomically
from luthier.core.step import StepContext
from luthier.data.check import RowNames
from luthier.federated.analytics.names import (
    BUCKETS,
    TABLES,
    WIDTH,
    collect_names,
    find_heavy_buckets,
    find_name_obstacle,
    read_names,
)
from luthier.federated.analytics.query import SiteQuery
from luthier.federated.analytics.worker import COUNTS, compute_query_code, count_steps, digest_for_masks
from luthier.federated.errors import MessageError
from luthier.federated.messaging.messages import (
    STAGES,
    CountAnswer,
    CountPrivacy,
    FederationMessage,
    Final,
    Measured,
    QuestionStage,
    Rejection,
    RoundUpdate,
    SiteQuestion,
    check_weights,
    digest_message,
    dump_given_settings,
)
from luthier.federated.secure_aggregation.dropout_masks import MaskContext
from luthier.federated.secure_aggregation.masked_round import DONE, MaskedGroup, MaskedRound
from luthier.federated.secure_aggregation.masks import MASKED
from luthier.federated.transport import SiteChannel
from luthier.federated.update_sum import REPLIES
from luthier.metrics.counts import add_counts, move_small_counts, shape_counts
from luthier.tune.privacy.accountant import find_noise

if TYPE_CHECKING:
    from numpy.typing import NDArray


NOISE_SPREADS = 3.0
"""Standard deviations of the noise below which a count is treated as noise."""


class SiteCounts(NamedTuple):
    """The counts of the sites."""

    total: Mapping[str, Mapping[str, int]]
    """Over all sites, by group and cell."""
    sites: Mapping[str, Mapping[str, Mapping[str, int]]]
    """Counts of each site; empty under masks."""


@dataclass(frozen=True, kw_only=True)
class CountSettings:
    """Settings of a query to sites."""

    least_rows: int
    masks: bool = False
    least: int | None = None
    privacy: CountPrivacy | None = None
    noise: float | None = None


def find_count_noise(privacy: CountPrivacy, queries: Iterable[SiteQuery]) -> float:
    """The standard deviation of the noise in each count with which all answers together keep the promise; half of
    `delta` is for names that one row alone has."""
    return find_noise(privacy.epsilon, privacy.delta / 2, 1.0, sum(map(count_steps, queries)))


class QueryRun:
    """Questions to the sites of one channel, one after another."""

    def __init__(self, work: StepContext, channel: SiteChannel, settings: CountSettings) -> None:
        self._work, self._channel, self._settings = work, channel, settings
        self._number = 0
        cards = channel.cards.values() if settings.masks else ()
        self._group = sorted(card.fingerprint for card in cards)
        self._sites = tuple(channel.sites)

    def agree_on_names(self, query: SiteQuery) -> RowNames:
        """The classes and fields that enough rows have."""
        private = self._settings.privacy is not None
        if self._settings.masks and not private:
            sealed = self._share_salt(query)
            tables = self._sum(query, "tables", TABLES * BUCKETS, sealed=sealed)
            heavy = find_heavy_buckets(tables, self._settings.least_rows)
            if not any(heavy):
                return RowNames()
            cells = self._sum(query, "names", WIDTH * sum(map(len, heavy)), sealed=sealed, heavy=heavy)
            return collect_names(read_names(cells, self._settings.least_rows))
        names = set[str]()
        for name, (header, _) in self._ask(query, "names").items():
            for given in header.names:
                if why := find_name_obstacle(given):
                    raise MessageError(f"site {name} sends a name that is none: {why}")
            names.update(header.names)
        return collect_names(names)

    def count(self, query: SiteQuery, names: RowNames) -> SiteCounts:
        """The counts of all sites, and of each where there are no masks."""
        groups, noise = query.list_groups(names), self._settings.noise or 0.0
        size = sum(len(group.cells) for group in groups)
        about: dict[str, Any] = {"classes": list(names.classes), "fields": list(names.fields)}
        if self._settings.masks:
            numbers = self._sum(query, "counts", size, **about)
            counts = shape_counts(groups, numbers)
            if self._settings.privacy is None:
                counts = move_small_counts(groups, counts, self._settings.least_rows)
            return SiteCounts(_drop_noise(counts, noise * math.sqrt(len(self._sites))), {})
        sites = {}
        for name, (_, tensors) in self._ask(query, "counts", **about).items():
            sites[name] = shape_counts(groups, self._read_numbers(name, tensors, size))
        total = _drop_noise(add_counts(groups, sites.values()), noise * math.sqrt(len(sites)))
        return SiteCounts(total, {name: _drop_noise(own, noise) for name, own in sites.items()})

    def end(self) -> None:
        """Tell the sites that it is over."""
        content = FederationMessage(Final()).encode()
        for name, reply in self._channel.exchange(self._number, dict.fromkeys(self._sites, content)).items():
            self._read(name, reply, Measured)

    def _share_salt(self, query: SiteQuery) -> dict[str, str]:
        """The salt that the first site of the group made, sealed for each other one, by name."""
        answers = self._ask(query, "salt")
        first = next(name for name, card in self._channel.cards.items() if card.fingerprint == self._group[0])
        if first not in answers:
            raise self._missing(answers, "made a salt for names")
        sealed = answers[first][0].sealed
        return {name: sealed.get(card.fingerprint, "") for name, card in self._channel.cards.items()}

    def _sum(
        self, query: SiteQuery, stage: QuestionStage, size: int, sealed: Mapping[str, str] | None = None, **about: Any
    ) -> list[int]:
        """The sum of what sites count under masks."""
        import numpy
        import torch

        number, question = self._number, self._build(query, stage, **about)
        contents = {
            name: FederationMessage(question.model_copy(update={"sealed": (sealed or {}).get(name, "")})).encode()
            for name in self._sites
        }
        masked: MaskedRound | None = None
        if self._settings.least is None:
            self._number += 1
            answers = self._exchange(number, contents, len(contents))
        else:
            self._number += len(STAGES)
            context = MaskContext(
                federation=self._work.digest, round=max(1, number), digest=digest_for_masks(question),
                group=tuple(self._group), least=self._settings.least,
            )  # fmt: skip
            group = MaskedGroup(context, {name: self._channel.cards[name] for name in self._channel.sites})
            masked = MaskedRound(
                self._channel, [group], number, self._work.scratch / REPLIES, self._read, self._settings.least
            )
            answers = masked.gather(contents)
        updates = {name: self._read(name, reply, RoundUpdate) for name, reply in answers.items()}
        for name, update in updates.items():
            check_weights(update.tensors, {MASKED: torch.zeros(size, dtype=torch.int64)}, f"site {name}")

        def add(names: Iterable[str]) -> NDArray[Any]:
            total: NDArray[Any] = numpy.zeros(size, dtype=numpy.uint64)
            for name in names:
                total += updates[name].tensors[MASKED].numpy().view(numpy.uint64)  # modulo 2^64
            return total

        [total] = [add(updates)] if masked is None else [found for _, found in masked.unmask(add)]
        numbers: list[int] = total.view(numpy.int64).tolist()
        if self._settings.privacy is None and any(not 0 <= value < 1 << 48 for value in numbers):
            hint = "all sites must be those of the question, each with the others among its `peers`"
            raise InputError("the masks do not cancel in the sum over the sites", hint=hint)
        return numbers

    def _ask(
        self, query: SiteQuery, stage: QuestionStage, **about: Any
    ) -> dict[str, tuple[CountAnswer, Mapping[str, Any]]]:
        """Return each site's unmasked answer."""
        number, question = self._number, self._build(query, stage, **about)
        self._number += 1
        content = FederationMessage(question).encode()
        answers = self._exchange(number, dict.fromkeys(self._sites, content), self._settings.least or len(self._sites))
        found = {}
        for name, reply in answers.items():
            message = self._read(name, reply, CountAnswer)
            if message.header.answers != digest_message(content):
                raise MessageError(f"site {name} answers another question")
            found[name] = (message.header, message.tensors)
        return found

    def _build(self, query: SiteQuery, stage: QuestionStage, **about: Any) -> SiteQuestion:
        settings = self._settings
        return SiteQuestion(
            federation=self._work.digest,
            query=dump_given_settings(query),
            stage=stage,
            code=compute_query_code(query),
            seed=self._work.seed,
            least_rows=settings.least_rows,
            group=self._group,
            least=settings.least if settings.masks else None,
            privacy=settings.privacy,
            noise=settings.noise,
            **about,
        )

    def _exchange(self, number: int, contents: Mapping[str, bytes], enough: int) -> dict[str, bytes]:
        """The answers to a message, sealed where enough came and none refuses; those that were sealed before a kill."""
        folder = self._work.scratch / REPLIES / str(number)
        if (folder / DONE).is_file():
            names = (folder / DONE).read_text(encoding="utf-8").splitlines()
            return {name: (folder / name).read_bytes() for name in names}
        found = self._channel.exchange(number, contents)
        for name, reply in found.items():
            self._read(name, reply, CountAnswer, RoundUpdate)
        if len(found) < enough:
            raise self._missing(found, "answered")
        folder.mkdir(parents=True, exist_ok=True)
        for name, reply in found.items():
            write_atomically(folder / name, reply)
        write_atomically(folder / DONE, "\n".join(found).encode())
        return found

    def _read_numbers(self, name: str, tensors: Mapping[str, Any], size: int) -> list[int]:
        import torch

        check_weights(tensors, {COUNTS: torch.zeros(size, dtype=torch.int64)}, f"site {name}")
        numbers: list[int] = tensors[COUNTS].tolist()
        if self._settings.privacy is None and any(not 0 <= value < 1 << 48 for value in numbers):
            raise MessageError(f"site {name} sends counts that are none")
        return numbers

    def _read(self, name: str, content: bytes, *kinds: type[BaseModel]) -> FederationMessage:
        """A site's answer; `ModelError` with its reason where it refuses."""
        message = FederationMessage.decode(content, *kinds, Rejection)  # type: ignore[arg-type]  # all are headers
        if isinstance(message.header, Rejection):
            raise ModelError(f"site {name} refuses: {message.header.message}", where=SourceLocation(field="sites"))
        return message

    def _missing(self, found: Iterable[str], what: str) -> DataError:
        there = set(found)
        missing = ", ".join(name for name in self._sites if name not in there)
        return DataError(
            f"{len(there)} of {len(self._sites)} sites {what}; missing: {missing}",
            where=SourceLocation(field="least"),
            hint="run again when they are there: what was answered is kept; or lower `least`",
        )


def _drop_noise(counts: Mapping[str, Mapping[str, int]], spread: float) -> dict[str, dict[str, int]]:
    """Counts without those that may be noise alone; `spread` is its standard deviation, 0 where there is none."""
    least = NOISE_SPREADS * spread
    return {
        group: {cell: count if count >= least else 0 for cell, count in cells.items()}
        for group, cells in counts.items()
    }
