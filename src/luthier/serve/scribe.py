"""From the tokens that a decoder writes to the pieces of an answer: text, calls, log-probabilities, and its end."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from luthier.serve.letters import Ending, Letters
from luthier.serve.query import Candidate, Finish, Piece, Query, Token, Usage
from luthier.text.calls import CallForm, CallReader, Read
from luthier.text.ids import Text
from luthier.text.messages import ToolCall

if TYPE_CHECKING:
    from luthier.models.decoding.ask import Written
    from luthier.serve.writer import Told


class Spelling:
    """How one model's tokens are spelled."""

    def __init__(self, text: Text, raw: Callable[[int], bytes]) -> None:
        self._text, self._raw = text, raw
        self.ends = text.end_ids
        self._special = frozenset(text.tokenizer.all_special_ids) | self.ends

    def letters(self, *, special: bool) -> Letters:
        """A new answer's ids to text; with `special`, special tokens that do not end it are written out."""
        return Letters(self._text.decode, self.ends if special else self._special)

    def token(self, written: Written, *, by_id: bool = False) -> Token:
        """A token with its log-probability and those of the likeliest."""
        top = tuple(self._candidate(*one, by_id=by_id) for one in written.top)
        return Token(chosen=self._candidate(written.token, written.logprob, by_id=by_id), top=top)

    def _candidate(self, token: int, logprob: float, *, by_id: bool) -> Candidate:
        raw = self._raw(token)
        return Candidate(f"token_id:{token}" if by_id else raw.decode("utf-8", "replace"), raw, logprob)


class Scribe:
    """Writes one of the answers to a query."""

    def __init__(
        self, answer: int, query: Query, spelling: Spelling, form: CallForm | None, prompt_tokens: int
    ) -> None:
        self._answer, self._spelling, self._wanted = answer, spelling, query.logprobs
        self._by_id = query.by_id
        self._prompt_tokens = prompt_tokens
        tools = query.tools
        self._letters = spelling.letters(special=tools is not None)
        self._calls = CallReader(form, set(tools.by_name)) if tools is not None and form is not None else None
        self._alone = tools is not None and not tools.parallel
        self._ending = Ending(query.stop)
        self._tokens: deque[tuple[int, Token]] = deque()
        """Tokens that are not told yet, and the length of the text up to the end of each."""
        self._written, self._given, self._count = 0, 0, 0
        self.over = False

    def take(self, told: Told) -> Piece | None:
        """The next token's piece; None when nothing is certain yet. A stop text ends the answer before its limit."""
        assert told.written is not None, "a refusal is no token"
        written = told.written
        self._count += 1
        text = self._letters.add(written.token)
        if written.finish is not None:
            text += self._letters.rest()
        self._written += len(text)
        if self._wanted and (self._by_id or written.token not in self._spelling.ends):
            self._tokens.append((self._written, self._spelling.token(written, by_id=self._by_id)))
        return self._told(text, written.finish, told.cached)

    def end(self, finish: Finish, cached: int) -> Piece:
        """The last piece, where the end is told apart from the last token."""
        piece = self._told(self._letters.rest(), finish, cached)
        assert piece is not None, "an end is always told"
        return piece

    def _told(self, text: str, finish: Finish | None, cached: int) -> Piece | None:
        said, calls = self._parted(text, last=finish is not None)
        finish = self._finish(finish, calls)
        self.over = finish is not None
        self._given += len(said)
        return self._piece(said, calls, finish, cached)

    def _parted(self, text: str, *, last: bool) -> tuple[str, Sequence[ToolCall]]:
        """What of the text is said, and what is called."""
        read = Read(text) if self._calls is None else self._calls.add(text)
        plain, calls = read.text, list(read.calls)
        if last and self._calls is not None:
            plain += self._calls.rest().text
        said = self._ending.add(plain)
        if last:
            said += self._ending.rest()
        return said, calls[:1] if self._alone else calls

    def _finish(self, finish: Finish | None, calls: Sequence[ToolCall]) -> Finish | None:
        called = self._calls is not None and self._calls.called
        if self._alone and calls:
            return "tool_calls"
        if self._ending.found:
            return "stop"
        return "tool_calls" if called and finish == "stop" else finish

    def _piece(self, said: str, calls: Sequence[ToolCall], finish: Finish | None, cached: int) -> Piece | None:
        tokens = self._certain(ended=finish is not None and not self._ending.found)
        if not (said or tokens or calls or finish):
            return None
        usage = Usage(prompt_tokens=self._prompt_tokens, cached_tokens=cached, completion_tokens=self._count)
        return Piece(
            answer=self._answer,
            text=said,
            tokens=tokens,
            calls=tuple(call.model_copy(update={"id": f"call_{secrets.token_hex(12)}"}) for call in calls),
            finish=finish,
            usage=usage if finish else None,
        )

    def _certain(self, *, ended: bool) -> tuple[Token, ...]:
        """Tokens whose whole text was given away; all that are left when the answer has ended by itself."""
        found = []
        while self._tokens and (ended or self._calls is not None or self._tokens[0][0] <= self._given):
            found.append(self._tokens.popleft()[1])
        return tuple(found)
