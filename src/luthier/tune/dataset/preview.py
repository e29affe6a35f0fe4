"""Training rows as the model sees them: the text of the token ids that a training reads, with the trained tokens
marked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.artifacts.dataset import BATCH
from luthier.chat.messages import Example, ExampleOrigin
from luthier.core.step import StepContext
from luthier.tune.objective import TrainingExample
from luthier.tune.preference import PairObjective

if TYPE_CHECKING:
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.packing.pack import TokenRow
    from luthier.tune.dataset.training_data import TrainingData
    from luthier.tune.steps.tune import Tune

RENDERED = "rendered.json"
"""File of a tuned model's artifact that holds its first training rows as they were read."""
KEPT = 3
"""Number of rows in that file."""


class RenderedSpan(NamedTuple):
    """A run of adjacent tokens that are all trained on, or all read only."""

    text: str
    trained: bool


class RenderedToken(NamedTuple):
    """One token of a sequence."""

    id: int
    text: str
    trained: bool


class RenderedSequence(NamedTuple):
    """One sequence of token ids that an example becomes."""

    name: str
    """Which of the example's sequences this is: `chosen`, `rejected`, or a number; empty for the only one."""
    stretches: list[RenderedSpan]
    tokens: list[RenderedToken]

    @property
    def trained(self) -> int:
        """Number of its tokens that are trained on."""
        return sum(token.trained for token in self.tokens)

    def as_json(self, *, ids: bool) -> dict[str, Any]:
        """Return counts and text; with `ids`, also each token's id and whether it is trained on."""
        record: dict[str, Any] = {
            "name": self.name,
            "tokens": len(self.tokens),
            "trained_tokens": self.trained,
            "stretches": [stretch._asdict() for stretch in self.stretches],
        }
        if ids:
            record |= {"ids": [token.id for token in self.tokens], "trained": [token.trained for token in self.tokens]}
        return record


class RenderedRow(NamedTuple):
    """An example as the model sees it in training."""

    id: str
    origin: ExampleOrigin
    sequences: list[RenderedSequence]
    """Its token sequences; empty where nothing is trained on."""
    cut: int
    """Tokens that were cut off to fit the limit."""
    nothing: str
    """Why nothing is trained on; empty otherwise."""

    def as_json(self, *, ids: bool = False) -> dict[str, Any]:
        """Return the row as JSON values."""
        return {
            "id": self.id,
            "file": self.origin.file,
            "line": self.origin.line,
            "cut_tokens": 0 if self.nothing else self.cut,
            "left_out": self.nothing or None,
            "sequences": [sequence.as_json(ids=ids) for sequence in self.sequences],
        }


def render_training_rows(step: Tune, work: StepContext, number: int) -> list[RenderedRow]:
    """Return the first training rows of a step, as its training reads them.

    Where one of the first 256 rows calls tools, it is among them. `work` needs its inputs `data` and `model`.
    """
    from luthier.chat.prompt import PromptPrefix
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.load import find_base_folder
    from luthier.tune.dataset.training_data import TrainingData

    model = work.inputs["model"]
    text = ChatTokenizer.load(find_base_folder(model), before=PromptPrefix.of(model))
    material = TrainingData(step, work, text)
    return [*_render_rows(material, material.first, step, text, number)]


def write_rendered_rows(folder: Path, material: TrainingData, step: Tune, text: ChatTokenizer) -> None:
    """Write the first rows that a training read."""
    rows = [row.as_json() for row in _render_rows(material, material.dataset.first, step, text, KEPT)]
    content = json.dumps({"rows": rows}, ensure_ascii=False, indent=1)
    (folder / RENDERED).write_text(content + "\n", encoding="utf-8")


def _render_rows(
    material: TrainingData,
    first: Callable[[int], Iterator[TrainingExample]],
    step: Tune,
    text: ChatTokenizer,
    number: int,
) -> Iterator[RenderedRow]:
    examples = material.examples(max(number, BATCH))
    indices = _choose_examples(examples, number)
    training_examples = list(first(indices[-1] + 1))
    outputs = step.objective.outputs(material.about)
    for index in indices:
        example = training_examples[index]
        names = _names(step, len(example.rows))
        sequences = [_render_sequence(*name, text, outputs) for name in zip(names, example.rows, strict=True)]
        yield RenderedRow(example.id, examples[index].origin, sequences, example.cut, example.nothing)


def _choose_examples(examples: Sequence[Example], count: int) -> list[int]:
    """Return the indices of the first `number` examples; where none of them calls a tool, the last index is that of one
    that does.
    """
    calling = [
        index for index, example in enumerate(examples) if any(message.tool_calls for message in example.messages)
    ]
    indices = list(range(min(count, len(examples))))
    return [*indices[:-1], calling[0]] if calling and calling[0] >= len(indices) else indices


def _names(step: Tune, count: int) -> list[str]:
    """Return the names of an example's sequences."""
    if count == 2 and isinstance(step.objective, PairObjective):
        return ["chosen", "rejected"]
    return [""] if count == 1 else [f"{at} of {count}" for at in range(1, count + 1)]


def _render_sequence(name: str, row: TokenRow, text: ChatTokenizer, outputs: Sequence[str]) -> RenderedSequence:
    """Return a row's ids as text; under a sequence head the last id is the number of an output."""
    ids, output = (row.ids[:-1], row.ids[-1]) if outputs else (row.ids, None)
    targets = set(row.targets)
    trained = [at in targets for at in range(len(row.ids))]
    tokens = [RenderedToken(id_, text.decode([id_]), trained[at]) for at, id_ in enumerate(text.plain_ids(ids))]
    stretches = []
    for is_trained, run in groupby(range(len(ids)), key=trained.__getitem__):
        positions = list(run)
        stretches.append(RenderedSpan(_decode_slice(text, ids, positions[0], positions[-1] + 1), is_trained))
    if output is not None:
        tokens.append(RenderedToken(output, outputs[output], trained[-1]))
        stretches.append(RenderedSpan(f"[{outputs[output]}]", trained[-1]))
    return RenderedSequence(name, stretches, tokens)


def _decode_slice(text: ChatTokenizer, ids: Sequence[int], start: int, end: int) -> str:
    """Return the text of some ids in their context: tokenizers that write a space as part of a word drop the first one
    of a text.
    """
    before, whole = text.decode(ids[:start]), text.decode(ids[:end])
    return whole[len(before) :] if whole.startswith(before) else text.decode(ids[start:end])
