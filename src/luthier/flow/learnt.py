"""With what a tuned model learnt, which whoever asks it should know."""

from __future__ import annotations

from luthier.core.artifact import Artifact
from luthier.models.load import data_of
from luthier.text.prompt import Prompt


def learnt_system(artifact: Artifact) -> str | None:
    """The system message with which all training rows of a tuned model began; None where they share none, or where the
    model has a chosen prompt in its place."""
    from luthier.text.dataset import batches, has_split

    data = data_of(artifact)
    if data is None or Prompt.of(artifact).instruction is not None or not has_split(data, "train"):
        return None
    shared: str | None = None
    for example in (example for batch in batches(data, "train") for example in batch):
        first = example.messages[0]
        if first.role != "system" or shared not in (None, first.content):
            return None
        shared = first.content
    return shared
