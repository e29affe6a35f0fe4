"""Incremental detokenization, stop strings and the output of a request.

No piece splits a character, and no part of a stop string is sent. The pieces together equal the text of all ids decoded
at once, with one exception: where a SentencePiece model writes invalid bytes directly after valid characters, decoding
at once also breaks those characters, and the pieces keep them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from luthier.chat.messages import ToolCall
from luthier.chat.tokenizer import ChatTokenizer
from luthier.chat.tool_calls import ParsedChunk, ToolCallFormat, ToolCallParser, partial_match_length
from luthier.serve.request import EngineRequest, Finish, OutputChunk, TokenCandidate, TokenLogprobs, Usage

if TYPE_CHECKING:
    from luthier.models.generation.sampling import SampledToken, TokenOutput
    from luthier.serve.engine_loop import EngineOutput

Decode = Callable[[Sequence[int]], str]
_BROKEN = "\ufffd"
"""Replacement of bytes that are not a complete character."""


class IncrementalDetokenizer:
    """Turns ids into text as they come. Only the last few are decoded again, so that long answers cost no more."""

    def __init__(self, decode: Decode, silent: Collection[int] = ()) -> None:
        """`silent` ids write nothing: end tokens and, unless they are wanted, special ones."""
        self._decode, self._silent = decode, silent
        self._ids: list[int] = []
        self._front = 0
        """Where the window begins: at ids whose text is certain, which stand there since some tokenizers write the
        first token of a text otherwise."""
        self._certain = 0
        self._emit = 0
        """Characters of the window that were given away."""

    def add(self, token: int) -> str:
        """The text that is certain now and was not before."""
        if token in self._silent:
            return ""
        self._ids.append(token)
        text = self._decode(self._ids[self._front :])
        whole = text.rstrip(_BROKEN)
        piece = whole[self._emit :]
        self._emit = max(self._emit, len(whole))
        if len(whole) == len(text):
            self._move()
        return piece

    def rest(self) -> str:
        """Return the rest when no more ids come: an incomplete character."""
        text = self._decode(self._ids[self._front :]) if self._ids else ""
        piece, self._emit = text[self._emit :], len(text)
        return piece

    def _move(self) -> None:
        """Move the window to the last ids whose text is final."""
        self._front, self._certain = self._certain, len(self._ids)
        self._emit = len(self._decode(self._ids[self._front : self._certain]))


class StopChecker:
    """Finds the first of several stop texts in what is written, also when it comes in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """Return the text that is safe to send: nothing from a stop string on, and nothing that may become one."""
        if self.found:
            return ""
        if not self._stops:
            return text
        self._held += text
        positions = [position for stop in self._stops if (position := self._held.find(stop)) >= 0]
        if positions:
            self.found = True
            return self._held[: min(positions)]
        keep = max(partial_match_length(self._held, stop) for stop in self._stops)
        given, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return given

    def rest(self) -> str:
        """Return the held-back text, when no more comes."""
        given, self._held = ("" if self.found else self._held), ""
        return given


class DetokenizerFactory:
    """Creates detokenizers and token log-probability records for one model's tokenizer."""

    def __init__(self, text: ChatTokenizer, raw: Callable[[int], bytes]) -> None:
        self._text, self._raw = text, raw
        self.ends = text.end_ids
        self._special = frozenset(text.tokenizer.all_special_ids) | self.ends

    def letters(self, *, special: bool) -> IncrementalDetokenizer:
        """A new answer's ids to text; with `special`, special tokens that do not end it are written out."""
        return IncrementalDetokenizer(self._text.decode, self.ends if special else self._special)

    def prompt(
        self, ids: Sequence[int], following: Sequence[SampledToken], *, by_id: bool
    ) -> tuple[TokenLogprobs, ...]:
        """The tokens of a prompt, from all but the first with their log-probabilities."""
        first = TokenLogprobs(chosen=self._candidate(ids[0], None, by_id=by_id))
        return (first, *(self.token(sampled_token, by_id=by_id) for sampled_token in following))

    def token(self, written: TokenOutput | SampledToken, *, by_id: bool = False) -> TokenLogprobs:
        """A token with its log-probability and those of the likeliest."""
        top = tuple(self._candidate(*entry, by_id=by_id) for entry in written.top)
        return TokenLogprobs(chosen=self._candidate(written.token, written.logprob, by_id=by_id), top=top)

    def _candidate(self, token: int, logprob: float | None, *, by_id: bool) -> TokenCandidate:
        raw = self._raw(token)
        return TokenCandidate(f"token_id:{token}" if by_id else raw.decode("utf-8", "replace"), raw, logprob)


