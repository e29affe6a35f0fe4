"""Writing traffic from where no request waits: feedback typed by a person, logs that are taken in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from luthier.core.files import write_aside, writing
from luthier.traffic.compact import compact
from luthier.traffic.place import SEGMENTS, Keeping
from luthier.traffic.record import Feedback, Trace
from luthier.traffic.redact import Redactor
from luthier.traffic.segment import Line, Segment, encode_lines

_PART = 5000
"""Records of a log that are taken in at once: a part is there as a whole or not at all."""


def write(folder: Path, records: Iterable[Trace | Feedback], keeping: Keeping | None = None) -> int:
    """Redact records and append them; returns how many."""
    keeping = keeping or Keeping.of(folder)
    lines = list(_lines(records, keeping))
    segment = Segment(folder, "hand")
    try:
        segment.write(encode_lines(lines))
    finally:
        segment.close()
    return len(lines)


def take_in(folder: Path, digest: str, records: Iterator[Trace | Feedback], keeping: Keeping | None = None) -> int:
    """Take in a log, known by the digest of its content: the same log again adds nothing, and a kill is gone on from.

    Returns how many records were new.
    """
    keeping = keeping or Keeping.of(folder)
    taken, part = 0, 0
    while some := list(islice(records, _PART)):
        mark = folder / "taken" / f"{digest}-{part:06}"
        if not mark.exists():
            _part(folder, mark, list(_lines(some, keeping)))
            taken += len(some)
        part += 1
    compact(folder, keeping, closed=sorted((folder / SEGMENTS).glob(f"log-{digest}-*.jsonl")))
    return taken


def _part(folder: Path, mark: Path, lines: Sequence[Line]) -> None:
    """One part, put in its place by a rename; if only its mark was lost in a kill, it takes its own place again."""
    path = folder / SEGMENTS / f"log-{mark.name}.jsonl"
    known = [*path.parent.glob(path.name), *(folder / "traces").glob(f"*/{path.stem}-*"), *_gone(folder, path)]
    if not known:
        write_aside(path, encode_lines(lines))
    with writing(mark):
        mark.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(mark, os.O_CREAT | os.O_WRONLY, 0o600))


def _gone(folder: Path, path: Path) -> Iterator[Path]:
    return (folder / "gone").glob(f"{SEGMENTS}~{path.name}")


def _lines(records: Iterable[Trace | Feedback], keeping: Keeping) -> Iterator[Line]:
    redactor = Redactor(keeping)
    for record in records:
        value = redactor.record(record.model_dump(mode="json", exclude_defaults=True))
        yield Line("traces" if isinstance(record, Trace) else "feedback", value)
