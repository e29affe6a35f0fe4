"""Tokenized training examples in flat files, so that memory does not grow with the data set.

The files are written once into the step's scratch folder and read through the page cache, a few rows at a time. A
retry after a kill reuses files that are complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from luthier.core.files import translate_write_errors, write_atomically
from luthier.models.packing.pack import TokenRow
from luthier.tune.objective import REFERENCE, TrainingExample

if TYPE_CHECKING:
    import numpy

    from luthier.chat.media import MediaProcessor

_DONE = "done.json"
_MEDIA = "media.jsonl"
"""File that lists the media whose tokens are among the ids, where rows may have some."""
_DTYPES = {
    "ids": "uint32", "weights": "float32", "row_ends": "uint64", "example_ends": "uint64", "target_ends": "uint64",
    "choices": "uint32", "teacher": "float32", "choice_ends": "uint64",
}  # fmt: skip
_TAUGHT = ("choices", "teacher", "choice_ends")
"""Files that exist only when a teacher's choices are stored."""
_COLUMN = "told."
"""Prefix of the files that hold one number for each trained token; the rest of the file name is the name of that
number."""
_REFERRED = "referred.json"
READ_TOGETHER = 64
"""Number of examples that a reference model reads at once."""


@dataclass(frozen=True)
class DatasetCounts:
    """The counts of examples and tokens that are trained on, truncated or left out."""

    examples: int = 0
    trained_examples: int = 0
    """Examples that have trained tokens."""
    tokens: int = 0
    trained_tokens: int = 0
    cut: int = 0
    """Examples that lost tokens and are still trained on."""


class TokenizedDataset:
    """The tokenized training examples on disk; `rows(n)` gives the token rows of the n-th example."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.counts = DatasetCounts(**json.loads((folder / _DONE).read_text())["counts"])

    @classmethod
    def write(
        cls, folder: Path, examples: Iterable[TrainingExample], key: str, media: MediaProcessor | None = None
    ) -> TokenizedDataset:
        """Write examples, or open those that were written before under the same key.

        `media`, the processor of a model that reads images or audio, then reads the media of the stored examples.
        """
        path = folder / _DONE
        if path.is_file() and json.loads(path.read_text())["key"] == key:
            if media is not None:
                _meet_written(folder / _MEDIA, media)
            return cls(folder)
        with translate_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for stale in [
                *(folder / name for name in (_DONE, _REFERRED, _MEDIA, *_TAUGHT)),
                *folder.glob(f"{_COLUMN}*"),
            ]:
                stale.unlink(missing_ok=True)
            counts = _write(folder, examples, "int64" if media is not None else _DTYPES["ids"])
            if media is not None:
                lines = (json.dumps(known) + "\n" for known in media.export_known())
                (folder / _MEDIA).write_text("".join(lines), encoding="utf-8")
        write_atomically(path, json.dumps({"key": key, "counts": counts.__dict__}).encode())
        return cls(folder)

    def __len__(self) -> int:
        return self.counts.trained_examples

    def rows(self, number: int) -> list[TokenRow]:
        """Return the token rows of one example."""
        first, last = self._get_bounds(self._example_ends, number)
        return [self._read_row(row, self.keys[number], last - first) for row in range(first, last)]

    def add_reference_logprobs(
        self, numbers: Iterable[int], read: Callable[[list[TokenRow]], list[list[float]]], key: str
    ) -> None:
        """Store a reference model's log-probability of each trained token of some examples, as
        `token_values["reference"]` of their rows.

        `read` returns the log-probabilities of each row's trained tokens; those that were stored before under the same
        key are used again. Each example is listed once.
        """
        path = self._folder / _REFERRED
        if not (path.is_file() and json.loads(path.read_text())["key"] == key):
            with translate_write_errors(self._folder):
                path.unlink(missing_ok=True)
                self._write_reference(list(numbers), read)
            write_atomically(path, json.dumps({"key": key}).encode())
        self.__dict__.pop("_columns", None)

    def _write_reference(self, numbers: Sequence[int], read: Callable[[list[TokenRow]], list[list[float]]]) -> None:
        import numpy

        path, count = self._folder / f"{_COLUMN}{REFERENCE}", int(self._target_ends[-1])
        memmap = numpy.memmap(path, dtype="float32", mode="w+", shape=(count,))
        memmap[:] = numpy.nan
        self.__dict__.pop("_columns", None)
        for begin in range(0, len(numbers), READ_TOGETHER):
            numbers_of_batch = numbers[begin : begin + READ_TOGETHER]
            row_indices = [
                row for number in numbers_of_batch for row in range(*self._get_bounds(self._example_ends, number))
            ]
            logprobs = read([row for number in numbers_of_batch for row in self.rows(number)])
            for row_index, values in zip(row_indices, logprobs, strict=True):
                first, last = self._get_bounds(self._target_ends, row_index)
                memmap[first:last] = values
        memmap.flush()

    def _read_row(self, number: int, key: str, group_size: int) -> TokenRow:
        begin, end = self._get_bounds(self._row_ends, number)
        row = TokenRow(self._ids[begin:end].tolist(), self._weights[begin:end].tolist(), key, group_size)
        if self._columns:
            first, last = self._get_bounds(self._target_ends, number)
            row = replace(
                row, token_values={name: values[first:last].tolist() for name, values in self._columns.items()}
            )
        if self._choice_ends is None:
            return row
        begin, end = self._get_bounds(self._choice_ends, number)
        shape = (len(row.targets), -1)
        choices, teacher = (
            self._open_column(name)[begin:end].reshape(shape).tolist() for name in ("choices", "teacher")
        )
        return replace(row, choices=choices, teacher=teacher)

    @cached_property
    def keys(self) -> list[str]:
        """Return the id of each example, in order."""
        return [record["id"] for record in self.read_records() if not record["nothing"]]

    def read_records(self) -> Iterator[dict[str, Any]]:
        """A record of every example, in order: id, tokens, trained tokens, tokens cut, and why it is not trained on."""
        with (self._folder / "examples.jsonl").open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    def first(self, number: int) -> Iterator[TrainingExample]:
        """Yield the first `number` examples, including those that nothing is trained on."""
        index = 0
        for record in islice(self.read_records(), number):
            rows = () if record["nothing"] else tuple(self.rows(index))
            index += not record["nothing"]
            yield TrainingExample(id=record["id"], rows=rows, cut=record["cut"], nothing=record["nothing"])

    @cached_property
    def longest(self) -> int:
        """Number of tokens of the longest example."""
        return max((record["tokens"] for record in self.read_records()), default=0)

    @cached_property
    def sizes(self) -> numpy.ndarray[Any, Any]:
        """(examples,) tokens of each example."""
        import numpy

        ends = self._row_ends[self._example_ends.astype(numpy.int64) - 1].astype(numpy.int64)
        return numpy.diff(ends, prepend=0)

    @staticmethod
    def _get_bounds(ends: numpy.ndarray[Any, Any], number: int) -> tuple[int, int]:
        return int(ends[number - 1]) if number else 0, int(ends[number])

    def _open_column(self, name: str) -> numpy.ndarray[Any, Any]:
        import numpy

        return numpy.memmap(self._folder / name, dtype=_DTYPES[name], mode="r")

    @cached_property
    def _ids(self) -> numpy.ndarray[Any, Any]:
        import numpy

        wide = (self._folder / _MEDIA).is_file()
        return numpy.memmap(self._folder / "ids", dtype="int64" if wide else _DTYPES["ids"], mode="r")

    @cached_property
    def _weights(self) -> numpy.ndarray[Any, Any]:
        return self._open_column("weights")

    @cached_property
    def _row_ends(self) -> numpy.ndarray[Any, Any]:
        return self._open_column("row_ends")

    @cached_property
    def _example_ends(self) -> numpy.ndarray[Any, Any]:
        return self._open_column("example_ends")

    @cached_property
    def _target_ends(self) -> numpy.ndarray[Any, Any]:
        return self._open_column("target_ends")

    @cached_property
    def _columns(self) -> dict[str, numpy.ndarray[Any, Any]]:
        """Numbers of each trained token, by name."""
        import numpy

        paths = sorted(self._folder.glob(f"{_COLUMN}*"))
        return {path.name.removeprefix(_COLUMN): numpy.memmap(path, dtype="float32", mode="r") for path in paths}

    @cached_property
    def _choice_ends(self) -> numpy.ndarray[Any, Any] | None:
        return self._open_column("choice_ends") if (self._folder / "choice_ends").is_file() else None


def _meet_written(path: Path, media: MediaProcessor) -> None:
    """Let a processor read the media of examples that were written before."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            media.import_known(json.loads(line))


