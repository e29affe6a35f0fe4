"""Noise of typing, scanning and dictation, which leaves a row's meaning unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from random import Random
from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.core.param_space import ParamDistribution
from luthier.data.augment.typo_tables import OCR, Layout, neighbor_keys, sound_alikes
from luthier.data.augment.words import are_english, sample_indices
from luthier.data.augmenter import (
    AugmentContext,
    AugmentedDraft,
    Augmenter,
    AugmentRequest,
    TextChange,
    replace_last_user_text,
)
from luthier.lang.demographics.words import match_case, split_into_words, unprotected_word_indices

Strength = Annotated[float, Field(ge=0, le=1)]
Slip = Callable[[str, Random], tuple[str, str] | None]
"""What becomes of a piece, and a sentence about it; None when nothing can."""
_SHORTEST = 4
"""Words with fewer letters are not mistyped: too little of them would stay."""
_MARKS = frozenset(",.;:!?，。；：！？、،؛؟।")
_STRENGTHS = ("typos", "ocr", "sounds", "case", "punctuation", "drop")


class TextNoise(Augmenter):
    """Mistype words, misread letters, mishear words, forget case, punctuation and words.

    Each strength is the share of words (of punctuation marks: of marks) that it falls on; when none of them falls on
    anything, one does on one. Tags of personal data, placeholders, addresses and whatever holds a digit stay.
    """

    kind: Literal["noise"] = "noise"

    typos: Strength = 0.05
    """Words with a slip of the finger: a key beside the right one, a letter twice, missing, or out of turn."""
    layout: Layout = "qwerty"
    """The keyboard that the fingers slip on."""
    ocr: Strength = 0
    """Words with letters that a scanner takes for others (`rn` for `m`, `l` for `I`)."""
    sounds: Strength = 0
    """English words that a recogniser of speech takes for others that sound alike (`there`, `their`)."""
    case: Strength = 0.02
    """Words with capitals that lose them."""
    punctuation: Strength = 0.1
    """Punctuation marks that are forgotten."""
    drop: Strength = 0
    """Words that are left out; at least half of them stay."""

    @model_validator(mode="after")
    def _does_something(self) -> TextNoise:
        if not any(getattr(self, name) for name in _STRENGTHS):
            raise ValueError(
                f"every strength is 0, so that nothing would be done; raise one of {', '.join(_STRENGTHS)}"
            )
        return self

    def write(self, requests: Sequence[AugmentRequest], around: AugmentContext) -> list[AugmentedDraft | None]:
        """Each row with its own noise."""
        spoken = are_english([request.row for request in requests]) if self.sounds else [False] * len(requests)
        return [
            replace_last_user_text(request.row, partial(self.noisy, chance=request.chance, spoken=able))
            for request, able in zip(requests, spoken, strict=True)
        ]

    def noisy(self, text: str, chance: Random, *, spoken: bool = True) -> TextChange | None:
        """One text with noise; `spoken` is False for one whose words sound in a way that is not known."""
        noise = _Noise(text, chance)
        falls = (
            (noise.sound_alike_indices, self.sounds if spoken else 0, _misheard),
            (noise.long, self.typos, partial(_mistyped, layout=self.layout)),
            (noise.long, self.ocr, _misread),
            (noise.capitals, self.case, _lowered),
            (noise.marks, self.punctuation, _forgotten),
            (noise.words, self.drop, _left_out),
        )
        for least in (0, 1):
            for find_indices, share, slip in falls:
                if share and not (least and noise.did):
                    noise.fall(find_indices(), share, slip, least)
        return noise.change()

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Rows of each row, and how many of its words are mistyped."""
        return {**super().search_space(), "typos": ParamDistribution(0.01, 0.2, log=True)}


class _Noise:
    """A text in pieces, and what has been done to them."""

    def __init__(self, text: str, chance: Random) -> None:
        self._parts = split_into_words(text)
        self._chance = chance
        self._free = unprotected_word_indices(text, self._parts)
        self.did: list[str] = []
        self._gone: set[int] = set()

    def fall(self, indices: list[int], share: float, slip: Slip, least: int) -> None:
        """Let a slip happen in some of these places, in so many at least."""
        for index in sample_indices(indices, share, self._chance, least):
            made = slip(self._parts[index], self._chance)
            if made is not None and made[0] != self._parts[index]:
                self._parts[index] = made[0]
                self.did.append(made[1])
                if slip is _left_out:
                    self._gone.add(index)

    def long(self) -> list[int]:
        """Words that are long enough to be mistyped."""
        return [index for index in self._free if len(self._parts[index]) >= _SHORTEST]

    def sound_alike_indices(self) -> list[int]:
        """Words that others sound like."""
        return [index for index in self._free if sound_alikes(self._parts[index])]

    def capitals(self) -> list[int]:
        """Words with a capital."""
        return [index for index in self._free if self._parts[index] != self._parts[index].lower()]

    def marks(self) -> list[int]:
        """Punctuation marks after a word."""
        ends = [index + 1 for index, then in pairwise([*self._free, len(self._parts)]) if index + 1 < then]
        return [index for index in ends if self._parts[index] in _MARKS]

    def words(self) -> list[int]:
        """Half of the words, drawn: those that may be left out."""
        return sorted(self._chance.sample(self._free, len(self._free) // 2))

    def change(self) -> TextChange | None:
        """Return the text with the errors made so far; None when there is none."""
        parts = [piece for at, piece in enumerate(self._parts) if not self._is_gap(at)]
        return TextChange("".join(parts).strip(), tuple(self.did)) if self.did else None

    def _is_gap(self, at: int) -> bool:
        """Return whether the part is a space after a word that was left out."""
        return self._parts[at] == " " and at - 1 in self._gone


def _mistyped(word: str, chance: Random, layout: Layout) -> tuple[str, str]:
    """A slip inside a word; its first letter stays, as people mostly type that right."""
    at = chance.randrange(1, len(word))
    near = neighbor_keys(layout).get(word[at].lower(), "")
    slip = chance.choice(("beside", "beside", "twice", "missing", "turned"))
    if slip == "beside" and near:
        made = word[:at] + match_case(chance.choice(near), word[at]) + word[at + 1 :]
    elif slip == "twice":
        made = word[:at] + word[at] + word[at:]
    elif slip == "turned":
        at = min(at, len(word) - 2)
        made = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    else:
        made = word[:at] + word[at + 1 :]
    return made, f"mistyped {word!r} as {made!r}"


def _misread(word: str, chance: Random) -> tuple[str, str] | None:
    """Replace one character shape in a word with a similar one."""
    shapes = [(at, shape) for at in range(len(word)) for shape in (word[at], word[at : at + 2]) if shape in OCR]
    if not shapes:
        return None
    at, shape = chance.choice(shapes)
    made = word[:at] + chance.choice(OCR[shape]) + word[at + len(shape) :]
    return made, f"misread {word!r} as {made!r}"


def _misheard(word: str, chance: Random) -> tuple[str, str]:
    made = match_case(chance.choice(sound_alikes(word)), word)
    return made, f"misheard {word!r} as {made!r}"


def _lowered(word: str, chance: Random) -> tuple[str, str]:
    return word.lower(), f"wrote {word!r} without capitals"


def _forgotten(mark: str, chance: Random) -> tuple[str, str]:
    return "", f"forgot {mark!r}"


def _left_out(word: str, chance: Random) -> tuple[str, str]:
    return "", f"left out {word!r}"
