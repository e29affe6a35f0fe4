"""How many tokens rows have, told without transformers: by the model's own template and tokenizer, where they are here.

What is told is an estimate: the ids that a training reads come from `luthier.text`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.core.spread import spread
from luthier.models.describe import read_object, read_template

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MOST_CHARACTERS = 1_000_000
"""Text that is counted, in about half a second; of longer rows fewer are."""
_PIECES = re.compile(r"[A-Za-z]+|[^\W\d_]+|\d|\n+|[^\w\s]+|_")
"""What a tokenizer parts a text into first: words, single digits, line breaks, runs of other marks."""
_LETTERS, _LETTERS_ELSEWHERE, _MARKS, _BYTES = 8, 4, 2, 3
"""What a token holds where no tokenizer tells: letters of a word of English, or of a text that has other letters, too;
marks of a run; bytes of a word in other letters. Fitted to SmolLM2: texts of eight sets are told to 10 %, German
to 20 %, where so many characters a token are 30 % off, and Chinese six times."""
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""Marks that only transformers knows; they write nothing."""
_PROBE = "qzvkanswered"
_REFUSALS = (TypeError, ValueError, LookupError, AttributeError)
"""What a template raises at a conversation that it does not take, or at what only transformers gives."""
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
Row = Mapping[str, Any]
"""One example: its `messages` and `tools`."""


class Counts(NamedTuple):
    """What some rows come to."""

    lengths: list[int]
    """Tokens of each."""
    shared: int
    """Tokens with which all of them begin."""
    answers: float
    """Tokens of the last turn where it is the assistant's, its end included, on average."""
    spoken: float
    """About the same of all turns of the assistant's."""
    characters: float
    """Characters of a row's turns, on average."""
    how: str
    """How they were counted, and in how many."""


def counts_of(rows: Sequence[Row], folder: Path | None) -> Counts:
    """What rows come to by the tokenizer in a folder; by their words where it is not here."""
    rows = _bounded(rows)
    turns = [[_turn(turn) for turn in row["messages"]] for row in rows]
    if folder is None or _tokenizer(folder) is None:
        texts = ["\n".join(f"<|{turn['role']}|>{_said(turn)}" for turn in some) for some in turns]
        lengths = [_guessed(text) for text in texts]
        shared, how = (
            _guessed(texts[0][: _alike(texts)]),
            f"tokens guessed from the words of {len(rows)}, as no tokenizer is here",
        )
    else:
        ids = _ids(folder, tuple(_rendered(folder, turns, rows)))
        lengths, shared, how = [len(one) for one in ids], _alike(ids), f"tokens counted in {len(rows)} of them"
    last = [_said(some[-1]) for some in turns if some and some[-1]["role"] == "assistant"]
    spoken = sum(len(_said(turn)) for some in turns for turn in some if turn["role"] == "assistant")
    number, answers = max(1, len(rows)), sum(_sizes(last, folder)) + len(last)
    return Counts(
        lengths=lengths,
        shared=shared,
        answers=answers / number,
        spoken=answers / number * spoken / max(1, sum(map(len, last))),
        characters=sum(len(turn["content"]) for some in turns for turn in some) / number,
        how=how,
    )


def branches(texts: Sequence[str], folder: Path | None) -> float:
    """Tokens of texts to their ends, the ends included, where what several begin with is read once."""
    if folder is None or _tokenizer(folder) is None:
        characters = len({text[:at] for text in texts for at in range(1, len(text) + 1)})
        return characters * sum(map(_guessed, texts)) / max(1, sum(map(len, texts))) + len(texts)
    ids = list(map(tuple, _ids(folder, tuple(texts))))
    return float(len({one[:at] for one in ids for at in range(1, len(one) + 1)}) + len(texts))


def _sizes(texts: Sequence[str], folder: Path | None) -> list[int]:
    """Tokens of texts by themselves."""
    if folder is None or _tokenizer(folder) is None:
        return [_guessed(text) for text in texts]
    return [len(ids) for ids in _ids(folder, tuple(texts))]


def _guessed(text: str) -> int:
    """About how many tokens a text has for most models."""
    letters = _LETTERS if text.isascii() else _LETTERS_ELSEWHERE
    found = 0
    for piece in _PIECES.findall(text):
        if not piece.isascii():
            found += math.ceil(len(piece.encode()) / _BYTES)
        else:
            found += math.ceil(len(piece) / (letters if piece.isalpha() else _MARKS))
    return found


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a Hugging Face folder, read without transformers; None where it has no such file."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    return Tokenizer.from_file(str(file)) if file.is_file() else None


