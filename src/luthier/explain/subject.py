"""From a model and a conversation to a prompt in units with a target: what explainers work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from luthier.artifacts.explanation import ExplainedPicture, ExplanationTarget, TargetKind, UnitKind
from luthier.chat.messages import MEDIA_MARK, Message
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, ModelError, SourceLocation, did_you_mean
from luthier.explain.explainer import ExplainedPrompt
from luthier.explain.gradients import PromptGradients
from luthier.explain.patches import add_patches, cut_pictures, show_pictures
from luthier.explain.remote import ClassifierPromptScorer, EndpointPromptScorer
from luthier.explain.scorer import LocalPromptScorer, TargetTokens
from luthier.explain.units import CutPrompt, choose_unit_kind, cut_messages, locate_units
from luthier.models.sequence_head import REWARD

if TYPE_CHECKING:
    from luthier.chat.tokenizer import LocatedTokens
    from luthier.models.lm.local import LocalLM, ModelCache

Tools = tuple[dict[str, Any], ...]
Units = UnitKind | Literal["auto"]
Dtype = Literal["float32", "bfloat16", "auto"]
MAX_NEW_TOKENS = 128
_FEWEST = 2


@dataclass(frozen=True, kw_only=True)
class ExplanationRequest:
    """The conversation and target to explain."""

    messages: tuple[Message, ...]
    tools: Tools = ()
    answer: str | None = None
    """The answer or class to explain; None: the model's own. Of a reward model: the answer that is rewarded."""
    part: str = ""
    """The part of the answer to explain; empty: all of it."""
    against: str = ""
    """Explain why the answer, or class, and not this one."""
    options: Mapping[str, str] | None = None
    """A language model's text for each label."""
    row: str = ""


@dataclass(frozen=True)
class Subject:
    """A prompt in units, its target and its scorer."""

    prompt: ExplainedPrompt
    target: ExplanationTarget
    recut: Callable[[UnitKind], CutPrompt]
    """Cuts the same prompt into units of another kind."""
    notes: tuple[str, ...] = ()
    pictures: tuple[ExplainedPicture, ...] = ()

    @property
    def cut(self) -> CutPrompt:
        """The prompt in units."""
        return self.prompt.scorer.cut


