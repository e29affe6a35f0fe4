"""A model that was tuned to choose one of a few classes answers with the class, and how sure it is."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import Field

from luthier.chat.messages import Message, answer_text_by_label, blank_last_user_turn, join_user_turns, prompt_of
from luthier.core.artifact import Artifact
from luthier.core.errors import LuthierError, ModelError
from luthier.models.lm.base import Normalize, normalize_option_scores
from luthier.models.load import get_training_data, is_plain_classifier
from luthier.serve.engine import ModelRunner, ServingEngine
from luthier.serve.label_engine import (
    DynamicBatcher,
    SharedClassifier,
    fit_temperature,
    open_shared_classifier,
    softmax_label_scores,
)
from luthier.serve.openai.protocol import APIError, to_api_error
from luthier.serve.request import EngineRequest, LabelSetOutput, OutputChunk, TokenCandidate, TokenLogprobs, Usage, Verb

if TYPE_CHECKING:
    from luthier.artifacts.decisions import ConformalSummary
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.text_classifier import TextClassifier

PACK_TOKENS = 4096
"""Tokens read in one pass, as evaluation reads them."""


class LabelEngine(ServingEngine):
    """Choose one of the classes that a model was tuned on, by the scores of all of them, and say how likely each is.

    The answer's text is what the model was taught to say for the class. Each choice carries `scores`, the probability
    of every class, and `logprobs` of the classes as if each were one token. Prompts of requests that come together are
    read together, what all classes share is read once, and so is an instruction that one request after the other begins
    with. A plain classifier (`technique: plain`) is opened without torch; it reads what the user wrote, not the system
    message, and its usage counts words.

    With `label_set` in a request, each choice also carries the labels that the answer may be, where a step `conformal`
    calibrated them for the model.
    """

    kind: Literal["label"] = "label"

    normalize: Normalize = "sum"
    """How the scores of long and short classes are made alike, as `evaluate` has it; it does not concern a model with
    a head of classes, nor a plain classifier."""
    calibrate: int = Field(default=256, ge=0)
    """Rows of the validation split from which the temperature of the probabilities is fitted when the model is opened;
    with 0, or where there are fewer than 20, they are the model's own."""
    max_num_seqs: int = Field(default=32, ge=1)
    """Requests that are read together, at most."""
    max_queue_size: int = Field(default=256, ge=1)
    """Requests that wait for their turn, at most; whoever comes then is told to come back (429)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What is computed in; `auto` is bfloat16 where the machine computes in it, else float32. A plain classifier
    computes in float64."""

    def open(self, model: Artifact) -> ModelRunner:
        """Load the weights (of plain LoRA only the adapter's where another classifier shares the base), and fit the
        temperature.
        """
        if is_plain_classifier(model):
            from luthier.models.text_classifier import TextClassifier

            return self._opened(model, _WordJudge(TextClassifier.open(model.folder)))
        return self._opened(model, self._judge(model))

    def _opened(self, model: Artifact, judge: _Judge) -> ModelRunner:
        with ExitStack() as undo:
            undo.callback(judge.leave)
            temperature = _fitted(model, judge, self.calibrate) or 1.0
            undo.pop_all()
        return _Open(judge, temperature, self, model.digest)

    def _judge(self, model: Artifact) -> _NetworkJudge:
        from luthier.chat.prompt import PromptPrefix
        from luthier.chat.tokenizer import ChatTokenizer
        from luthier.models.load import find_base_folder, get_output_classes, is_endpoint

        if is_endpoint(model):
            raise ModelError("the weights of an endpoint are not here", hint="serve it with the engine `remote`")
        classes = get_output_classes(model)
        answers = {name: name for name in classes} if classes else _taught(model)
        text = ChatTokenizer.load(find_base_folder(model), before=PromptPrefix.of(model))
        return _NetworkJudge(open_shared_classifier(model, self.dtype), text, answers, classes, self.normalize)


def _taught(model: Artifact) -> dict[str, str]:
    """Return the classes, and the answer text of each."""
    from luthier.artifacts.dataset import DatasetSummary, read_examples

    data = get_training_data(model)
    if data is None or DatasetSummary.read(data).task != "label":
        raise ModelError("this model was not tuned to choose classes", hint="serve it with the engine `torch`")
    return answer_text_by_label(DatasetSummary.read(data).labels, read_examples(data, "train"))


