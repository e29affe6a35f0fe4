"""Plain text to token ids, without a chat template: what follows what, as lm-evaluation-harness parts it.

Texts begin with BOS where the tokenizer itself would put it. White space at the end of a text goes over to what
follows it, so that words keep the tokens that they have inside a sentence. Special tokens that somebody typed are text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from luthier.chat.template_guard import EncodingRequest
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.errors import ModelError, SourceLocation


class LoglikelihoodPair(NamedTuple):
    """Ids that are read, at least one, and ids of which the log-likelihood is asked."""

    before: list[int]
    after: list[int]
    cut: int = 0
    """Tokens that were left out at the beginning, because the model reads no more at once."""


def encode_plain_texts(text: ChatTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts as they stand, each after what the tokenizer puts in front of any text (BOS, or nothing)."""
    front = _front(text)
    return [[*front, *ids] for ids in _bare(text, texts)]


def encode_loglikelihood_pairs(
    text: ChatTokenizer, requests: Sequence[tuple[str, str]], limit: int
) -> list[LoglikelihoodPair]:
    """For each text and what follows it: the ids of both, at most `limit` to be read.

    The ids of what follows are those that it has in the whole: the whole's after the first text's own. An empty text
    is one token: BOS, or EOS where there is none.
    """
    parted = [move_trailing_space(before, after) for before, after in requests]
    distinct = dict.fromkeys(entry for before, after in parted for entry in (before, before + after) if entry)
    ids = dict(zip(distinct, encode_plain_texts(text, list(distinct)), strict=True))
    alone = dict.fromkeys(after for before, after in parted if not before)
    bare = dict(zip(alone, _bare(text, list(alone)), strict=True))
    return [
        _fitting(ids[before], ids[before + after][len(ids[before]) :], limit)
        if before
        else _from_nothing(bare[after], bos_or_eos_id(text), limit)
        for before, after in parted
    ]


def encode_rolling_windows(text: ChatTokenizer, whole: str, limit: int) -> list[LoglikelihoodPair]:
    """A text of any length in windows of at most `limit` tokens, so that each of its tokens is asked exactly once.

    The first begins after one token (BOS, or EOS where there is none). The last overlaps the one before it, so that
    its tokens have as much before them as there is room for.
    """
    ids = encode_plain_texts(text, [whole])[0]
    pairs = [LoglikelihoodPair([bos_or_eos_id(text)], ids[:limit])] if ids else []
    for start in range(limit, len(ids), limit):
        end = min(start + limit, len(ids))
        pairs.append(LoglikelihoodPair(ids[end - limit - 1 : start], ids[start:end]))
    return pairs


def bos_or_eos_id(text: ChatTokenizer) -> int:
    """What stands before a text that nothing stands before."""
    tokenizer = text.tokenizer
    found = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if found is None:
        what = "the tokenizer has neither BOS nor EOS, and a text without anything before it is to be scored"
        raise ModelError(what, where=SourceLocation(file=text.name or None))
    return int(found)


def move_trailing_space(before: str, after: str) -> tuple[str, str]:
    """A text and what follows it, with white space at the end of the first moved over to the second."""
    kept = before.rstrip()
    return kept, before[len(kept) :] + after


def _from_nothing(ids: list[int], begin: int, limit: int) -> LoglikelihoodPair:
    return _fitting(ids[:1], ids[1:], limit) if ids[:1] == [begin] else _fitting([begin], ids, limit)


def _fitting(before: list[int], after: list[int], limit: int) -> LoglikelihoodPair:
    """As much as can be read: the last token is not read, only asked."""
    over = max(0, len(before) + len(after) - limit - 1)
    if over < len(before):
        return LoglikelihoodPair(before[over:], after, over)
    cut = over - len(before) + 1  # one token must stand before what is asked
    return LoglikelihoodPair(after[cut - 1 : cut], after[cut:], over)


def _front(text: ChatTokenizer) -> list[int]:
    """What the tokenizer puts before every text."""
    bos = text.tokenizer.bos_token_id
    made = text.tokenizer("")["input_ids"]
    return [int(bos)] if bos is not None and made[:1] == [bos] else []


def _bare(text: ChatTokenizer, texts: Sequence[str]) -> list[list[int]]:
    return (
        [tokens.ids for tokens in text.encode_texts([EncodingRequest(entry, ()) for entry in texts])] if texts else []
    )