class SubjectBuilder:
    """Builds subjects of one model, whose weights are read once."""

    def __init__(
        self,
        model: Artifact,
        *,
        units: Units = "auto",
        dtype: Dtype = "float32",
        seed: int = 0,
        cache: ModelCache | None = None,
        max_tokens: int | None = None,
        read_media: Callable[[str], bytes] | None = None,
    ) -> None:
        """`cache` holds weights that builders use in turn; a prompt with its answer has at most `max_tokens`.
        `read_media` gives the bytes of pictures by digest, where conversations may have some."""
        from luthier.models.lm.local import ModelCache
        from luthier.models.load import is_endpoint, is_plain_classifier

        self.model, self._units, self._dtype, self._seed = model, units, dtype, seed
        self._cache, self._max_tokens, self._read_media = cache or ModelCache(), max_tokens, read_media
        self.perturbation_only = is_endpoint(model) or is_plain_classifier(model)

    def build(self, question: ExplanationRequest) -> Subject:
        """The subject of a question.

        Raises:
            DataError: an empty answer, fewer than two units, sounds, pictures that cannot be read here, or a prompt
                that is too long.
            ModelError: a class that the model's head does not have, no log-probabilities, or a model that transcribes.
        """
        from luthier.models.load import is_endpoint, is_plain_classifier

        self._check_media(question.messages)
        if is_plain_classifier(self.model):
            subject = self._classifier(question)
        elif is_endpoint(self.model):
            subject = self._endpoint(question)
        else:
            subject = self._local(question)
        _check_units(subject.cut)
        return subject

    def _check_media(self, messages: Sequence[Message]) -> None:
        """`DataError` for pictures and sounds whose features or bytes are not here, and for units that none has."""
        kinds, what = {media.kind for message in messages for media in message.media}, ""
        hint = "explain a conversation of words"
        media = "sounds" if kinds == {"audio"} else "pictures"
        if kinds and self.perturbation_only:
            what = f"the conversation has {media}, and without the model's weights only words are explained"
        elif kinds and self._read_media is None:
            what, hint = f"the {media} of this conversation are not here", "explain a row of the model's data: --row ID"
        elif self._units == "patches" and "image" not in kinds:
            what, hint = "the conversation has no pictures to cut into patches", "take `words` or `sentences`"
        elif self._units == "seconds" and "audio" not in kinds:
            what, hint = "the conversation has no sounds to cut into seconds", "take `words` or `sentences`"
        if what:
            raise DataError(what, where=SourceLocation(field="messages"), hint=hint)

    def _local(self, question: ExplanationRequest) -> Subject:
        from luthier.chat.speech import SpeechProcessor
        from luthier.models.lm.local import LocalLM

        lm = LocalLM(self.model, self._dtype, models=self._cache, read_media=self._read_media)
        if isinstance(lm.text.media, SpeechProcessor):
            what = "the model transcribes: its prompt has no words, and its sound stands at no token of it"
            hint = "explain a model that reads sounds as tokens, such as one made by `kind: compose`"
            raise ModelError(what, where=SourceLocation(field="model"), hint=hint)
        if lm.classes == (REWARD,):
            return self._reward(lm, question)
        return self._head(lm, question) if lm.classes else self._language(lm, question)

    def _language(self, lm: LocalLM, question: ExplanationRequest) -> Subject:
        """An answer of a language model, a part of it, or an answer and not another."""
        question = replace(question, answer=self._answer(lm, question))
        messages = lm.before.wrap(question.messages)
        answers = [text for text in (question.answer, question.against) if text]
        prompt, ids = lm.text.options(messages, answers, question.tools)
        located = lm.text.locate_tokens(messages, question.tools)
        if located.ids != prompt:
            what = "the chat template writes the prompt otherwise once an answer follows"
            raise DataError(what, hint="take a chat template whose prompts are the beginning of its conversations")
        weights = [[1.0] * len(own) for own in ids]
        if question.part:
            weights[0] = _weigh_part(lm, ids[0], question)
        targets = [
            TargetTokens(tuple(own), tuple(sign * weight for weight in their))
            for own, their, sign in zip(ids, weights, (1.0, -1.0), strict=False)
        ]
        kind: TargetKind = "contrast" if question.against else "answer"
        target = ExplanationTarget(kind=kind, text=question.answer or "", part=question.part, against=question.against)
        return self._subject(lm, located, messages, targets, target)

    def _answer(self, lm: LocalLM, question: ExplanationRequest) -> str:
        """The answer to explain: the given one, the likeliest label, or what the model writes."""
        from luthier.models.lm.base import ChoiceRequest, GenerateRequest

        if question.answer is not None:
            answer = (question.options or {}).get(question.answer, question.answer)
        elif question.options:
            texts = tuple(question.options.values())
            (choice,) = lm.choose([ChoiceRequest(prompt=question.messages, options=texts, tools=question.tools)])
            answer = texts[choice.index or 0]
        else:
            ask = GenerateRequest(prompt=question.messages, max_tokens=MAX_NEW_TOKENS, tools=question.tools)
            answer = lm.generate([ask])[0].text.strip()
        if not answer.strip():
            hint = "give the answer to explain: --answer TEXT"
            raise DataError("the answer is empty: there is nothing to explain", hint=hint)
        return answer

    def _head(self, lm: LocalLM, question: ExplanationRequest) -> Subject:
        """A class of a model with a sequence head, or a class and not another."""
        if question.part:
            raise DataError("a class has no part to explain", hint="leave `part` out")
        chosen = question.answer
        if chosen is None:
            (scores,) = lm.classify([(question.messages, question.tools)])
            chosen = lm.classes[max(range(len(scores)), key=scores.__getitem__)]
        messages = lm.before.wrap(question.messages)
        targets = [
            TargetTokens((find_class(lm.classes, name),), (sign,))
            for name, sign in ((chosen, 1.0), (question.against, -1.0))
            if name
        ]
        target = ExplanationTarget(
            kind="contrast" if question.against else "class", text=chosen, against=question.against
        )
        return self._subject(lm, lm.text.locate_tokens(messages, question.tools), messages, targets, target)

    def _reward(self, lm: LocalLM, question: ExplanationRequest) -> Subject:
        """The reward of an answer; the answer's own words are units, too."""
        if question.against or question.part:
            raise DataError("a reward is one number", hint="leave `against` and `part` out")
        if not (question.answer or "").strip():
            raise DataError("a reward model scores an answer, and none is given", hint="give --answer TEXT")
        messages = lm.before.wrap((*question.messages, Message(role="assistant", content=question.answer or "")))
        located = lm.text.locate_tokens(messages, question.tools, answered=True)
        target = ExplanationTarget(kind="reward", text=question.answer or "")
        return self._subject(lm, located, messages, [TargetTokens((0,), (1.0,))], target)

    def _subject(
        self,
        lm: LocalLM,
        located: LocatedTokens,
        messages: Sequence[Message],
        targets: Sequence[TargetTokens],
        target: ExplanationTarget,
    ) -> Subject:
        longest = len(located.ids) + max(len(target_tokens.ids) for target_tokens in targets)
        most = min(lm.context, self._max_tokens or lm.context)
        if longest > most:
            limit = f"the model reads {most:,} at once" if most == lm.context else f"{most:,} are allowed"
            what = f"the prompt with its answer has {longest:,} tokens, and {limit}"
            raise DataError(what, hint="explain a shorter conversation: nothing is cut off silently")
        media = lm.text.media if any(message.media for message in messages) else None
        patches = cut_pictures(located.ids, messages, media) if media is not None else []

        def recut(kind: UnitKind) -> CutPrompt:
            text_units = locate_units(located, messages, "turns" if kind in ("patches", "seconds") else kind)
            return add_patches(text_units, patches)._replace(kind=kind) if patches else text_units

        cut = recut(self._kind(messages))
        scorer = LocalPromptScorer(lm.loaded.model, cut, located.ids, targets, target.kind, media)
        pictures = show_pictures(messages, self._read_media) if patches and self._read_media is not None else ()
        prompt = ExplainedPrompt(scorer, PromptGradients(scorer), self._seed)
        return Subject(prompt, target, recut, (_PATCHES,) if patches else (), pictures)

    def _kind(self, messages: Sequence[Message]) -> UnitKind:
        if self._units != "auto":
            return self._units
        return choose_unit_kind([message.content.replace(MEDIA_MARK, "") for message in messages])

    def _text_kind(self, messages: Sequence[Message]) -> UnitKind:
        kind = self._kind(messages)
        if kind == "tokens" and self._units == "tokens":
            hint = "take `words`: the model's tokenizer is not here"
            raise ModelError("this model has no tokens here", where=SourceLocation(field="units"), hint=hint)
        return "words" if kind == "tokens" else kind

    def _classifier(self, question: ExplanationRequest) -> Subject:
        """A class of a plain classifier of words."""
        from luthier.models.text_classifier import TextClassifier

        if question.part:
            raise DataError("a class has no part to explain", hint="leave `part` out")
        classifier = TextClassifier.open(self.model.folder)
        cut = cut_messages(question.messages, self._text_kind(question.messages))
        scorer = ClassifierPromptScorer(classifier, cut, question.messages, question.answer, question.against)
        target = ExplanationTarget(kind=scorer.kind, text=scorer.chosen, against=question.against)
        recut = partial(cut_messages, question.messages)
        return Subject(ExplainedPrompt(scorer, None, self._seed), target, recut, (_TEXT_ONLY,))

    def _endpoint(self, question: ExplanationRequest) -> Subject:
        """The answer of an endpoint: how alike its answers are without units."""
        from luthier.models.lm.openai_client import EndpointLM

        if question.part or question.against:
            raise DataError("an endpoint tells no log-probabilities", hint="leave `part` and `against` out")
        lm = EndpointLM.of(self.model)
        messages = lm.before.wrap(question.messages)
        cut = cut_messages(messages, self._text_kind(messages))
        scorer = EndpointPromptScorer(lm, cut, messages, question.answer)
        if not scorer.answer.strip():
            raise DataError("the answer is empty: there is nothing to explain", hint="give --answer TEXT")
        target = ExplanationTarget(kind="likeness", text=scorer.answer)
        recut = partial(cut_messages, messages)
        return Subject(ExplainedPrompt(scorer, None, self._seed), target, recut, (_TEXT_ONLY, _LIKENESS))


