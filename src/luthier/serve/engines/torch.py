"""Luthier's own engine: one model in this process, many answers at once."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.chat.speech import SpeechProcessor
from luthier.chat.tool_calls import ToolCallFormat
from luthier.core.artifact import Artifact
from luthier.core.errors import LuthierError, ModelError
from luthier.serve.detokenizer import DetokenizerFactory, OutputProcessor
from luthier.serve.engine import ModelRunner, ServingEngine
from luthier.serve.engine_loop import DecodeJob, EngineLimits, EngineOutput, ModelHandle, open_decoder_model
from luthier.serve.openai.protocol import APIError, ModelUnavailableError, to_api_error
from luthier.serve.request import EngineRequest, OutputChunk, TokenLogprobs, Usage
from luthier.serve.structured import GrammarCompiler

if TYPE_CHECKING:
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.generation.sampling import GenerationRequest

_SEEDS = 1 << 40


class TorchEngine(ServingEngine):
    """Write with the weights in this process: all requests in one batch, what prompts share computed once.

    Without a temperature of their own, requests are answered greedily, as evaluation measured the model; a greedy
    answer is the same whoever else is being answered.
    """

    kind: Literal["torch"] = "torch"

    max_num_batched_tokens: int = Field(default=16_384, ge=64)
    """Tokens that are held at once, prompts and answers of all requests to one base together: what bounds memory."""
    max_num_seqs: int = Field(default=64, ge=1)
    """Answers that are written at the same time, at most, by all models over one base together."""
    max_queue_size: int = Field(default=64, ge=1)
    """Answers that wait for their turn, at most; whoever comes then is told to come back (429)."""
    max_new_tokens: int = Field(default=1024, ge=1)
    """Longest answer where a request names none."""
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    """Where a request names none; 0 always takes the likeliest token, 1 is OpenAI's default."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What is computed in; `auto` is bfloat16 where the machine computes in it, else float32."""

    def open(self, model: Artifact) -> ModelRunner:
        """Load the weights; of plain LoRA only the adapter's where another model shares the base."""
        from luthier.chat.prompt import PromptPrefix
        from luthier.chat.tokenizer import ChatTokenizer
        from luthier.models.load import find_base_folder, get_model_name, get_output_classes, is_endpoint

        if is_endpoint(model) or get_output_classes(model):
            what = "answers elsewhere" if is_endpoint(model) else "names classes and writes no text"
            kind = "remote" if is_endpoint(model) else "label"
            raise ModelError(f"{get_model_name(model)} {what}", hint=f"serve it with the engine `{kind}`")
        text = ChatTokenizer.load(find_base_folder(model), before=PromptPrefix.of(model))
        room = EngineLimits(self.max_num_batched_tokens, self.max_num_seqs, self.max_queue_size, self.dtype)
        return _Open(self, text, open_decoder_model(model, room), model.digest)


@dataclass
class _Asked:
    asks: list[GenerationRequest]
    ids: list[int]