def _fitted(model: Artifact, judge: _Judge, most: int) -> float | None:
    """The temperature that fits rows which the model did not learn from."""
    from luthier.artifacts.dataset import DatasetSummary, read_examples

    data = get_training_data(model)
    if data is None or not most or "validation" not in DatasetSummary.read(data).rows:
        return None
    rows = [row for row in read_examples(data, "validation") if row.label is not None][:most]
    scores = judge.scores([_Asked(prompt_of(row), row.tools) for row in rows]) if rows else []
    return fit_temperature(scores, [str(row.label) for row in rows])


class _Asked(NamedTuple):
    messages: tuple[Message, ...]
    tools: Sequence[Any] = ()


class _Judge(Protocol):
    """Scores classes, as evaluation does."""

    answers: dict[str, str]
    """Answer text of each class."""
    has_head: bool
    """Whether classes have scores of their own rather than answers of different lengths."""

    def check(self, request: _Asked) -> int:
        """Return the number of tokens; `APIError` for an unreadable input."""

    def scores(self, requests: Sequence[_Asked]) -> list[dict[str, float]]:
        """The log-score of each class for each conversation."""

    def leave(self) -> None:
        """Free the weights."""


class _WordJudge:
    """A plain classifier: by the words that the user wrote."""

    def __init__(self, model: TextClassifier) -> None:
        self._model = model
        self.answers = {name: name for name in model.classes}
        self.has_head = True

    def check(self, request: _Asked) -> int:
        """Return the number of words; any length is accepted."""
        return self._model.words(join_user_turns(request.messages))

    def scores(self, requests: Sequence[_Asked]) -> list[dict[str, float]]:
        """The log-probability of each class for each conversation."""
        return self._model.scores([join_user_turns(request.messages) for request in requests])

    def leave(self) -> None:
        """There is nothing to free."""


class _NetworkJudge:
    """A neural network: by a classification head, or by the likelihood of each class's answer."""

    def __init__(
        self,
        reader: SharedClassifier,
        text: ChatTokenizer,
        answers: dict[str, str],
        classes: tuple[str, ...],
        how: Normalize,
    ) -> None:
        from luthier.models.packing.prefix_cache import RecurringPrefixCache

        self._reader, self._text, self._classes, self._how = reader, text, classes, how
        self._beginnings = RecurringPrefixCache()
        self.answers, self.has_head = answers, bool(classes)

    def check(self, request: _Asked) -> int:
        """Return the number of tokens; `APIError` for an unreadable input."""
        config = self._reader.base.config.get_text_config()
        ids = self._text.prompt(request.messages, request.tools)
        context = getattr(config, "max_position_embeddings", None) or 1 << 40
        if len(ids) + 64 > context:
            what = f"the prompt has {len(ids)} tokens; this model reads {context}, its answer included"
            raise APIError(what, param="messages", code="context_length_exceeded")
        return len(ids)

    def leave(self) -> None:
        """Free the weights."""
        self._reader.leave()

    def scores(self, requests: Sequence[_Asked]) -> list[dict[str, float]]:
        """The log-score of each class for each conversation."""
        if self._classes:
            return [dict(zip(self._classes, row, strict=True)) for row in self._named(requests)]
        sums = self._sums(requests)
        priors: Sequence[Any] = [()] * len(requests)
        if self._how == "prior":
            priors = self._sums([_Asked(blank_last_user_turn(request.messages), request.tools) for request in requests])
        pairs = zip(sums, priors, strict=True)
        return [
            dict(zip(self.answers, normalize_option_scores(self._how, row, prior), strict=True)) for row, prior in pairs
        ]

    def _named(self, requests: Sequence[_Asked]) -> list[list[float]]:
        from luthier.models.generate import score_with_sequence_head

        ids = self._text.prompts([request.messages for request in requests], [request.tools for request in requests])
        with self._reader.turn() as model:
            return score_with_sequence_head(model, ids, tokens=PACK_TOKENS, kept=self._beginnings)

    def _sums(self, requests: Sequence[_Asked]) -> list[list[tuple[float, int]]]:
        from luthier.models.generate import score_options

        encoded = [self._text.options(request.messages, self.answers.values(), request.tools) for request in requests]
        prompts, options = [before for before, _ in encoded], [answers for _, answers in encoded]
        with self._reader.turn() as model:
            sums = score_options(model, prompts, options, tokens=PACK_TOKENS, kept=self._beginnings)
        pairs = zip(sums, options, strict=True)
        return [[(score, len(ids)) for score, ids in zip(row, own, strict=True)] for row, own in pairs]


