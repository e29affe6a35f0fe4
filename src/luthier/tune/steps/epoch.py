"""The step that makes a model of what a training kept after one of its epochs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.core.errors import ModelError, Where
from luthier.core.step import Forecast, ModelRef, Outline, Outlook, Reads, Step, Work
from luthier.tune.outlook import outline
from luthier.tune.saved import EPOCHS, refuse_idle

if TYPE_CHECKING:
    from luthier.core.artifact import Artifact

SECONDS = 1.0
"""Files are copied."""


class Epoch(Step):
    """Take the model as it was after an earlier epoch of a training that kept it (`keep_epochs`).

    It is evaluated, served and exported like any other: so one sees which epoch was the best.
    """

    kind: Literal["epoch"] = "epoch"
    makes: ClassVar[str] = "model"

    tuned: Annotated[str, Reads("model")]
    """The step that trained."""
    epoch: int = Field(ge=1)
    """After which epoch, from 1."""
    model: ModelRef = None
    """The step whose model was tuned; the recipe's own model when not given."""

    def make(self, work: Work) -> Mapping[str, Any]:
        """Write the model with its `tuned.json`, `learnt.parquet` and `log.jsonl`, as if training had ended there."""
        tuned = work.inputs["tuned"]
        if tuned.manifest.inputs.get("model") != work.inputs["model"].digest:
            raise self._other_base()
        if self.epoch not in (kept := _kept(tuned)):
            raise self._not_kept(kept)
        shutil.copytree(tuned.path(f"{EPOCHS}/{self.epoch}"), work.folder, dirs_exist_ok=True)
        refuse_idle(work.folder)
        return {}

    def foresee(self, outlook: Outlook) -> Forecast:
        """Refuse an epoch that will not be kept, and another base than the one that is tuned."""
        from luthier.tune.steps.tune import Tune

        upstream = outlook.upstream.get("tuned")
        if upstream is not None and not isinstance(upstream, Tune):
            raise self._not_kept(())
        if upstream is not None and self.epoch not in upstream.kept_epochs:
            raise self._not_kept(upstream.kept_epochs)
        lineage, base = outlook.stands_on.get("tuned", ()), outlook.stands_on.get("model", ())[:1]
        if base and base != lineage[1:2]:
            raise self._other_base()
        return Forecast(seconds=SECONDS, how="files are copied")

    def outline(self, outlook: Outlook) -> Outline:
        """It has the size of the model it stands on, and is merged or not as the tuned one."""
        tuned = outlook.outlines.get("tuned", Outline())
        return replace(outline(outlook), merging=tuned.merging, headed=tuned.headed)

    def _not_kept(self, kept: range | tuple[int, ...]) -> ModelError:
        known = f"it keeps those after {', '.join(map(str, kept))}" if kept else "it keeps none but its end"
        return ModelError(
            f"{self.tuned!r} keeps no model after epoch {self.epoch}: {known}",
            where=Where(field="epoch"),
            remedy=f"set `keep_epochs` in {self.tuned!r}, or take the step itself for its end",
        )

    def _other_base(self) -> ModelError:
        return ModelError(
            f"{self.tuned!r} was tuned from another model than `model`, on which its epochs do not stand",
            where=Where(field="model"),
            remedy=f"name the step in `model` that {self.tuned!r} names there",
        )


def _kept(tuned: Artifact) -> tuple[int, ...]:
    """The epochs that an artifact holds."""
    parts = [entry.path.split("/") for entry in tuned.manifest.files]
    return tuple(sorted({int(part[1]) for part in parts if part[0] == EPOCHS and len(part) > 2}))
