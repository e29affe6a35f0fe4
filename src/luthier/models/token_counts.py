"""Token counts of rows without transformers: by the model's own template and tokenizer, where they are here.

They are estimates: the ids that a training reads come from `luthier.chat`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.chat.messages import MEDIA_MARK
from luthier.core.events import take_evenly_spaced
from luthier.core.messages import gettext_noop
from luthier.models.chat_template import REFUSALS, ChatTemplate, Row, inline_turn_reasoning, list_template_tokens
from luthier.models.describe import read_chat_template

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from luthier.models.media.family import MediaSettings

_MOST_CHARACTERS = 1_000_000
"""Maximum characters that are tokenized, in about half a second; of longer rows fewer are."""
_PIECES = re.compile(r"[A-Za-z]+|[^\W\d_]+|\d|\n+|[^\w\s]+|_")
"""A tokenizer's pre-tokenization: words, single digits, line breaks, runs of other marks."""
_LETTERS, _LETTERS_ELSEWHERE, _MARKS, _BYTES = 8, 4, 2, 3
"""Characters of a token where there is no tokenizer: letters of an English word, or of a text with other letters, too;
marks of a run; bytes of a word in other letters. Fitted to SmolLM2: within 10 % on texts of eight sets, 20 % on German,
where a fixed number of characters a token is 30 % off, and on Chinese six times."""


class TokenCounts(NamedTuple):
    """Token counts of some rows."""

    lengths: list[int]
    """Tokens of each row."""
    shared: int
    """Tokens of the prefix that all of them share."""
    answers: float
    """Mean tokens of the last turn where it is the assistant's, its end included."""
    spoken: float
    """Mean tokens of all of the assistant's turns, approximately."""
    characters: float
    """Mean characters of a row's turns."""
    how: str
    """How they were counted, and in how many rows."""
    pictures: float = 0.0
    """Mean number of distinct images and clips of a row."""
    features: float = 0.0
    """Mean tokens of one of them."""
    patches: float = 0.0
    """Mean patches, or states of a clip, that its encoder reads."""
    before_media: int = 0
    """Tokens of the shared prefix before the first image or clip."""


def count_row_tokens(
    rows: Sequence[Row], folder: Path | None, template: str | None = None, config: Mapping[str, Any] | None = None
) -> TokenCounts:
    """Count the tokens of rows by the tokenizer in a folder, and by its chat template unless `template` replaces it; by
    their words where there is no tokenizer.

    `config` is that of a planned multimodal model over it.
    """
    columns = [{"messages": row["messages"], "tools": row.get("tools")} for row in _limit_rows(rows)]
    counts = _count(json.dumps(columns), folder, template)
    if folder is None:
        return counts
    from luthier.models.media.cost import read_media_settings
    from luthier.models.media.family import MediaSettings

    settings = read_media_settings(folder) if config is None else MediaSettings(config, {}, {})
    return _add_media(counts, columns, settings, _sizes([MEDIA_MARK], folder)[0])


def _add_media(counts: TokenCounts, rows: Sequence[Row], settings: MediaSettings, mark: int) -> TokenCounts:
    """Add the tokens of each row's images and clips, whose marks have `mark` tokens in the text."""
    every = [[medium for turn in row["messages"] for medium in turn.get("media", ())] for row in rows]
    media = [[one for one in some if _size_of(one) is not None] for some in every]
    if not any(media):
        return counts
    from luthier.models.media.cost import count_image, count_sound

    sizes = {size for some in media for one in some if (size := _size_of(one)) is not None}
    counts_by_size = {
        size: count_image(settings, *size) if len(size) == 2 else count_sound(settings, *size) for size in sizes
    }
    added_tokens = {size: count for size, count in counts_by_size.items() if count is not None}
    media = [[one for one in some if _size_of(one) in added_tokens] for some in media]
    if not any(media):
        return counts
    added = [sum(added_tokens[_size_of(one)].tokens - mark for one in some) for some in media]
    different = {one["digest"]: added_tokens[_size_of(one)] for some in media for one in some}
    alike = len({some[0]["digest"] if some else "" for some in media}) == 1 and len(set(added)) == 1
    return counts._replace(
        lengths=[length + more for length, more in zip(counts.lengths, added, strict=True)],
        shared=counts.shared + added[0] if alike else min(counts.shared, counts.before_media),
        pictures=len(different) / len(rows),
        features=sum(count.features for count in different.values()) / len(different),
        patches=sum(count.patches for count in different.values()) / len(different),
    )


def _size_of(medium: Row) -> Any:
    """Return width and height of an image, or the seconds of a clip; None where they are unknown."""
    if medium["kind"] == "image":
        return (medium["width"], medium["height"]) if medium.get("width") else None
    return (medium["seconds"],) if medium.get("seconds") else None


