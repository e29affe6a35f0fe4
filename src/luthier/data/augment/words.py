"""Word-level helpers of augmenters: facts to preserve, words to sample, whether a text is English."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from luthier.data.row import Row
from luthier.lang.demographics.words import DIGIT, TAG, find_protected_spans
from luthier.lang.detect import UNKNOWN, identify_languages

_AROUND = ".,;:!?()\"'"


def facts_to_preserve(text: str) -> list[str]:
    """What a text says that another form of it must say as well, sorted: those spans, without punctuation around them.

    A single digit among letters is none: that is how a scanner reads `l` and `o`.
    """
    spans = (text[start:end].strip(_AROUND) for start, end in find_protected_spans(text))
    return sorted(span for span in spans if not _is_misread(span))


def _is_misread(span: str) -> bool:
    """Whether a span may be a word with one letter that was taken for a digit."""
    odd = "@" in span or "://" in span or TAG.search(span) is not None
    return not odd and len(DIGIT.findall(span)) == 1 and any(map(str.isalpha, span))


def swaps_speaker(old: str, new: str) -> bool:
    """Whether another speaks: `my` became `your`, or only `you` is said where only `I` was; or the other way round.

    Small models answer or retell a message in place of saying it otherwise. English words only.
    """
    before, after = (frozenset(_SPOKEN.findall(text.lower())) for text in (old, new))
    return any(
        (_OWN[entry] & before and not _OWN[entry] & after and _OWN[two] & after and not _OWN[two] & before)
        or (_SIDES[entry] & before and not _SIDES[entry] & after and _SIDES[two] & after and not _SIDES[two] & before)
        for entry, two in ((0, 1), (1, 0))
    )


_SPOKEN = re.compile(r"[a-z]+")
_OWN = (frozenset(("my", "mine", "our", "ours")), frozenset(("your", "yours")))
_SIDES = (_OWN[0] | {"i", "me", "myself", "we", "us"}, _OWN[1] | {"you", "yourself"})
"""What belongs to the one who speaks and to the one who is spoken to, and all that names them."""


def sample_indices(indices: list[int], share: float, chance: Random, least: int = 0) -> list[int]:
    """Each place with a probability; when that takes fewer than `least`, so many are drawn."""
    taken = [index for index in indices if chance.random() < share]
    return taken if len(taken) >= least else sorted(chance.sample(indices, min(least, len(indices))))


def are_english(rows: Sequence[Row]) -> list[bool]:
    """Whether each row's text is English, or too short for any other language to be certain."""
    return [guess.code in ("en", UNKNOWN) for guess in identify_languages([row.prompt or row.answer for row in rows])]
