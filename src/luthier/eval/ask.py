"""Asking a language model: scores of label options, greedy answers, log-likelihoods of references.

Rows are asked in chunks of a fixed size in the data's order, and each finished chunk is kept, so that a killed
evaluation goes on where it was and ends in the same numbers.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.artifact import Artifact
from luthier.core.digest import digest_of
from luthier.core.errors import DataError
from luthier.core.process import release_memory
from luthier.eval.kept import Kept
from luthier.eval.pairs import FIRST, SECOND, Offer, offer_of
from luthier.eval.question import Question as Asking
from luthier.eval.question import Told
from luthier.eval.rows import Reply, Task
from luthier.eval.turns import together
from luthier.eval.voice import Choice, Continued, Likelihood, Verb, Voice, Written
from luthier.models.options import Normalise, Sums, log_shares, normalise
from luthier.models.sequence import REWARD
from luthier.text.messages import Message, answer_of, emptied, prompt_of
from luthier.text.prompt import Prompt

if TYPE_CHECKING:
    from luthier.core.events import StepEvents
    from luthier.models.beginnings import Beginnings
    from luthier.models.load import Loaded
    from luthier.text.ids import Text
    from luthier.text.messages import Example

CHUNK = 32
"""Rows asked together."""
CHOOSING = 64
"""The same of rows for which a label is chosen: quickly answered, and the quicker the more stand side by side."""
PACK_TOKENS = 4096
"""Tokens read in one pass: some 100 MB of states for a model of 135 M parameters."""
_DIGITS = 6
"""Decimals kept of log-probabilities: far below what could matter, far above float noise."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """How rows are asked."""

    normalise: Normalise
    max_new_tokens: int
    dtype: Literal["float32", "bfloat16", "auto"]
    likelihood: bool
    """Whether the reference's log-likelihood is wanted as well (text tasks)."""
    verdict: dict[str, str] | None = None
    """What a generative judge is asked about answers of which people preferred one; None for any other model."""


class Desk:
    """Has one model's weights at a time, since a probe asks model after model."""

    def __init__(self) -> None:
        self._digest = ""
        self._loaded: Loaded | None = None
        self._beginnings: Beginnings | None = None

    def load(self, artifact: Artifact, dtype: Literal["float32", "bfloat16", "auto"]) -> Loaded:
        """A model's weights; those of the model before are let go."""
        from luthier.models.load import load

        if self._loaded is None or self._digest != artifact.digest:
            self._loaded = self._beginnings = None
            gc.collect()  # layers with a forward of their own hold themselves
            release_memory()  # else the next model's weights come on top of what the last one's left
            self._loaded = load(artifact, dtype=dtype)
            self._digest = artifact.digest
        return self._loaded

    @property
    def beginnings(self) -> Beginnings:
        """What prompts of the model that was loaded last began with."""
        from luthier.models.beginnings import Beginnings

        if self._beginnings is None:
            self._beginnings = Beginnings()
        return self._beginnings


