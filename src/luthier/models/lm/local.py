"""A language model with local weights: shared prefixes of requests are computed once."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from luthier.chat.prompt import PromptPrefix
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError
from luthier.core.hashing import digest_of
from luthier.core.system.process import trim_malloc_heap
from luthier.models.lm.base import (
    ABILITIES,
    ChoiceRequest,
    ChoiceResponse,
    GenerateRequest,
    LanguageModel,
    LoglikelihoodRequest,
    Normalize,
    Response,
    RollingLoglikelihoodRequest,
    Tools,
    pick_best_option,
    truncate_at_stop,
)
from luthier.models.load import Dtype, find_base_folder, get_model_name, get_output_classes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.chat.messages import Message
    from luthier.chat.plain_text import LoglikelihoodPair
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.generation.engine import SamplingParams, Stop
    from luthier.models.load import LoadedModel
    from luthier.models.packing.prefix_cache import PrefixCache

PACK_TOKENS = 4096
"""Tokens of a pack: some 100 MB of states for a model of 135 M parameters."""
TAIL = 24
"""Number of last tokens in which stop strings are searched."""
_EMBEDDED = 16
"""Conversations embedded at once."""


_LARGE_BYTES = 64 << 20
"""Weights from which a model is collected as soon as it is dropped. A collection takes a third of a second with torch
imported; smaller models wait for Python's own."""


def _count_bytes(loaded: LoadedModel) -> int:
    """Return the bytes of a model's weights."""
    return sum(weight.nbytes for weight in loaded.model.parameters())


class ModelCache:
    """Keeps the weights of one model and the tokenizers of all, for models that are used in turn."""

    def __init__(self) -> None:
        self._texts: dict[Path, ChatTokenizer] = {}
        self._key: tuple[str, str] | None = None
        self._loaded: LoadedModel | None = None
        self._beginnings: PrefixCache | None = None

    def load(self, artifact: Artifact, dtype: Dtype) -> LoadedModel:
        """Load a model's weights; those of the previous model are freed."""
        from luthier.models.load import load_model

        if self._loaded is None or self._key != (artifact.digest, dtype):
            large = self._loaded is not None and _count_bytes(self._loaded) > _LARGE_BYTES
            self._loaded = self._beginnings = None
            if large:
                gc.collect()  # layers with a forward of their own hold themselves
            trim_malloc_heap()  # else the next model's weights come on top of what the last one's left
            self._loaded = load_model(artifact, dtype)
            self._key = (artifact.digest, dtype)
        return self._loaded

    def text(self, folder: Path) -> ChatTokenizer:
        """Return the tokenizer and chat template of the model in a folder."""
        from luthier.chat.tokenizer import ChatTokenizer

        if folder not in self._texts:
            self._texts[folder] = ChatTokenizer.load(folder)
        return self._texts[folder]

    @property
    def beginnings(self) -> PrefixCache:
        """The prefix cache of the model that was loaded last."""
        from luthier.models.packing.prefix_cache import PrefixCache

        if self._beginnings is None:
            self._beginnings = PrefixCache()
        return self._beginnings


