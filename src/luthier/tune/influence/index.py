"""The engine *index*: each row's gradient, multiplied by the root of a preconditioner and projected, stored on disk.

Each row is read alone, since the gradient of a shared token cannot be split between rows. The projection is a count
sketch: each weight is added with a random sign to one of the sketch's numbers, which preserves inner products on
average. The index is kept, so a killed run continues and later queries reuse it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from luthier.core.files import translate_write_errors, write_atomically
from luthier.core.hashing import digest_of
from luthier.tune.influence.method import EngineSettings, GradientMethod, Preconditioner, check_scores

if TYPE_CHECKING:
    import numpy

    from luthier.tune.influence.study import InfluenceStudy

TOGETHER = 32
"""Rows written between two notes of progress."""


class CountSketch:
    """A projection of (P,) to at most `size` numbers; a shorter vector is unchanged."""

    def __init__(self, size: int, dimensions: int, seed: int) -> None:
        self.width = min(size, dimensions)
        self._buckets: Tensor | None = None
        if size > dimensions:
            generator = torch.Generator().manual_seed(seed)
            self._buckets = torch.randint(0, dimensions, (size,), generator=generator)
            self._signs = torch.randint(0, 2, (size,), generator=generator, dtype=torch.int8) * 2 - 1

    def project(self, vector: Tensor) -> Tensor:
        """Project (P,) to (width,)."""
        here = vector.detach().cpu()
        if self._buckets is None:
            return here
        return here.new_zeros(self.width).index_add_(0, self._buckets, self._signs.to(here) * here)


class GradientIndex:
    """The projected gradients (rows, width) of one method at one state."""

    def __init__(self, path: Path, key: str, rows: int, width: int, dtype: torch.dtype) -> None:
        """Open the file; one with another key is written anew."""
        import numpy

        self._about = path.with_suffix(".json")
        self._key = key
        about: dict[str, Any] = json.loads(self._about.read_text()) if self._about.is_file() else {}
        fits = about.get("key") == key and path.is_file()
        self.done = int(about["done"]) if fits else 0
        """Rows that are written."""
        kind = "float64" if dtype == torch.float64 else "float32"
        with translate_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.values: numpy.memmap[Any, Any] = numpy.memmap(
                path, dtype=kind, mode="r+" if fits else "w+", shape=(rows, width)
            )

    def put(self, begin: int, rows: Tensor) -> None:
        """Write some rows and note that they are done."""
        self.values[begin : begin + len(rows)] = rows.numpy()
        self.values.flush()
        self.done = begin + len(rows)
        write_atomically(self._about, json.dumps({"key": self._key, "done": self.done}).encode())


def score_by_index(method: GradientMethod, study: InfluenceStudy, settings: EngineSettings) -> Tensor:
    """Return (queries, rows) scores: one forward and backward pass for each row and state, whatever the number of
    queries.
    """
    scores = torch.zeros(len(study.queries), len(study.keys), dtype=torch.float64)
    sketch = CountSketch(study.reader.weights.size, settings.dimensions, study.work.seed)
    folder = (study.work.kept or study.work.scratch) / "influence"
    for step, weights in method.weigh_states(study).items():
        state = study.open_state(step)
        root = method.precondition(study, state, settings)
        key = digest_of([study.tuned.digest, method.settings(), step, settings.dimensions, str(study.dtype)])
        path = folder / f"{key[:24]}.rows"
        index = GradientIndex(path, key, len(study.keys), sketch.width, study.dtype)
        _fill_index(index, study, root, sketch, f"rows ({method.kind})")
        query_sketches = torch.stack(
            [sketch.project(root.apply_root(study.mean_gradient(query))) for query in study.queries]
        )
        products = torch.from_numpy(index.values @ query_sketches.numpy().T).double().T
        scores += weights * products
    return check_scores(scores, method.kind)


def _fill_index(
    index: GradientIndex, study: InfluenceStudy, preconditioner: Preconditioner, sketch: CountSketch, unit: str
) -> None:
    count = len(study.keys)
    for begin in range(index.done, count, TOGETHER):
        numbers = range(begin, min(begin + TOGETHER, count))
        rows = [
            sketch.project(preconditioner.apply_root(study.reader.gradient(study.alone(study.rows_of([number])))))
            for number in numbers
        ]
        index.put(begin, torch.stack(rows))
        study.work.events.progress(numbers.stop, count, unit)