def _write(folder: Path, examples: Iterable[TrainingExample], ids_dtype: str) -> DatasetCounts:
    counts = DatasetCounts()
    tokens = rows = choices = targets = 0
    with ExitStack() as stack:
        files = _Files(folder, stack, {**_DTYPES, "ids": ids_dtype})
        records_file = stack.enter_context((folder / "examples.jsonl").open("w", encoding="utf-8"))
        for example in examples:
            records_file.write(json.dumps(_build_record(example), ensure_ascii=False) + "\n")
            for row in example.rows:
                tokens, rows = tokens + len(row.ids), rows + 1
                files.put("ids", row.ids)
                files.put("weights", row.loss_weights)
                files.put("row_ends", [tokens])
                targets += len(row.targets)
                files.put("target_ends", [targets])
                for name, values in row.token_values.items():
                    files.put(f"{_COLUMN}{name}", values)
                if row.choices:
                    choices += sum(map(len, row.choices))
                    files.put("choices", row.choices)
                    files.put("teacher", row.teacher)
                    files.put("choice_ends", [choices])
            if example.rows:
                files.put("example_ends", [rows])
            counts = _add_counts(counts, example)
    return counts


class _Files:
    """Flat files of numbers, each opened when the first is put into it."""

    def __init__(self, folder: Path, stack: ExitStack, dtypes: Mapping[str, str]) -> None:
        self._folder, self._stack, self._dtypes = folder, stack, dtypes
        self._open: dict[str, IO[bytes]] = {}

    def put(self, name: str, values: Sequence[Any]) -> None:
        import numpy

        if name not in self._open:
            self._open[name] = self._stack.enter_context((self._folder / name).open("wb"))
        self._open[name].write(numpy.asarray(values, dtype=self._dtypes.get(name, "float32")).tobytes())


def _build_record(example: TrainingExample) -> dict[str, Any]:
    return {
        "id": example.id,
        "tokens": example.tokens,
        "learnt": example.trained_tokens,
        "cut": example.cut,
        "nothing": example.nothing,
    }


def _add_counts(counts: DatasetCounts, example: TrainingExample) -> DatasetCounts:
    return DatasetCounts(
        examples=counts.examples + 1,
        trained_examples=counts.trained_examples + bool(example.rows),
        tokens=counts.tokens + example.tokens,
        trained_tokens=counts.trained_tokens + example.trained_tokens,
        cut=counts.cut + (example.cut > 0 and bool(example.rows)),
    )
