"""A trained reward model, opened to judge answers: a number for each conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, Where

Judge = Callable[[Sequence[tuple[Any, ...]]], list[float]]
"""A number for each conversation that ends with an answer."""


Encode = Callable[[Path, Sequence[tuple[Any, ...]]], list[list[int]]]
"""Whole conversations as the ids of the model in a folder."""


def open_judge(artifact: Artifact, encode: Encode, precision: Literal["float32", "bfloat16", "auto"] = "auto") -> Judge:
    """What judges conversations by a reward model; `ModelError` for a model that is none."""
    from luthier.models.generate import rewards
    from luthier.models.load import base_folder, load, name_of
    from luthier.models.sequence import names_of, plain_model

    model = load(artifact, precision).model
    if len(names_of(plain_model(model))) != 1:
        remedy = "name a step that tunes with the objective `reward`"
        raise ModelError(f"{name_of(artifact)} is no reward model", where=Where(field="reward_model"), remedy=remedy)
    folder = base_folder(artifact)

    def judge(conversations: Sequence[tuple[Any, ...]]) -> list[float]:
        return rewards(model, encode(folder, conversations))

    return judge