class LocalLM(LanguageModel):
    """A model on this machine; its weights are loaded at the first request.

    With `enable_prefix_caching`, the shared prefix of one call's prompts is reused by the next.
    """

    def __init__(
        self,
        artifact: Artifact,
        dtype: Dtype = "auto",
        *,
        models: ModelCache | None = None,
        before: PromptPrefix | None = None,
        enable_prefix_caching: bool = False,
        read_media: Callable[[str], bytes] | None = None,
    ) -> None:
        """Prepare the model; `read_media` returns the bytes of images and audio by digest, where conversations may have
        some.
        """
        self.name, self.artifact, self.dtype = get_model_name(artifact), artifact, dtype
        self.before = PromptPrefix.of(artifact) if before is None else before
        self.classes = get_output_classes(artifact)
        self.abilities = frozenset() if self.classes else ABILITIES
        self._models, self._caches, self._read_media = models or ModelCache(), enable_prefix_caching, read_media

    @property
    def digest(self) -> str:  # type: ignore[override]  # follows the prompt in front
        """Identifies the weights, the dtype, and the prompt prefix."""
        return digest_of([self.artifact.digest, self.dtype, self.before.digest, self._caches])

    @property
    def loaded(self) -> LoadedModel:
        """The loaded weights."""
        loaded = self._models.load(self.artifact, self.dtype)
        if self._read_media is not None and (media := self.text.media) is not None:
            from luthier.models.media.towers import attach_media

            attach_media(loaded.model, media, self._read_media)
        return loaded

    @property
    def text(self) -> ChatTokenizer:
        """The tokenizer and chat template, without the prompt prefix."""
        return self._models.text(find_base_folder(self.artifact))

    @property
    def context(self) -> int:
        """Context length of the model."""
        from luthier.models.media.encoder_decoder import get_context_length

        return get_context_length(self.loaded.model.config) or 1 << 20

    def with_prompt(self, before: PromptPrefix) -> LocalLM:
        """Return the model with another prompt prefix."""
        local_lm = copy.copy(self)
        local_lm.before = before
        return local_lm

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Response]:
        """Return the completion of each prompt; requests with the same settings are batched."""
        responses: dict[int, Response] = {}
        groups: dict[tuple[object, ...], list[int]] = {}
        for index, request in enumerate(requests):
            seed = request.seed if request.stream is None else None
            settings = (
                request.max_tokens,
                request.stop,
                request.temperature,
                request.top_p,
                seed,
                type(request.prompt),
            )
            groups.setdefault(settings, []).append(index)
        for indices in groups.values():
            responses |= dict(zip(indices, self._generate([requests[index] for index in indices]), strict=True))
        return [responses[index] for index in range(len(requests))]

    def stream(self, request: GenerateRequest) -> Iterator[str]:
        """Yield the completion, token by token."""
        from luthier.models.generate import stream_token_ids

        ids: list[int] = []
        written = ""
        ((prompt, _),), stop = self._prompts([request]), self._stop(request.stop)
        for token in stream_token_ids(self.loaded, prompt, request.max_tokens, stop, sampling=_sampling(request)):
            ids.append(token)
            so_far = self.text.decode(ids, special=False)
            if so_far.endswith("\ufffd"):
                continue  # half of a character: the rest comes with the next token
            yield so_far[len(written) :]
            written = so_far

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> list[Response]:
        """Return the log-likelihood of each continuation; of messages, up to the end token."""
        from luthier.models.generate import compute_loglikelihoods

        pairs = self._pairs(requests)
        greedy = any(request.greedy for request in requests)
        loglikelihoods = compute_loglikelihoods(
            self.loaded.model, [pair[:2] for pair in pairs], greedy=greedy, tokens=PACK_TOKENS, kept=self._beginnings
        )
        return [
            Response(logprob=entry.logprob, tokens=entry.tokens, is_greedy=entry.greedy, truncated=pair.cut)
            for entry, pair in zip(loglikelihoods, pairs, strict=True)
        ]

    def loglikelihood_rolling(self, requests: Sequence[RollingLoglikelihoodRequest]) -> list[Response]:
        """Return the log-likelihood of each text, in windows of the context length."""
        from luthier.chat.plain_text import encode_rolling_windows
        from luthier.models.generate import compute_loglikelihoods

        parts = [encode_rolling_windows(self.text, request.text, self.context) for request in requests]
        loglikelihoods = iter(
            compute_loglikelihoods(self.loaded.model, [pair[:2] for own in parts for pair in own], tokens=PACK_TOKENS)
        )
        sums = [[next(loglikelihoods) for _ in own] for own in parts]
        return [
            Response(
                logprob=sum(loglikelihood.logprob for loglikelihood in own),
                tokens=sum(loglikelihood.tokens for loglikelihood in own),
            )
            for own in sums
        ]

    def embed(self, conversations: Sequence[tuple[Message, ...]], max_tokens: int) -> NDArray[np.float64]:
        """Return (conversations, width): the mean last hidden state over the last `max_tokens` tokens, at
        unit length.
        """
        import numpy as np
        import torch
        from torch.nn.utils.rnn import pad_sequence

        prompts = self._chat_ids([(conversation, ()) for conversation in conversations])
        vectors: list[Any] = [None] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        model = self.loaded.model
        device = next(model.parameters()).device
        for start in range(0, len(order), _EMBEDDED):
            indices = order[start : start + _EMBEDDED]
            ids = [torch.tensor(prompts[index][-max_tokens:], device=device) for index in indices]
            batch = pad_sequence(ids, batch_first=True)
            mask = pad_sequence([torch.ones_like(id_) for id_ in ids], batch_first=True)
            with torch.no_grad():
                record = model(input_ids=batch, attention_mask=mask, output_hidden_states=True, use_cache=False)
            means = (record.hidden_states[-1] * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            unit = torch.nn.functional.normalize(means, dim=1).double().cpu().numpy()
            for index, mean in zip(indices, unit, strict=True):
                vectors[index] = mean
        return np.stack(vectors)

    def choose(self, requests: Sequence[ChoiceRequest], how: Normalize = "sum") -> list[ChoiceResponse]:
        """Return the likeliest option of each request; a sequence head scores its classes, whatever `how` is."""
        if not self.classes:
            return super().choose(requests, how)
        if unknown := sorted({option for request in requests for option in request.options} - {*self.classes}):
            what = f"the model's head has no class {unknown[0]!r}"
            raise DataError(what, hint=f"it was tuned to name {', '.join(self.classes)}")
        rows = self.classify([(request.prompt, request.tools) for request in requests])
        indices = [[self.classes.index(option) for option in request.options] for request in requests]
        return [pick_best_option([row[index] for index in own]) for row, own in zip(rows, indices, strict=True)]

    def classify(self, prompts: Sequence[tuple[tuple[Message, ...], Tools]]) -> list[list[float]]:
        """Return the log-probability of each of `classes` after each conversation with its tools."""
        from luthier.models.generate import score_with_sequence_head

        return score_with_sequence_head(
            self.loaded.model, self._chat_ids(prompts), tokens=PACK_TOKENS, kept=self._beginnings
        )

    def reward(self, conversations: Sequence[tuple[tuple[Message, ...], Tools]]) -> list[float]:
        """Return the reward of each conversation that ends with an answer, with its tools."""
        from luthier.models.generate import compute_model_rewards

        wrapped = [self.before.wrap(messages) for messages, _ in conversations]
        rows = self.text.encode_many(wrapped, [tools for _, tools in conversations])
        return compute_model_rewards(
            self.loaded.model, [row.ids for row in rows], tokens=PACK_TOKENS, kept=self._beginnings
        )

    def count_tokens(self, prompt: Sequence[Message], tools: Tools = ()) -> int:
        """Return the number of prompt tokens of a conversation."""
        return len(self._chat_ids([(prompt, tools)])[0])

    def _generate(self, requests: Sequence[GenerateRequest]) -> list[Response]:
        """Return the completions of prompts with the same settings."""
        from luthier.models.generate import generate

        how = requests[0]
        prompts = self._prompts(requests)
        completions = generate(
            self.loaded,
            [ids for ids, _ in prompts],
            how.max_tokens,
            self._stop(how.stop),
            sampling=_sampling(how),
            streams=[index if request.stream is None else request.stream for index, request in enumerate(requests)],
        )
        return [self._response(ids, how.stop, cut) for ids, (_, cut) in zip(completions, prompts, strict=True)]

    def _response(self, ids: Sequence[int], stop: tuple[str, ...], cut: int) -> Response:
        ends = self.text.end_ids
        written = self.text.decode([id_ for id_ in ids if id_ not in ends], special=False)
        kept = truncate_at_stop(written, stop)
        finished = (bool(ids) and ids[-1] in ends) or kept != written
        return Response(text=kept, tokens=len(ids), finish_reason="stop" if finished else "length", truncated=cut)

    def _prompts(self, requests: Sequence[GenerateRequest]) -> list[tuple[list[int], int]]:
        """Return the ids of prompts of one kind, and how many tokens were dropped at their beginnings."""
        prompts = self._whole_prompts(requests)
        cuts = [
            max(0, len(ids) + request.max_tokens - self.context) if request.truncate_prompt else 0
            for ids, request in zip(prompts, requests, strict=True)
        ]
        return [(ids[cut:], cut) for ids, cut in zip(prompts, cuts, strict=True)]

    def _whole_prompts(self, requests: Sequence[GenerateRequest]) -> list[list[int]]:
        from luthier.chat.plain_text import encode_plain_texts

        if isinstance(requests[0].prompt, str):
            return encode_plain_texts(self.text, [cast("str", request.prompt) for request in requests])
        prompts = [(cast("tuple[Message, ...]", request.prompt), request.tools) for request in requests]
        started = [request.continue_final_message for request in requests]
        whole = iter(self._chat_ids([prompt for prompt, goes_on in zip(prompts, started, strict=True) if not goes_on]))
        return [
            self._render_started_answer(*prompt) if goes_on else next(whole)
            for prompt, goes_on in zip(prompts, started, strict=True)
        ]

    def _render_started_answer(self, messages: Sequence[Message], tools: Tools) -> list[int]:
        """Return the ids of a conversation whose last message is the start of an answer."""
        ids, (started,) = self.text.options(self.before.wrap(messages[:-1]), [messages[-1].content], tools)
        return [*ids, *(entry for entry in started if entry not in self.text.end_ids)]

    def _chat_ids(self, requests: Sequence[tuple[Sequence[Message], Tools]]) -> list[list[int]]:
        return self.text.prompts(
            [self.before.wrap(messages) for messages, _ in requests], [tools for _, tools in requests]
        )

    def _pairs(self, requests: Sequence[LoglikelihoodRequest]) -> list[LoglikelihoodPair]:
        """Return the ids of prompts and continuations, in the order of the requests."""
        from luthier.chat.plain_text import LoglikelihoodPair, encode_loglikelihood_pairs

        pairs: list[LoglikelihoodPair] = []
        key = attrgetter("prompt", "tools", "truncate_prompt", "end_token")
        for (prompt, tools, cuts, ends), run in groupby(requests, key=key):
            continuations = [loglikelihood_request.continuation for loglikelihood_request in run]
            if isinstance(prompt, str):
                pairs += encode_loglikelihood_pairs(
                    self.text, [(prompt, continuation) for continuation in continuations], self.context
                )
                continue
            before, after = self.text.options(self.before.wrap(prompt), continuations, tools)
            if not ends:
                after = [[id_ for id_ in ids if id_ not in self.text.end_ids] for ids in after]
            overs = [_count_overflow(before, ids, self.context) if cuts else 0 for ids in after]
            pairs += [LoglikelihoodPair(before[cut:], ids, cut) for ids, cut in zip(after, overs, strict=True)]
        return pairs

    def _stop(self, ends: tuple[str, ...]) -> Stop:
        """Return the stop condition: an end token, or one of the stop strings in the last tokens."""
        text = self.text
        if not ends:
            return text.end_ids
        return lambda ids: (
            ids[-1] in text.end_ids or truncate_at_stop(text.decode(ids[-TAIL:]), ends) != text.decode(ids[-TAIL:])
        )

    @property
    def _beginnings(self) -> PrefixCache | None:
        return self._models.beginnings if self._caches else None


def _sampling(request: GenerateRequest) -> SamplingParams:
    from luthier.models.generation.engine import SamplingParams

    seed = request.seed if request.stream is None else None
    return SamplingParams(temperature=request.temperature, top_p=request.top_p, seed=seed or 0)


def _count_overflow(before: Sequence[int], after: Sequence[int], limit: int) -> int:
    return max(0, min(len(before) - 1, len(before) + len(after) - limit - 1))
