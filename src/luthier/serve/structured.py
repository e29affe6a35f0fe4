"""Constrained decoding by llguidance: JSON of a schema, or tool calls.

A grammar is compiled once a request and followed token by token. It is the library's automaton over bytes, so that any
tokenizer writes exactly the texts of the grammar, and only the model chooses among them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.chat.tokenizer import ChatTokenizer
from luthier.chat.tool_calls import ToolCallFormat
from luthier.serve.openai.protocol import APIError

if TYPE_CHECKING:
    from torch import Tensor

_COMPACT: Any = {"whitespace_flexible": False}
"""Blanks between JSON's signs are the library's, one after each comma and colon: a model cannot write blanks on and
on."""
MOST_BYTES = 100_000
"""The longest schema that is compiled."""


class GrammarCompiler:
    """Compiles grammars for one model."""

    def __init__(self, text: ChatTokenizer, vocabulary: int) -> None:
        """`vocabulary` is how many ids the model chooses among."""
        from llguidance.hf import from_tokenizer

        ends = sorted(text.end_ids) or None
        wide = max(vocabulary, text.vocabulary)
        self._text, self._vocabulary = text, vocabulary
        self._tokenizer = from_tokenizer(text.tokenizer, n_vocab=wide, eos_token=ends)

    def raw(self, token: int) -> bytes:
        """The bytes that a token writes."""
        return bytes(self._tokenizer.decode_bytes([token]))

    def json(self, schema: Mapping[str, Any]) -> str:
        """The grammar of a JSON schema; `APIError` for what the library cannot keep."""
        from llguidance import LLMatcher

        written = json.dumps(schema)
        if len(written) > MOST_BYTES:
            raise APIError(f"the schema has {len(written)} bytes; {MOST_BYTES} are read", param="response_format")
        return self._checked(LLMatcher.grammar_from_json_schema(written, overrides=_COMPACT), "response_format")

    def calls(self, form: ToolCallFormat, functions: Mapping[str, Mapping[str, Any]], *, many: bool) -> str:
        """The grammar of one call, or of several, of given functions with the schemas of their arguments."""
        from llguidance import LLMatcher

        each = [f"call{number}" for number in range(len(functions))]
        rules = [
            f"{rule}: {_literal('{' + json.dumps(form.name) + ': ' + json.dumps(name) + ', ')} "
            f"{_literal(json.dumps(form.arguments) + ': ')} {rule}_given {_literal('}')}\n"
            f"{rule}_given: %json {json.dumps({**schema, 'x-guidance': _COMPACT})}"
            for rule, (name, schema) in zip(each, functions.items(), strict=True)
        ]
        whole = f"call: {self._written(form.opening)} ({' | '.join(each)}) {self._written(form.closing)}"
        start = 'start: call ("\\n" call)*' if many and form.opening else "start: call"
        return self._checked(LLMatcher.grammar_from_lark("\n".join([start, whole, *rules])), "tools")

    def follow(self, grammar: str) -> Callable[[Sequence[int]], Tensor | None]:
        """Return a function of the tokens so far to the allowed next tokens."""
        return _Follower(self._tokenizer, grammar, self._vocabulary, self._text.end_ids)

    def _checked(self, grammar: str, param: str) -> str:
        from llguidance import LLMatcher

        if (message := LLMatcher.validate_grammar(grammar, self._tokenizer)) and not message.startswith("WARNING"):
            raise APIError(f"this schema cannot be kept: {message.splitlines()[0][:300]}", param=param)
        return grammar

    def _written(self, text: str) -> str:
        """A text in the grammar's language: added tokens (special ones, and tags such as `<tool_call>`) by their ids,
        all else letter by letter."""
        added: Mapping[str, int] = self._text.tokenizer.added_tokens_encoder
        for token in sorted(added, key=len, reverse=True):
            before, found, after = text.partition(token)
            if found:
                return f"{self._written(before)} <[{added[token]}]> {self._written(after)}"
        return _literal(text) if text else ""


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=True)


class _Follower:
    """Walks a grammar along what is written. It never raises in the middle of a batch: where the library gives up, the
    answer ends."""

    def __init__(self, tokenizer: Any, grammar: str, vocabulary: int, ends: frozenset[int]) -> None:
        from llguidance import LLMatcher

        self._matcher = LLMatcher(tokenizer, grammar)
        self._vocabulary, self._ends = vocabulary, sorted(ends)
        self._read = 0

    def __call__(self, written: Sequence[int]) -> Tensor | None:
        """(vocab,) bool."""
        import torch

        for token in written[self._read :]:
            self._matcher.consume_token(token)
        self._read = len(written)
        if self._matcher.is_error() or self._matcher.is_stopped():
            mask = torch.zeros(self._vocabulary, dtype=torch.bool)
            mask[self._ends] = True
            return mask
        logit_bias = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        return logit_bias[: self._vocabulary] != 0
