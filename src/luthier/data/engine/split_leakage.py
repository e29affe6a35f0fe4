"""Training rows that operators leave out because of what is held out, once the split is decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from luthier.data.dedup.shingles import ListedIndexSet
from luthier.data.engine.batch import NamedOperator, Numbered, drop_event, opening_text_of, redact_openings
from luthier.data.engine.corpus import SpillCorpus
from luthier.data.engine.executor import PassStats
from luthier.data.engine.spill import Spill
from luthier.data.engine.stage import select_privacy_operators
from luthier.data.engine.tables import EventWriter, batch_from_arrow
from luthier.data.operator import Judge, Operator
from luthier.data.split import NAMES, NOT_TAKEN, TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    from numpy.typing import NDArray


def drop_leaking_train_rows(
    spill: Spill, splits: NDArray[np.int8], operators: Sequence[NamedOperator], stats: PassStats, events: EventWriter
) -> NDArray[np.int8]:
    """The splits of all rows of the spill, without the training rows that some operator has something against."""
    splits = splits.copy()
    held_out = np.flatnonzero(np.isin(splits, [NAMES.index(TEST), NAMES.index(VALIDATION)]))
    view = SpillCorpus(spill, ListedIndexSet(held_out), np.zeros((len(held_out), 0), dtype=np.uint8))
    for operator in operators:
        judge = operator.operator.after_split(view)
        if judge is not None:
            _judged(spill, splits, operator.name, judge, select_privacy_operators(operators), stats, events)
    return splits


def _judged(
    spill: Spill,
    splits: NDArray[np.int8],
    name: str,
    judge: Judge,
    guards: Sequence[Operator],
    stats: PassStats,
    events: EventWriter,
) -> None:
    at = 0
    for table in spill.batches():
        part = splits[at : at + table.num_rows]
        at += table.num_rows
        training = np.flatnonzero(part == NAMES.index(TRAIN))
        rows = batch_from_arrow(table.take(training)).rows if len(training) else []
        drops = judge(rows)
        opening_texts = redact_openings([opening_text_of(rows[index]) for index in drops], guards)
        made: list[Numbered] = [
            (rows[index].n, drop_event(rows[index], name, drop, text))
            for (index, drop), text in zip(drops.items(), opening_texts, strict=True)
        ]
        part[training[sorted(drops)]] = NAMES.index(NOT_TAKEN)
        stats.enter(made)
        events.write([event for _, event in made])
