"""The rows on which two models are compared, and what a language model says for each label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.core.artifact import Artifact
from luthier.explain.diff.compare import ComparedRows

if TYPE_CHECKING:
    from luthier.chat.messages import Example


def read_compared_rows(
    data: Artifact,
    classes: Sequence[str],
    *,
    split: str,
    limit: int,
    prompts: Sequence[str] = (),
    max_new_tokens: int = 64,
) -> ComparedRows:
    """Rows of a data set's split, evenly from the first to the last."""
    from luthier.artifacts.dataset import read_evenly_spaced_examples

    rows: list[Example] = read_evenly_spaced_examples(data, split, limit)
    return ComparedRows(rows, find_label_texts(data, classes), prompts, max_new_tokens)


def find_label_texts(data: Artifact, classes: Sequence[str]) -> dict[str, str]:
    """What a language model says for each label of a data set; nothing where the model names classes by a head, or the
    answers are texts."""
    from luthier.artifacts.dataset import DatasetSummary, has_split, read_examples
    from luthier.chat.messages import answer_text_by_label

    about = DatasetSummary.read(data)
    if about.task != "label" or classes:
        return {}
    trained = read_examples(data, "train") if has_split(data, "train") else ()
    return answer_text_by_label(about.labels, trained)