@lru_cache(maxsize=4)
def _count(written: str, folder: Path | None, template: str | None) -> TokenCounts:
    """Count the tokens of rows as JSON, cached: the steps of a plan need the same ones."""
    rows: list[Row] = json.loads(written)
    turns = [[_to_template_message(turn) for turn in row["messages"]] for row in rows]
    if folder is None or _tokenizer(folder) is None:
        texts = ["\n".join(f"<|{turn['role']}|>{_get_turn_text(turn)}" for turn in some) for some in turns]
        lengths = [_guess_tokens(text) for text in texts]
        shared, before = (
            _guess_tokens(some[0][: _common_prefix_length(some)]) for some in (texts, _cut_at_media(texts))
        )
        how = gettext_noop(f"tokens guessed from the words of {len(rows)}, as no tokenizer is here")
    else:
        texts = _render_rows(folder, template or read_chat_template(folder), turns, rows)
        ids = _ids(folder, tuple(texts))
        lengths, shared, how = (
            [len(id_) for id_ in ids],
            _common_prefix_length(ids),
            gettext_noop(f"tokens counted in {len(rows)} of them"),
        )
        before = _common_prefix_length(_ids(folder, tuple(_cut_at_media(texts)))) if MEDIA_MARK in texts[0] else shared
    last = [_get_turn_text(some[-1]) for some in turns if some and some[-1]["role"] == "assistant"]
    spoken = sum(len(_get_turn_text(turn)) for some in turns for turn in some if turn["role"] == "assistant")
    number, answers = max(1, len(rows)), sum(_sizes(last, folder)) + len(last)
    return TokenCounts(
        lengths=lengths,
        shared=shared,
        answers=answers / number,
        spoken=answers / number * spoken / max(1, sum(map(len, last))),
        characters=sum(len(turn["content"]) for some in turns for turn in some) / number,
        how=how,
        before_media=before,
    )


def _cut_at_media(texts: Sequence[str]) -> list[str]:
    """Return the texts before their first image or clip."""
    return [text.partition(MEDIA_MARK)[0] for text in texts]


def count_branch_tokens(texts: Sequence[str], folder: Path | None) -> float:
    """Count the tokens of texts with their end tokens, shared prefixes once."""
    if folder is None or _tokenizer(folder) is None:
        characters = len({text[:at] for text in texts for at in range(1, len(text) + 1)})
        return characters * sum(map(_guess_tokens, texts)) / max(1, sum(map(len, texts))) + len(texts)
    ids = list(map(tuple, _ids(folder, tuple(texts))))
    return float(len({id_[:at] for id_ in ids for at in range(1, len(id_) + 1)}) + len(texts))


def _sizes(texts: Sequence[str], folder: Path | None) -> list[int]:
    """Return the tokens of each text alone."""
    if folder is None or _tokenizer(folder) is None:
        return [_guess_tokens(text) for text in texts]
    return [len(ids) for ids in _ids(folder, tuple(texts))]


def _guess_tokens(text: str) -> int:
    """Estimate the tokens of a text for most models."""
    letters = _LETTERS if text.isascii() else _LETTERS_ELSEWHERE
    total = 0
    for piece in _PIECES.findall(text):
        if not piece.isascii():
            total += math.ceil(len(piece.encode()) / _BYTES)
        else:
            total += math.ceil(len(piece) / (letters if piece.isalpha() else _MARKS))
    return total


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer | None:
    """Return the tokenizer of a Hugging Face folder, without transformers; None without its file."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    return Tokenizer.from_file(str(file)) if file.is_file() else None


@lru_cache(maxsize=4)
def _ids(folder: Path, texts: tuple[str, ...]) -> list[list[int]]:
    """Return the ids of texts, cached: the steps of a plan need the same ones."""
    tokenizer = _tokenizer(folder)
    assert tokenizer is not None, "asked for where it is here"
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def _limit_rows(rows: Sequence[Row]) -> Sequence[Row]:
    """Return a sample of rows that can be counted fast."""
    characters = sum(len(turn.get("content", "")) for row in rows for turn in row["messages"])
    return (
        rows
        if characters <= _MOST_CHARACTERS
        else take_evenly_spaced(rows, max(1, len(rows) * _MOST_CHARACTERS // characters))
    )


def _render_rows(folder: Path, source: str | None, turns: Sequence[Sequence[Row]], rows: Sequence[Row]) -> list[str]:
    """Render rows by a chat template; turns one after another without one, or where it refuses them."""
    from jinja2.exceptions import TemplateError

    words = list_template_tokens(folder)
    if source is None:
        return [_render_plain(some, words.get("eos_token", "")) for some in turns]
    try:
        chat = ChatTemplate(source, words)
        return [chat.render(some, row.get("tools") or None) for some, row in zip(turns, rows, strict=True)]
    except (TemplateError, *REFUSALS):
        return [
            _render_plain(some, words.get("eos_token", "")) for some in turns
        ]  # the training will say what is refused


def _render_plain(turns: Sequence[Row], end: str) -> str:
    """Join turns, with an end token after each answer: the prompt of a model without a template."""
    return "".join(inline_turn_reasoning(turn) + (end if turn["role"] == "assistant" else "\n") for turn in turns)


def _to_template_message(turn: Row) -> dict[str, Any]:
    """Return a message as templates read it."""
    message = {"content": "", **turn}
    if thinking := turn.get("thinking"):
        message["reasoning_content"] = thinking
    if calls := turn.get("tool_calls"):
        message["tool_calls"] = [{"type": "function", "function": dict(call)} for call in calls]
    return message


def _get_turn_text(turn: Row) -> str:
    """Return the text of a turn, its reasoning and calls included."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in turn.get("tool_calls", ())]
    return "\n".join(filter(None, [turn.get("thinking", ""), turn["content"], *calls]))


def _common_prefix_length(texts: Sequence[Any]) -> int:
    """Return the length of the prefix that all texts share."""
    if len(texts) < 2:
        return 0
    first, last = min(texts), max(texts)
    return next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
