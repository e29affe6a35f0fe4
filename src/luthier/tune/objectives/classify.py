"""Classification: make the right class likelier than the others, by its words or by a head of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.chat.messages import Example, Message, prompt_of
from luthier.core.errors import DataError, SourceLocation
from luthier.core.hashing import digest_of
from luthier.models.sequence_head import get_padding_id
from luthier.tune.objective import (
    NOTHING,
    Loss,
    LossTerms,
    Objective,
    ObjectiveContext,
    TrainingExample,
    group_rows_by_example,
    row_sums,
)
from luthier.tune.objectives.sft import TOO_LONG

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.chat.tokenizer import ChatTokenizer, EncodedChat
    from luthier.models.packing.pack import Pack, TokenRow


class Classify(Objective):
    """Cross-entropy over the classes of the data, averaged over the rows of a step."""

    kind: Literal["classify"] = "classify"
    other_names: ClassVar[Mapping[str, str]] = {"max_seq_length": "max_length"}

    head: Literal["label", "sequence"] = "label"
    """What tells the classes apart. `label`: the model's own words; the log-probability of each class's answer is
    normalized over the classes, as evaluation scores them. `sequence`: a new linear layer with one output a class in
    place of the language head, read after the prompt (transformers' AutoModelForSequenceClassification)."""
    normalize: Literal["sum", "mean"] = "sum"
    """Whether a label's score is the sum of its tokens' log-probabilities, or their mean, which is fairer to long
    labels; evaluate with the same."""
    options: int | None = Field(default=None, ge=2)
    """Most labels that stand against each other in one row: the right one and others, drawn once for each row by the
    seed. All of them when not given; 8 to 16 save time where there are many."""
    max_length: int = Field(default=2048, ge=2)
    """Rows with more tokens than this are left out, counted, listed in `training_examples.parquet` and warned of."""

    @model_validator(mode="after")
    def _fields_fit_the_head(self) -> Classify:
        fields = type(self).model_fields
        if self.head == "sequence" and any(
            getattr(self, name) != fields[name].default for name in ("normalize", "options")
        ):
            raise ValueError("`normalize` and `options` are for labels; a sequence head has one output for each class")
        return self

    def outputs(self, about: ObjectiveContext) -> tuple[str, ...]:
        """Return the classes, for a sequence head."""
        return tuple(about.classes) if self.head == "sequence" else ()

    def build_training_examples(
        self, examples: Sequence[Example], text: ChatTokenizer, about: ObjectiveContext = NOTHING
    ) -> list[TrainingExample]:
        """Return for each example its prompt with every option, the right one first; or its prompt with the index of
        its class.
        """
        _check(about)
        if self.head == "sequence":
            prompts = text.prompts([prompt_of(entry) for entry in examples], [entry.tools for entry in examples])
            numbers = {name: number for number, name in enumerate(about.classes)}
            return [self._build_class_example(*pair, numbers, text) for pair in zip(examples, prompts, strict=True)]
        options = [self._options(example, about) for example in examples]
        conversations = [
            ([*prompt_of(example), Message(role="assistant", content=about.classes[name])], example.tools)
            for example, names in zip(examples, options, strict=True)
            for name in names
        ]
        rows = text.encode_many([messages for messages, _ in conversations], [tools for _, tools in conversations])
        ends = [0]
        for names in options:
            ends.append(ends[-1] + len(names))
        spans = zip(examples, pairwise(ends), strict=True)
        return [self._build_option_example(example, rows[begin:end]) for example, (begin, end) in spans]

    def _options(self, example: Example, about: ObjectiveContext) -> list[str]:
        """Return the right class, then the others in order; empty for an example without a class."""
        import numpy

        if example.label is None or example.label not in about.classes:
            return []
        others = [name for name in about.classes if name != example.label]
        if self.options is not None and self.options <= len(others):
            seed = int(digest_of([about.seed, example.id])[:16], 16)
            drawn = numpy.random.Generator(numpy.random.PCG64(seed)).permutation(len(others))[: self.options - 1]
            others = [others[at] for at in sorted(drawn.tolist())]
        return [example.label, *others]

    def _build_option_example(self, example: Example, options: Sequence[EncodedChat]) -> TrainingExample:
        from luthier.models.packing.pack import TokenRow

        longest = max((len(row.ids) for row in options), default=0)
        if why := _explain_exclusion(longest, self.max_length) or next(
            (row.nothing for row in options if row.nothing), ""
        ):
            return TrainingExample(id=example.id, nothing=why, cut=longest if longest > self.max_length else 0)
        rows = []
        for row in options:
            share = 1.0 / sum(row.loss_mask) if self.normalize == "mean" else 1.0
            loss_weights = [share if trained else 0.0 for trained in row.loss_mask]
            rows.append(TokenRow(row.ids, loss_weights, example.id, len(options)))
        return TrainingExample(id=example.id, rows=tuple(rows))

    def _build_class_example(
        self, example: Example, prompt: list[int], numbers: dict[str, int], text: ChatTokenizer
    ) -> TrainingExample:
        from luthier.models.packing.pack import TokenRow

        number = numbers.get(example.label or "")
        why = _explain_exclusion(len(prompt) if number is not None else 0, self.max_length)
        if not why and prompt[-1] == get_padding_id(text.tokenizer):
            why = "its prompt ends with the padding token, before which transformers would read the class"
        if why or number is None:
            return TrainingExample(id=example.id, nothing=why, cut=len(prompt) if len(prompt) > self.max_length else 0)
        return TrainingExample(
            id=example.id, rows=(TokenRow([*prompt, number], [0.0] * len(prompt) + [1.0], example.id),)
        )

    def denominator(self, rows: Sequence[TokenRow]) -> float:
        """Return the number of examples."""
        return sum(1.0 / row.group_size for row in rows)

    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """Return minus the log-probability of the right class, normalized over an example's rows, of which it is the
        first.
        """
        if self.head == "sequence":
            return Loss([LossTerms.of_examples(-logp)])
        scores = group_rows_by_example(row_sums(logp, pack), pack, missing=float("-inf"))
        right = scores[:, 0]
        hits = right >= scores.detach().amax(1)
        return Loss([LossTerms.of_examples(scores.logsumexp(1) - right)], {"accuracy": hits})


def _check(about: ObjectiveContext) -> None:
    if len(about.classes) < 2:
        what = f"classify needs data with at least two classes; this data set has {len(about.classes)}"
        hint = "learn texts with `objective: sft`, or map the class's column as `answer` and set `task: label`"
        raise DataError(what, where=SourceLocation(field="objective"), hint=hint)
    texts = list(about.classes.values())
    if twice := next((text for text in texts if texts.count(text) > 1), None):
        raise DataError(f"two classes are both answered {twice!r}", hint="give each class words of its own")


def _explain_exclusion(tokens: int, limit: int) -> str:
    """Why a row cannot be used."""
    if not tokens:
        return "it has no class"
    return TOO_LONG.format(limit=limit) if tokens > limit else ""
