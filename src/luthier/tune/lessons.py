"""Lessons on disk: rows as numbers in flat files, so that memory does not grow with the data set.

Written once into a step's scratch, then read through the page cache, a few rows at a time. A run that was killed finds
them again when they were finished.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from luthier.core.files import write_aside, writing
from luthier.models.pack import Row
from luthier.tune.objective import Lesson

if TYPE_CHECKING:
    import numpy

_DONE = "done.json"
_DTYPES = {"ids": "uint32", "weights": "float32", "row_ends": "uint64", "lesson_ends": "uint64"}


@dataclass(frozen=True)
class Counts:
    """What became of the examples."""

    examples: int = 0
    lessons: int = 0
    """Examples that something is learnt from."""
    tokens: int = 0
    learnt: int = 0
    cut: int = 0
    """Examples that lost tokens and are still learnt from."""


class Lessons:
    """Finished lessons: `rows(n)` gives the rows of the n-th example that something is learnt from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.counts = Counts(**json.loads((folder / _DONE).read_text())["counts"])

    @classmethod
    def write(cls, folder: Path, lessons: Iterable[Lesson], key: str) -> Lessons:
        """Write lessons, or find them when they were written before under the same key."""
        done = folder / _DONE
        if done.is_file() and json.loads(done.read_text())["key"] == key:
            return cls(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            done.unlink(missing_ok=True)
            counts = _write(folder, lessons)
        write_aside(done, json.dumps({"key": key, "counts": counts.__dict__}).encode())
        return cls(folder)

    def __len__(self) -> int:
        return self.counts.lessons

    def rows(self, number: int) -> list[Row]:
        """The rows of one lesson."""
        first, last = self._between(self._lesson_ends, number)
        found = []
        for row in range(first, last):
            begin, end = self._between(self._row_ends, row)
            found.append(Row(self._ids[begin:end].tolist(), self._weights[begin:end].tolist(), self.keys[number]))
        return found

    @cached_property
    def keys(self) -> list[str]:
        """The example's id of each lesson."""
        return [told["id"] for told in self.told() if not told["nothing"]]

    def told(self) -> Iterator[dict[str, Any]]:
        """Of every example, in order: id, tokens, learnt tokens, tokens cut, and why nothing is learnt from it."""
        with (self._folder / "examples.jsonl").open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest lesson."""
        return max((told["tokens"] for told in self.told()), default=0)

    @staticmethod
    def _between(ends: numpy.ndarray[Any, Any], number: int) -> tuple[int, int]:
        return int(ends[number - 1]) if number else 0, int(ends[number])

    def _read(self, name: str) -> numpy.ndarray[Any, Any]:
        import numpy

        return numpy.memmap(self._folder / name, dtype=_DTYPES[name], mode="r")

    @cached_property
    def _ids(self) -> numpy.ndarray[Any, Any]:
        return self._read("ids")

    @cached_property
    def _weights(self) -> numpy.ndarray[Any, Any]:
        return self._read("weights")

    @cached_property
    def _row_ends(self) -> numpy.ndarray[Any, Any]:
        return self._read("row_ends")

    @cached_property
    def _lesson_ends(self) -> numpy.ndarray[Any, Any]:
        return self._read("lesson_ends")


def _write(folder: Path, lessons: Iterable[Lesson]) -> Counts:
    counts = Counts()
    tokens = rows = 0
    with ExitStack() as stack:
        files: dict[str, IO[bytes]] = {name: stack.enter_context((folder / name).open("wb")) for name in _DTYPES}
        told = stack.enter_context((folder / "examples.jsonl").open("w", encoding="utf-8"))
        for lesson in lessons:
            told.write(json.dumps(_told(lesson), ensure_ascii=False) + "\n")
            for row in lesson.rows:
                tokens, rows = tokens + len(row.ids), rows + 1
                _put(files, "ids", row.ids)
                _put(files, "weights", row.learnt)
                _put(files, "row_ends", [tokens])
            if lesson.rows:
                _put(files, "lesson_ends", [rows])
            counts = _counted(counts, lesson)
    return counts


def _put(files: dict[str, IO[bytes]], name: str, values: Sequence[float]) -> None:
    import numpy

    files[name].write(numpy.asarray(values, dtype=_DTYPES[name]).tobytes())


def _told(lesson: Lesson) -> dict[str, Any]:
    return {
        "id": lesson.id,
        "tokens": lesson.tokens,
        "learnt": lesson.learnt,
        "cut": lesson.cut,
        "nothing": lesson.nothing,
    }


def _counted(counts: Counts, lesson: Lesson) -> Counts:
    return Counts(
        examples=counts.examples + 1,
        lessons=counts.lessons + bool(lesson.rows),
        tokens=counts.tokens + lesson.tokens,
        learnt=counts.learnt + lesson.learnt,
        cut=counts.cut + (lesson.cut > 0 and bool(lesson.rows)),
    )