class Model(Voice):
    """A model to be asked; its weights are read only when some chunk is not answered yet."""

    def __init__(self, artifact: Artifact, question: Question, desk: Desk, *, name: str, title: str) -> None:
        self.name, self.title = name, title
        self.digest = digest_of([artifact.digest, vars(question)])
        self._artifact, self._question, self._desk = artifact, question, desk

    @property
    def able(self) -> frozenset[Verb]:  # type: ignore[override]  # a model with a head of classes can do less
        """Everything, or only naming its classes."""
        every: tuple[Verb, ...] = ("answer", "score", "likelihood", "write", "resume", "tell")
        return frozenset({"answer"} if self._classes else every)

    @property
    def _loaded(self) -> Loaded:
        return self._desk.load(self._artifact, self._question.dtype)

    @cached_property
    def _text(self) -> Text:
        from luthier.text.ids import Text

        return Text.load(self._loaded.folder, before=Prompt.of(self._artifact))

    def answer(self, examples: Sequence[Example], task: Task) -> list[Reply]:
        """Answer some rows of a task."""
        if task.pairs:
            return self._prefer(examples)
        if self._classes == (REWARD,):
            remedy = "evaluate it on rows of two answers (`prompt`, `chosen`, `rejected`)"
            raise DataError("a reward model ranks answers; it neither writes them nor names classes", remedy=remedy)
        return self._choose(examples, task) if task.kind == "label" else self._write(examples)

    def score(self, asked: Sequence[Choice]) -> list[list[Likelihood]]:
        """The log-likelihood of each answer to each conversation, to its end token."""
        return _kept(self._sums([((one.messages, ()), one.options) for one in asked]))

    def likelihood(self, asked: Sequence[Continued]) -> list[list[Likelihood]]:
        """The log-likelihood of what may follow each plain text; without a text, what follows the token that begins
        or ends documents."""
        from luthier.eval import question

        asking = [question.Likelihood(prompt=one.before, answer=option) for one in asked for option in one.options]
        told = iter(self.tell(asking) if asking else ())
        return [[_summed(next(told)) for _ in one.options] for one in asked]

    def write(self, asked: Sequence[tuple[Message, ...]], max_new_tokens: int) -> list[Written]:
        """The greedy answer to each conversation."""
        return self._go_on(self._text.prompts(asked), max_new_tokens)

    def resume(self, asked: Sequence[tuple[Message, ...]], max_new_tokens: int) -> list[Written]:
        """How each conversation goes on, of which the last turn is the beginning of the assistant's answer."""
        prompts = []
        for *before, begun in asked:
            ids, (told,) = self._text.options(before, [begun.content])
            prompts.append([*ids, *(one for one in told if one not in self._text.end_ids)])
        return self._go_on(prompts, max_new_tokens)

    def tell(self, questions: Sequence[Asking]) -> list[Told]:
        """One answer to each question of a task; all are of one kind."""
        from luthier.eval.tell import tell

        return tell(self._loaded, self._text, questions, self._desk.beginnings)

    def _choose(self, examples: Sequence[Example], task: Task) -> list[Reply]:
        options = list(task.options.values())
        prompts = [(prompt_of(example), example.tools) for example in examples]
        asked = [(prompt, options) for prompt in prompts]
        replies = []
        for scores in self._named(prompts, task) if self._classes else self._normalised(asked):
            told = dict(zip(task.options, (round(score, _DIGITS) for score in scores), strict=True))
            replies.append(Reply(prediction=max(task.options, key=lambda label: told[label]), scores=told))
        return replies

    def _prefer(self, examples: Sequence[Example]) -> list[Reply]:
        """Which of two answers has the higher reward, or is likelier after the prompt."""
        offers = [offer_of(example) for example in examples]
        if self._question.verdict is not None and not self._classes:
            found = self._verdicts(offers)
        elif self._classes == (REWARD,):
            found = self._rewards(offers, [example.tools for example in examples])
        elif self._classes:
            what = "the model's head names classes and cannot tell which of two answers is better"
            raise DataError(what, remedy="tune by `objective: reward`")
        else:
            asked = [((one.prompt, row.tools), one.answers) for one, row in zip(offers, examples, strict=True)]
            found = self._normalised(asked)
        told = [dict(zip((FIRST, SECOND), (round(score, _DIGITS) for score in row), strict=True)) for row in found]
        return [Reply(prediction=max(row, key=row.__getitem__), scores=row) for row in told]

    def _rewards(self, offers: Sequence[Offer], tools: Sequence[tuple[dict[str, Any], ...]]) -> list[list[float]]:
        """By the rewards of two answers, the log-probability that each is the better one (Bradley and Terry)."""
        from luthier.models.generate import rewards

        asked = [
            ([*offer.prompt, Message(role="assistant", content=said)], on_offer)
            for offer, on_offer in zip(offers, tools, strict=True)
            for said in offer.answers
        ]
        rows = self._text.encode_many([messages for messages, _ in asked], [on_offer for _, on_offer in asked])
        found = rewards(self._loaded.model, [row.ids for row in rows], tokens=PACK_TOKENS, kept=self._desk.beginnings)
        return [log_shares(pair) for pair in zip(found[::2], found[1::2], strict=True)]

    def _verdicts(self, offers: Sequence[Offer]) -> list[list[float]]:
        """The same by the verdicts on two answers."""
        from luthier.models.reward_model import odds
        from luthier.text.verdict import asked_of

        told = [(*offer.prompt, Message(role="assistant", content=said)) for offer in offers for said in offer.answers]
        asked = asked_of(self._text, told, self._question.verdict or {})
        found = odds(self._loaded.model, asked, tokens=PACK_TOKENS, kept=self._desk.beginnings)
        return [log_shares(pair) for pair in zip(found[::2], found[1::2], strict=True)]

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        from luthier.models.load import outputs_of

        return outputs_of(self._artifact)

    def _named(self, prompts: Sequence[Asked], task: Task) -> list[list[float]]:
        """The labels' log-probabilities by the model's own head."""
        from luthier.models.generate import label_scores

        if unknown := sorted(set(task.options) - set(self._classes)):
            what = f"the model's head has no class {unknown[0]!r}"
            raise DataError(what, remedy=f"it was tuned to name {', '.join(self._classes)}")
        places = [self._classes.index(label) for label in task.options]
        ids = self._text.prompts([messages for messages, _ in prompts], [tools for _, tools in prompts])
        found = label_scores(self._loaded.model, ids, tokens=PACK_TOKENS, kept=self._desk.beginnings)
        return [[row[place] for place in places] for row in found]

    def _normalised(self, asked: Sequence[tuple[Asked, Sequence[str]]]) -> list[list[float]]:
        """The scores of each prompt's answers, by the chosen normalisation."""
        totals = self._sums(asked)
        priors: Sequence[Sums] = [()] * len(asked)
        if self._question.normalise == "prior":
            priors = self._sums([((emptied(messages), tools), options) for (messages, tools), options in asked])
        pairs = zip(totals, priors, strict=True)
        return [normalise(self._question.normalise, row, prior) for row, prior in pairs]

    def _sums(self, asked: Sequence[tuple[Asked, Sequence[str]]]) -> list[list[tuple[float, int]]]:
        """For each prompt and each of its answers: summed log-probability and how many tokens it is a sum over."""
        from luthier.models.generate import score_options

        prompts, options = [], []
        for prompt, answers in asked:
            before, told = self._text.options(prompt[0], answers, prompt[1])
            prompts.append(before)
            options.append(told)
        sums = score_options(self._loaded.model, prompts, options, tokens=PACK_TOKENS, kept=self._desk.beginnings)
        return [
            [(score, len(ids)) for score, ids in zip(scores, told, strict=True)]
            for scores, told in zip(sums, options, strict=True)
        ]

    def _write(self, examples: Sequence[Example]) -> list[Reply]:
        asked = [(prompt_of(example), example.tools) for example in examples]
        prompts = self._text.prompts([messages for messages, _ in asked], [tools for _, tools in asked])
        written = self._go_on(prompts, self._question.max_new_tokens)
        likelihoods: list[tuple[float | None, int | None]] = [(None, None)] * len(examples)
        if self._question.likelihood:
            pairs = [(prompt, [answer_of(example)]) for prompt, example in zip(asked, examples, strict=True)]
            likelihoods = [(round(row[0][0], _DIGITS), row[0][1]) for row in self._sums(pairs)]
        return [
            Reply(
                prediction=one.text.strip(),
                tokens=one.tokens,
                finished=one.finished,
                logprob=logprob,
                reference_tokens=tokens,
            )
            for one, (logprob, tokens) in zip(written, likelihoods, strict=True)
        ]

    def _go_on(self, prompts: Sequence[Sequence[int]], limit: int) -> list[Written]:
        """What the model writes after ids."""
        from luthier.models.generate import generate

        ends = self._text.end_ids
        return [
            Written(
                self._text.decode([one for one in ids if one not in ends], special=False),
                len(ids),
                bool(ids) and ids[-1] in ends,
            )
            for ids in generate(self._loaded, prompts, limit, ends)
        ]