class _Open(ModelRunner):
    """A model that chooses classes: settings of sampling change nothing, since the likeliest class is the answer."""

    able: ClassVar[frozenset[Verb]] = frozenset({"chat"})
    chooses: ClassVar[bool] = True

    def __init__(self, judge: _Judge, temperature: float, settings: LabelEngine, digest: str) -> None:
        super().__init__(digest)
        self.temperature = temperature
        """What scores are divided by."""
        self._judge, self._closed = judge, False
        self._normalize = settings.normalize
        self._gathering = DynamicBatcher(judge.scores, at_once=settings.max_num_seqs, waiting=settings.max_queue_size)

    @property
    def waiting(self) -> int:
        return self._gathering.waiting

    @property
    def running(self) -> int:
        return self._gathering.running

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._gathering.close)
            self._judge.leave()

    def unused(self, query: EngineRequest) -> tuple[str, ...]:
        names = ("temperature", "top_p", "seed", "max_tokens")
        given = [name for name in names if getattr(query, name) is not None]
        return (*given, *(("stop",) if query.stop else ()), *query.unsupported)

    async def answer(self, query: EngineRequest) -> AsyncGenerator[OutputChunk, None]:
        _refuse(query)
        known = self._calibrated() if query.label_set else None
        request = _Asked(query.messages)
        try:
            tokens = await asyncio.to_thread(self._judge.check, request)
            scores = await self._gathering.ask(request)
        except LuthierError as error:
            raise to_api_error(error, "messages") from error
        shares = softmax_label_scores(scores, self.temperature)
        ranked = sorted(shares, key=lambda label: (-scores[label], label))
        label_set = None if known is None else _select(known, scores)
        for answer in range(query.answers):
            yield replace(self._piece(answer, ranked, shares, query, tokens), label_set=label_set)

    def _calibrated(self) -> ConformalSummary:
        """The thresholds of label sets; `APIError` where these do not hold for the scores of this engine."""
        known = self.label_sets
        if known is None:
            why = "the label sets of this model are not calibrated: run a step `conformal` for it, and serve it again"
        elif self._normalize != "sum" and not self._judge.has_head:
            why = f"label sets are calibrated on sums, and this engine scores classes by `normalize: {self._normalize}`"
        elif {*known.labels} != {*self._judge.answers}:
            why = "the label sets of this model were calibrated for other classes: run the step `conformal` again"
        else:
            return known
        raise APIError(why, param="label_set", code="unsupported_parameter")

    def _piece(
        self, answer: int, ranked: Sequence[str], shares: dict[str, float], query: EngineRequest, tokens: int
    ) -> OutputChunk:
        candidates = [self._candidate(label, shares[label]) for label in ranked]
        token = TokenLogprobs(chosen=candidates[0], top=tuple(candidates[: query.top_logprobs]))
        return OutputChunk(
            answer=answer,
            text=candidates[0].text,
            tokens=(token,) if query.logprobs else (),
            finish="stop",
            usage=Usage(prompt_tokens=tokens, completion_tokens=1),
            scores=shares,
            calibration=self.temperature,
        )

    def _candidate(self, label: str, share: float) -> TokenCandidate:
        text = self._judge.answers[label]
        return TokenCandidate(text, text.encode(), math.log(max(share, 1e-300)))


def _select(known: ConformalSummary, scores: dict[str, float]) -> LabelSetOutput:
    from luthier.metrics.conformal import select_label_set

    return LabelSetOutput(select_label_set(known, [scores[label] for label in known.labels]), known.level)


def _refuse(query: EngineRequest) -> None:
    """Refuse parameters without effect on a classifier."""
    requested: dict[str, object] = {
        "tools": query.tools,
        "response_format": query.schema,
    }
    for param, value in requested.items():
        if value is not None:
            what = f"this model chooses one of a few classes: `{param}` has no meaning for it"
            raise APIError(what, param=param, code="unsupported_parameter")
