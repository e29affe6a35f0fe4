"""Which adapter of PEFT's model speaks, for a while: by name, and without touching what may be trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer

from luthier.core.errors import ModelError
from luthier.models.decoding.ask import BASE


def refuse_unknown(model: Any, adapter: str | None) -> None:
    """`ModelError` for an adapter that is not loaded."""
    known = getattr(model, "peft_config", {})
    if adapter not in (None, BASE) and adapter not in known:
        there = ", ".join(known) or "none: this model has no adapters"
        raise ModelError(f"no adapter {adapter!r} is loaded", remedy=f"loaded are {there}")


@contextmanager
def speaking(model: Any, adapter: str | None) -> Iterator[None]:
    """Let an adapter speak alone; None: as it is; `BASE`: none of them."""
    if adapter is None or not hasattr(model, "peft_config"):
        yield
        return
    if adapter == BASE:
        with model.disable_adapter():
            yield
        return
    layers = [one for one in model.modules() if isinstance(one, BaseTunerLayer)]
    before, whole = [(one._active_adapter, one._disable_adapters) for one in layers], model.active_adapter
    try:
        for layer in layers:
            layer._active_adapter, layer._disable_adapters = [adapter], False
        model.active_adapter = adapter
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled
        model.active_adapter = whole
