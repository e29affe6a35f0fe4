"""States that a training keeps for influence methods: the folder `states/` of its artifact.

`states.json` has the learning rate of each step and the factors on it, `STEP.safetensors` the trainable weights after a
step, and `steps.parquet` the rows of each step with an update.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, SourceLocation
from luthier.core.files import json_bytes, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

STATES = "states"
_ABOUT, _STEPS = "states.json", "steps.parquet"
_WEIGHT, _SECOND, _COUNT = "master/", "exp_avg_sq/", "step/"


class KeptState(NamedTuple):
    """Trainable weights and their moments after a step."""

    step: int
    weights: dict[str, Tensor]
    second: dict[str, Tensor]
    """Averaged squares of gradients, as the optimizer keeps them; empty where it keeps none."""
    updates: int
    """Number of updates in these averages."""


def write_kept_states(
    folder: Path,
    kept: Mapping[int, Mapping[str, Tensor]],
    log: Sequence[str],
    rows: Mapping[int, Sequence[str]],
    rate_of: Callable[[str], float],
) -> None:
    """Write `states/`: tensors by step, and the ids of the rows of each step with an update."""
    import polars
    from safetensors.torch import save_file

    states = folder / STATES
    states.mkdir()
    names = dict.fromkeys(name.removeprefix(_WEIGHT) for name in next(iter(kept.values())) if name.startswith(_WEIGHT))
    for step, tensors in kept.items():
        whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(whole, states / f"{step}.safetensors")
    about = {
        "states": sorted(kept),
        "rates": [json.loads(line)["lr"] for line in log],
        "factors": {name: factor for name in names if (factor := rate_of(name)) != 1.0},
    }
    write_atomically(states / _ABOUT, json_bytes(about))
    pairs = [(step, name) for step, ids in rows.items() for name in ids]
    columns = {"step": polars.Int64, "id": polars.String}
    polars.DataFrame(pairs, schema=columns, orient="row").write_parquet(states / _STEPS, statistics=False)


class KeptStates:
    """The kept states of a tuned model."""

    def __init__(self, model: Artifact) -> None:
        """Open the states; `ModelError` when the training kept none."""
        self._model = model
        if not any(entry.path == f"{STATES}/{_ABOUT}" for entry in model.manifest.files):
            raise ModelError(
                "the training kept no states",
                where=SourceLocation(field="model"),
                hint="set `keep_states: 4` in the step that tunes, and run it again",
            )
        self._about: dict[str, Any] = json.loads(self._path(_ABOUT).read_text(encoding="utf-8"))

    def _path(self, name: str) -> Path:
        path = self._model.folder / STATES / name
        if not path.is_file():
            where = SourceLocation(file=str(path))
            raise ModelError("a kept state is gone", where=where, hint="delete the model's artifact and run again")
        return path

    @property
    def steps(self) -> list[int]:
        """The steps (from 1) after which a state was kept."""
        return list(self._about["states"])

    @property
    def rates(self) -> list[float]:
        """The learning rate of each step, from the first."""
        return list(self._about["rates"])

    @property
    def factors(self) -> dict[str, float]:
        """Factors on the learning rate by parameter name, where they are not 1."""
        return dict(self._about["factors"])

    @cached_property
    def rows(self) -> dict[int, list[str]]:
        """The ids of the rows of each step with an update."""
        import polars

        rows: dict[int, list[str]] = {}
        for step, name in polars.read_parquet(self._path(_STEPS)).iter_rows():
            rows.setdefault(step, []).append(name)
        return rows

    def read(self, step: int) -> KeptState:
        """Return the state after a step."""
        from safetensors import safe_open

        parts: dict[str, dict[str, Tensor]] = {_WEIGHT: {}, _SECOND: {}, _COUNT: {}}
        with safe_open(self._path(f"{step}.safetensors"), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                for kind, tensors in parts.items():
                    if name.startswith(kind):
                        tensors[name.removeprefix(kind)] = file.get_tensor(name)
        counts = [int(value) for value in parts[_COUNT].values()]
        return KeptState(step, parts[_WEIGHT], parts[_SECOND], max(counts, default=step))