Asked = tuple["tuple[Message, ...]", tuple[dict[str, Any], ...]]
"""Messages, and the tools on offer."""


def _summed(told: Told) -> Likelihood:
    assert told.logprob is not None, "a likelihood was asked"
    return Likelihood(told.logprob, told.tokens or 0)


def _kept(sums: Sequence[Sequence[tuple[float, int]]]) -> list[list[Likelihood]]:
    """Log-probabilities as they are written down."""
    return [[Likelihood(round(score, _DIGITS), tokens) for score, tokens in row] for row in sums]


def ask(model: Voice, task: Task, kept: Kept, events: StepEvents) -> list[Reply]:
    """A model's replies to every row, chunk by chunk; chunks that were answered before are read."""
    replies: list[Reply] = []
    for chunk in chunks(task.examples, CHUNK if task.kind == "text" else CHOOSING):
        replies += _replies(model, chunk, task, kept)
        events.progress(len(replies), len(task.examples), "rows", model=model.name)
    return replies


def chunks(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """Rows that are asked together, `size` at most; the turns of a conversation stay together, be they more, so that
    what they share is read once."""
    chunk: list[Example] = []
    for run in together(examples):
        if chunk and len(chunk) + len(run) > size:
            yield chunk
            chunk = []
        chunk += run
    if chunk:
        yield chunk


def _replies(model: Voice, chunk: Sequence[Example], task: Task, kept: Kept) -> list[Reply]:
    rows = [example.model_dump(mode="json", include={"messages", "tools"}) for example in chunk]
    asked = [model.digest, task.kind, dict(task.options), rows]
    told = kept.or_made(asked, lambda: [vars(one) for one in model.answer(chunk, task)])
    return [Reply(**values) for values in told]
