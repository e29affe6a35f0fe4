"""Rows with postal addresses of fifty countries in what people write, and rows that only look so: a set held out.

It was written, and first measured, before any rule was changed for it. Addresses stand in one line or in several, in
capitals, in small letters, without their commas.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from benchmarks.postal_sentences import LOOK_ALIKES, SENTENCES
from benchmarks.postal_values import COUNTRIES, SCRIPTS, filled, value

from luthier.data.pii.benchmark import LabeledPiiText
from luthier.pii.span import PiiSpan

_NEUTRAL = 0.3
_SMALL, _LARGE, _LINES, _NO_COMMAS = 0.06, 0.03, 0.12, 0.05
_WORDS = (
    *("Alpine", "Baker", "Carlsen", "Delta", "Everest", "Falcon", "Garcia", "Hudson", "Indigo"),
    *("Jupiter", "Kepler", "Lisbon", "Madison", "Newton", "Oslo", "Phoenix", "Quebec", "Rivera"),
    *("Sierra", "Tokyo", "Ulysses", "Venice", "Weber", "Xerox", "Yukon", "Zenith"),
)


def postal(group: str, each: int, seed: int = 2026) -> Iterator[LabeledPiiText]:
    """So many sentences with an address for every country of a group."""
    draw = random.Random(seed)
    for name in (name for name, country in COUNTRIES.items() if country["group"] == group):
        own = SENTENCES[COUNTRIES[name]["language"]]
        for _ in range(each):
            sentence = draw.choice(SENTENCES[""] if draw.random() < _NEUTRAL else own)
            before, behind = (part.replace("{{", "{").replace("}}", "}") for part in sentence.split("{a}"))
            address = _written(draw, value(draw, name), is_latin=group != SCRIPTS)
            span = PiiSpan(len(before), len(before) + len(address), "address", address)
            yield LabeledPiiText(before + address + behind, (span,))


def _written(draw: random.Random, address: str, *, is_latin: bool) -> str:
    """The same address as different people type it."""
    luck = draw.random()
    if luck < _LINES:
        return address.replace(", ", "\n")
    if luck < _LINES + _NO_COMMAS:
        return address.replace(",", "")
    if is_latin and luck < _LINES + _NO_COMMAS + _SMALL:
        return address.lower()
    if is_latin and luck < _LINES + _NO_COMMAS + _SMALL + _LARGE:
        return address.upper()
    return address


def none_postal(each: int, seed: int = 2027) -> Iterator[LabeledPiiText]:
    """Sentences without an address that have something of its shape."""
    draw = random.Random(seed)
    for line in LOOK_ALIKES:
        for _ in range(each):
            parts = line.split("{w}")
            text = parts[0] + "".join(draw.choice(_WORDS) + part for part in parts[1:])
            yield LabeledPiiText(filled(draw, text), ())
