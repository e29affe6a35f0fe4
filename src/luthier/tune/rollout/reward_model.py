"""A trained reward model, opened to judge answers: a number for each conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, Where
from luthier.tune.reward import Judge
from luthier.tune.teacher import Precision

if TYPE_CHECKING:
    from luthier.text.messages import Message


def open_judge(artifact: Artifact, precision: Precision) -> Judge:
    """What judges conversations by a reward model; `ModelError` for a model that is none."""
    from luthier.models.generate import rewards
    from luthier.models.load import base_folder, load, name_of
    from luthier.models.sequence import names_of, plain_model
    from luthier.text.ids import Text

    model = load(artifact, precision).model
    if len(names_of(plain_model(model))) != 1:
        remedy = "name a step that tunes with the objective `reward`"
        raise ModelError(f"{name_of(artifact)} is no reward model", where=Where(field="reward_model"), remedy=remedy)
    text = Text.load(base_folder(artifact))

    def judge(conversations: Sequence[tuple[Message, ...]]) -> list[float]:
        return rewards(model, [row.ids for row in text.encode_many(conversations)])

    return judge