_PATCHES = (
    "A patch of a picture, or a stretch of a sound, is removed by the mean of the medium's features in its place: the "
    "layout stays"
)
_TEXT_ONLY = "No gradients can be taken of this model: units were taken away, and nothing else was possible"
_LIKENESS = (
    "The endpoint tells no log-probabilities of an answer: the value is the share of words that answers have in common"
)


def find_class(classes: Sequence[str], name: str) -> int:
    """The number of a class by its name; `ModelError` where the head has none of that name."""
    if name not in classes:
        raise ModelError(f"the model's head has no class {name!r}", hint=did_you_mean(name, classes))
    return list(classes).index(name)


def _check_units(cut: CutPrompt) -> None:
    if len(cut.units) < _FEWEST:
        finer = {"sentences": "words", "words": "tokens", "tokens": None}.get(cut.kind, "sentences")
        what = f"the prompt has {'one unit' if cut.units else 'no unit'} ({cut.kind}): there is nothing to compare"
        hint = f"take finer units: --units {finer}" if finer else "give a longer text"
        raise DataError(what, where=SourceLocation(field="units"), hint=hint)


def _weigh_part(lm: LocalLM, ids: Sequence[int], question: ExplanationRequest) -> list[float]:
    """1 for the tokens of an answer that overlap a part of it, else 0."""
    answer, begin = question.answer or "", (question.answer or "").find(question.part)
    if begin < 0:
        where = SourceLocation(field="part")
        raise DataError(f"{question.part!r} is not in the answer {answer!r}", where=where, hint="copy it from there")
    ends = [len(lm.text.decode(ids[: count + 1], special=False)) for count in range(len(ids))]
    starts = [0, *ends[:-1]]
    end = begin + len(question.part)
    weights = [1.0 if start < end and stop > begin else 0.0 for start, stop in zip(starts, ends, strict=True)]
    last = max(at for at, weight in enumerate(weights) if weight)
    return weights[: last + 1] + [0.0] * (len(ids) - last - 1)