@lru_cache(maxsize=4)
def _ids(folder: Path, texts: tuple[str, ...]) -> list[list[int]]:
    """Ids of texts; the steps of a plan ask for the same ones."""
    tokenizer = _tokenizer(folder)
    assert tokenizer is not None, "asked for where it is here"
    return [one.ids for one in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def _bounded(rows: Sequence[Row]) -> Sequence[Row]:
    """As many of some rows as are counted soon."""
    characters = sum(len(turn.get("content", "")) for row in rows for turn in row["messages"])
    return rows if characters <= _MOST_CHARACTERS else spread(rows, max(1, len(rows) * _MOST_CHARACTERS // characters))


def _rendered(folder: Path, turns: Sequence[Sequence[Row]], rows: Sequence[Row]) -> list[str]:
    """Rows by the model's chat template; one after another's turns where it has none, or refuses them."""
    from jinja2.exceptions import TemplateError

    source, words = read_template(folder), _special(folder)
    if source is None:
        return [_plain(some, words.get("eos_token", "")) for some in turns]
    try:
        chat = _Chat(source, words)
        return [chat.render(some, row.get("tools") or None) for some, row in zip(turns, rows, strict=True)]
    except (TemplateError, *_REFUSALS):
        return [_plain(some, words.get("eos_token", "")) for some in turns]  # the training will say what is refused


def _plain(turns: Sequence[Row], end: str) -> str:
    """Turns one after another, an end after each answer: how a model is spoken to that has no template."""
    return "".join(_inline(turn) + (end if turn["role"] == "assistant" else "\n") for turn in turns)


def _inline(turn: Row) -> str:
    """A turn's content with its reasoning in front, as most models write it."""
    thought = turn.get("reasoning_content")
    return f"<think>\n{thought}\n</think>\n\n{turn['content']}" if thought else str(turn["content"])


class _Chat:
    """A chat template with what transformers gives it, and the forms in which it shows what turns hold."""

    def __init__(self, source: str, words: Mapping[str, str]) -> None:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        more = ["jinja2.ext.loopcontrols"]
        here = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=more)
        here.filters["tojson"] = _json
        here.globals.update(raise_exception=_refuse, strftime_now=lambda form: "26 Jul 2024")
        self._template, self._words = here.from_string(_GENERATION.sub("", source)), words
        self._parts = self._thinks = self._texts = False
        self._parts = not self._shows({"content": _PROBE})
        self._thinks = True
        self._thinks = self._shows({"content": "", "reasoning_content": _PROBE, "thinking": _PROBE})
        call = {"name": "call", "arguments": {"key": _PROBE}}
        self._texts = not self._shows({"content": "", "tool_calls": [{"type": "function", "function": call}]})

    def render(self, turns: Sequence[Row], tools: Sequence[Row] | None) -> str:
        """A whole conversation."""
        told = [self._form(turn) for turn in turns]
        return self._template.render(messages=told, tools=tools, add_generation_prompt=False, **self._words)

    def _form(self, turn: Row) -> Row:
        content, found = turn["content"] if self._thinks else _inline(turn), dict(turn)
        if "tool_calls" in turn and self._texts:
            calls = [call["function"] for call in turn["tool_calls"]]
            told = [{**call, "arguments": _json(call["arguments"])} for call in calls]
            found["tool_calls"] = [{"type": "function", "function": call} for call in told]
        return {**found, "content": [{"type": "text", "text": content}] if self._parts else content}

    def _shows(self, answer: Row) -> bool:
        """Whether an answer's probe stands in what is written of it."""
        from jinja2.exceptions import TemplateError

        try:
            return _PROBE in self.render([{"role": "user", "content": "ask"}, {"role": "assistant", **answer}], None)
        except (TemplateError, *_REFUSALS):
            return False


def _json(value: Any, ensure_ascii: bool = False, **more: Any) -> str:
    """JSON as transformers writes it in templates."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **more)


def _refuse(message: str) -> None:
    raise ValueError(message)


def _special(folder: Path) -> dict[str, str]:
    """The special tokens that templates write, by name."""
    file = folder / "tokenizer_config.json"
    told = read_object(file) if file.is_file() else {}
    found = {name: told.get(name) for name in _TOKENS}
    texts = {name: one.get("content") if isinstance(one, Mapping) else one for name, one in found.items()}
    return {name: text if isinstance(text, str) else "" for name, text in texts.items()}


def _turn(turn: Row) -> dict[str, Any]:
    """A message as templates read it."""
    found = {"content": "", **turn}
    if thinking := turn.get("thinking"):
        found["reasoning_content"] = thinking
    if calls := turn.get("tool_calls"):
        found["tool_calls"] = [{"type": "function", "function": dict(call)} for call in calls]
    return found


def _said(turn: Row) -> str:
    """What a turn says, its reasoning and calls included."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in turn.get("tool_calls", ())]
    return "\n".join(filter(None, [turn.get("thinking", ""), turn["content"], *calls]))


def _alike(texts: Sequence[Any]) -> int:
    """How much all texts share at their beginning."""
    if len(texts) < 2:
        return 0
    first, last = min(texts), max(texts)
    return next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