class OutputProcessor:
    """Turns the tokens of one answer into output chunks: detokenizes, stops, and parses tool calls."""

    def __init__(
        self,
        answer: int,
        query: EngineRequest,
        spelling: DetokenizerFactory,
        form: ToolCallFormat | None,
        prompt_tokens: int,
    ) -> None:
        self._answer, self._spelling, self._wanted = answer, spelling, query.logprobs
        self._by_id = query.by_id
        self._prompt_tokens = prompt_tokens
        tools = query.tools
        self._letters = spelling.letters(special=tools is not None)
        self._calls = ToolCallParser(form, set(tools.by_name)) if tools is not None and form is not None else None
        self._alone = tools is not None and not tools.parallel
        self._ending = StopChecker(query.stop)
        self._tokens: deque[tuple[int, TokenLogprobs]] = deque()
        """Tokens that are not told yet, and the length of the text up to the end of each."""
        self._written, self._given, self._count = 0, 0, 0
        self.over = False

    def take(self, output: EngineOutput) -> OutputChunk | None:
        """The next token's piece; None when nothing is certain yet. A stop text ends the answer before its limit."""
        assert output.written is not None, "a refusal is no token"
        written = output.written
        self._count += 1
        text = self._letters.add(written.token)
        if written.finish is not None:
            text += self._letters.rest()
        self._written += len(text)
        if self._wanted and (self._by_id or written.token not in self._spelling.ends):
            self._tokens.append((self._written, self._spelling.token(written, by_id=self._by_id)))
        return self._emit(text, written.finish, output.cached)

    def end(self, finish: Finish, cached: int) -> OutputChunk:
        """Return the last chunk, where the end comes separately from the last token."""
        piece = self._emit(self._letters.rest(), finish, cached)
        assert piece is not None, "an end is always told"
        return piece

    def _emit(self, text: str, finish: Finish | None, cached: int) -> OutputChunk | None:
        visible_text, calls = self._parted(text, last=finish is not None)
        finish = self._finish(finish, calls)
        self.over = finish is not None
        self._given += len(visible_text)
        return self._piece(visible_text, calls, finish, cached)

    def _parted(self, text: str, *, last: bool) -> tuple[str, Sequence[ToolCall]]:
        """Split the text into content and tool calls."""
        read = ParsedChunk(text) if self._calls is None else self._calls.add(text)
        plain, calls = read.text, list(read.calls)
        if last and self._calls is not None:
            plain += self._calls.rest().text
        visible_text = self._ending.add(plain)
        if last:
            visible_text += self._ending.rest()
        return visible_text, calls[:1] if self._alone else calls

    def _finish(self, finish: Finish | None, calls: Sequence[ToolCall]) -> Finish | None:
        called = self._calls is not None and self._calls.called
        if self._alone and calls:
            return "tool_calls"
        if self._ending.found:
            return "stop"
        return "tool_calls" if called and finish == "stop" else finish

    def _piece(
        self, visible_text: str, calls: Sequence[ToolCall], finish: Finish | None, cached: int
    ) -> OutputChunk | None:
        tokens = self._certain(ended=finish is not None and not self._ending.found)
        if not (visible_text or tokens or calls or finish):
            return None
        usage = Usage(prompt_tokens=self._prompt_tokens, cached_tokens=cached, completion_tokens=self._count)
        return OutputChunk(
            answer=self._answer,
            text=visible_text,
            tokens=tokens,
            calls=tuple(call.model_copy(update={"id": f"call_{secrets.token_hex(12)}"}) for call in calls),
            finish=finish,
            usage=usage if finish else None,
        )

    def _certain(self, *, ended: bool) -> tuple[TokenLogprobs, ...]:
        """Tokens whose whole text was given away; all that are left when the answer has ended by itself."""
        found = []
        while self._tokens and (ended or self._calls is not None or self._tokens[0][0] <= self._given):
            found.append(self._tokens.popleft()[1])
        return tuple(found)


Pieces = AsyncGenerator[OutputChunk, None]


async def merge_output_streams(streams: Sequence[Pieces], each: int) -> Pieces:
    """Merge the output streams of several answers into one, and number the answers; the first failure ends all. With
    the first that fails, all end."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for piece in only:
                yield piece
        return
    came: asyncio.Queue[OutputChunk | Exception | None] = asyncio.Queue(maxsize=64)
    tasks = [asyncio.create_task(_pump(stream, number * each, came)) for number, stream in enumerate(streams)]
    try:
        left = len(tasks)
        while left:
            found = await came.get()
            if isinstance(found, Exception):
                raise found
            if found is None:
                left -= 1
            else:
                yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(stream: Pieces, first: int, came: asyncio.Queue[OutputChunk | Exception | None]) -> None:
    try:
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                await came.put(replace(piece, answer=first + piece.answer))
        await came.put(None)
    except Exception as error:  # noqa: BLE001  # it is raised where the pieces are awaited
        await came.put(error)
