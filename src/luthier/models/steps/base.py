"""The step that makes a base model: a source's model as one Hugging Face folder, kept for all recipes of this user."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from luthier.core.step import Forecast, Makes, Outline, Outlook, Step, Work
from luthier.models.catalog import entry_of
from luthier.models.describe import describe
from luthier.models.source import ModelSource, write_json

BYTES_PER_SECOND = 60e6
"""Read, converted and written: what a slow laptop disk and one core manage."""


class Base(Step):
    """Take a model from its source, as safetensors with its tokenizer, chat template and generation settings."""

    kind: Literal["base"] = "base"
    makes: ClassVar[Makes] = "model"
    shared: ClassVar[bool] = True

    source: ModelSource
    """Where the model is taken from."""

    def make(self, work: Work) -> Mapping[str, Any]:
        """Write the Hugging Face folder and `model.json`."""
        started = time.perf_counter()
        found = self.source.fetch(work.folder, work.base, work.events.note)
        if not self.source.weights:
            write_json(work.folder / "model.json", {**found._asdict(), "parameters": None})
            return {"seconds": time.perf_counter() - started}
        told = describe(work.folder)
        known = entry_of(self.source)
        card = {
            "name": known[0] if known else found.name,
            "licence": (known[1].licence if known else None) or found.licence or told.licence,
            "origin": found.origin,
            "architecture": told.architecture,
            "parameters": told.parameters,
            "tied": told.tied,
            "hidden_size": told.hidden_size,
            "layers": told.layers,
            "vocab": told.vocab,
            "context": told.context,
        }
        write_json(work.folder / "model.json", card)
        if card["licence"] is None:
            work.events.warning("the model states no licence: find out whether you may use it")
        return {"seconds": time.perf_counter() - started, "bytes": told.disk_bytes}

    def foresee(self, outlook: Outlook) -> Forecast:
        """Predict from an earlier making, else from the bytes to read."""
        if not self.source.weights:
            return Forecast(seconds=0.0, how="an endpoint: nothing is fetched")
        size = self.source.size(outlook.base)
        known = entry_of(self.source)
        peak = 10 * known[1].parameters if known else None
        if "seconds" in outlook.history:
            return Forecast(seconds=float(outlook.history["seconds"]), peak_bytes=peak, how="as it took the last time")
        if size is None:
            return Forecast(peak_bytes=peak, how="not fetched yet: the time depends on your network")
        how = f"{size / 1e6:.0f} MB read, converted and written at {BYTES_PER_SECOND / 1e6:.0f} MB/s"
        return Forecast(seconds=5 + 4 * size / BYTES_PER_SECOND, peak_bytes=peak, how=how)

    def outline(self, outlook: Outlook) -> Outline:
        """What the model's files say where they are here, else the parameters that the catalogue knows of."""
        if not self.source.weights:
            return Outline(remote=True, how="an endpoint")
        headed = self.source.headed(outlook.base)
        if (here := self.source.here(outlook.base)) is not None:
            return Outline(parameters=describe(here).parameters, tokenizer=here, headed=headed, how="of its files")
        known = entry_of(self.source)
        parameters = known[1].parameters if known else None
        return Outline(parameters=parameters, headed=headed, how="as the catalogue says")

    def recipe_digest(self, inputs: Mapping[str, str], contents: Mapping[str, str], seed: int) -> str:
        """Name the artifact; nothing here is random, so that recipes with different seeds share the model."""
        return super().recipe_digest(inputs, contents, 0)