class _Open(ModelRunner):
    """A model in this process."""

    echoes = True

    def __init__(self, settings: TorchEngine, text: ChatTokenizer, standing: ModelHandle, digest: str) -> None:
        super().__init__(digest)
        self._settings, self._text, self._standing = settings, text, standing
        self._writer, self._vocabulary = standing.base.writer, standing.base.vocabulary
        self._calls = ToolCallFormat.of(text)
        self._ends = text.end_ids
        standing.base.read_media_with(text)
        self.reads_media, self.transcribes = text.media is not None, isinstance(text.media, SpeechProcessor)
        self._languages: dict[str, ChatTokenizer] = {}
        self._going: dict[DecodeJob, _Inbox] = {}
        self._closed = False
        self._grammars = GrammarCompiler(text, self._vocabulary)
        self._spelling = DetokenizerFactory(text, self._grammars.raw)

    @property
    def waiting(self) -> int:
        return len(self._going) - self.running

    @property
    def running(self) -> int:
        return sum(job.ticket is not None for job in self._going)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for job, inbox in self._going.items():
            inbox.put(job, EngineOutput(refusal=ModelUnavailableError("the model was closed")))
        self._writer.cancel(list(self._going))
        await asyncio.to_thread(self._standing.leave)

    async def answer(self, query: EngineRequest) -> AsyncGenerator[OutputChunk, None]:
        with self._standing.base.media.hold(query.media):
            async with aclosing(self._answer(query)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _answer(self, query: EngineRequest) -> AsyncGenerator[OutputChunk, None]:
        prepared = await asyncio.to_thread(self._asked, query)
        if self._closed:
            raise ModelUnavailableError("the model was closed")
        if query.echo:
            prompt = await asyncio.to_thread(self._echo, query, prepared.ids)
            for number in range(query.answers):
                yield replace(prompt, answer=number)
        if not prepared.asks:
            return
        inbox = _Inbox()
        jobs = self._writer.submit(prepared.asks, inbox.put)
        self._going |= dict.fromkeys(jobs, inbox)
        scribes = {job: self._scribe(number, query, prepared) for number, job in enumerate(jobs)}
        left = len(jobs)
        try:
            while left:
                for job, output in await inbox.get():
                    if scribes[job].over:
                        continue
                    if output.refusal is not None:
                        raise output.refusal
                    piece = scribes[job].take(output)
                    if scribes[job].over:
                        left -= 1
                        self._let_go([job])
                    if piece is not None:
                        yield piece
        finally:
            self._let_go(jobs)

    def _let_go(self, jobs: Sequence[DecodeJob]) -> None:
        self._writer.cancel(jobs)
        for job in jobs:
            self._going.pop(job, None)

    def _scribe(self, number: int, query: EngineRequest, prepared: _Asked) -> OutputProcessor:
        return OutputProcessor(number, query, self._spelling, self._calls, len(prepared.ids))

    def _echo(self, query: EngineRequest, ids: list[int]) -> OutputChunk:
        """Return the echoed prompt: the start of an answer, or all of it where nothing is generated."""
        tokens: tuple[TokenLogprobs, ...] = ()
        if query.logprobs:
            adapter, top = self._standing.adapter, query.top_logprobs
            following = self._writer.work(lambda decoder: decoder.prompt_logprobs(ids, top, adapter))
            tokens = self._spelling.prompt(ids, following, by_id=query.by_id)
        text = query.text if isinstance(query.text, str) else self._text.decode(ids)
        if query.max_tokens == 0:
            return OutputChunk(text=text, tokens=tokens, finish="length", usage=Usage(prompt_tokens=len(ids)))
        return OutputChunk(text=text, tokens=tokens)

    def _asked(self, query: EngineRequest) -> _Asked:
        """The query as ids, limits and grammars; `APIError` for what this model cannot do."""
        from luthier.models.generation.sampling import GenerationRequest, SamplingParams

        ids = self._ids(query)
        param = "messages" if query.verb == "chat" else "prompt"
        limit = self._limit(len(ids), query, param)
        grammar = self._grammar(query)
        temperature = self._settings.temperature if query.temperature is None else query.temperature
        seed = secrets.randbelow(_SEEDS) if query.seed is None else query.seed % _SEEDS
        sampling = SamplingParams(temperature=temperature, top_p=1.0 if query.top_p is None else query.top_p, seed=seed)
        asks = [
            GenerationRequest(
                ids=ids,
                max_new_tokens=limit,
                stop=self._ends,
                sampling=sampling,
                stream=number,
                adapter=self._standing.adapter,
                top_logprobs=query.top_logprobs,
                allowed=None if grammar is None else self._grammars.follow(grammar),
            )
            for number in range(query.answers if limit else 0)
        ]
        return _Asked(asks, ids)

    def _ids(self, query: EngineRequest) -> list[int]:
        from luthier.chat.plain_text import bos_or_eos_id, encode_plain_texts

        if query.text is None:
            return self._conversation(query)
        if not isinstance(query.text, str):
            if any(not 0 <= token < self._vocabulary for token in query.text):
                raise APIError(f"token ids go from 0 to {self._vocabulary - 1}", param="prompt")
            return list(query.text)
        return encode_plain_texts(self._text, [query.text])[0] or [bos_or_eos_id(self._text)]

    def _conversation(self, query: EngineRequest) -> list[int]:
        tools = query.tools
        if tools is not None and self._calls is None:
            what = "this model's chat template has no place for calls of functions, or writes them in an unknown form"
            raise APIError(what, param="tools", code="unsupported_parameter")
        try:
            text = self._text if query.language is None else self._speak(query.language)
            return text.prompt(query.messages, [] if tools is None else tools.offered)
        except LuthierError as error:
            raise to_api_error(error, "messages") from error

    def _speak(self, language: str) -> ChatTokenizer:
        """Messages to ids for sounds of a language."""
        media = self._text.media
        if not isinstance(media, SpeechProcessor) or language not in (media.languages or ("en",)):
            known = ", ".join(sorted(getattr(media, "languages", ()))[:8]) or "en"
            raise APIError(f"this model knows no language {language[:40]!r}; it knows {known}", param="language")
        if language not in self._languages:
            own = self._text.with_options({"language": language} if media.languages else {})
            self._languages[language] = own
        return self._languages[language]

    def _limit(self, prompt: int, query: EngineRequest, param: str) -> int:
        """Return the maximum tokens of the answer."""
        context, requested = self._writer.context, query.max_tokens
        least = 0 if requested == 0 else 1
        if prompt + least > context:
            what = f"the prompt has {prompt} tokens; this model reads {context}, prompt and answer together"
            raise APIError(what, param=param, code="context_length_exceeded")
        room = min(context, self._settings.max_num_batched_tokens) - prompt
        if room < least or (requested is not None and requested > room):
            what = f"the prompt has {prompt} tokens and {requested or 'some'} more are asked; there is room for {room}"
            raise APIError(what, param="max_tokens", code="context_length_exceeded")
        return min(room, self._settings.max_new_tokens) if requested is None else requested

    def _grammar(self, query: EngineRequest) -> str | None:
        if query.tools is not None and query.tools.choice == "required" and self._calls is not None:
            return self._grammars.calls(self._calls, query.tools.by_name, many=query.tools.parallel)
        return None if query.schema is None else self._grammars.json(query.schema)


class _Inbox:
    """Brings what the writer's thread tells over to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._came: list[tuple[DecodeJob, EngineOutput]] = []
        self._bell = asyncio.Event()

    def put(self, job: DecodeJob, output: EngineOutput) -> None:
        """Called by the writer."""
        with self._lock:
            self._came.append((job, output))
            first = len(self._came) == 1
        if first:
            try:
                self._loop.call_soon_threadsafe(self._bell.set)
            except RuntimeError:
                return  # the loop is closed: nobody listens any more

    async def get(self) -> Sequence[tuple[DecodeJob, EngineOutput]]:
        """Everything that came since the last time."""
        await self._bell.wait()
        self._bell.clear()
        with self._lock:
            came, self._came = self._came, []
        return came
