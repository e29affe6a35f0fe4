"""Stems of English words: Porter's suffix stripping, as nltk's default and therefore rouge-score and METEOR have it.

Porter 1980, with Martin Porter's later departures and those that nltk added (`PorterStemmer.NLTK_EXTENSIONS`): a few
words with a stem of their own, words of two letters kept, `ies` and `ied` of short words, and y to i after a consonant.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

_OWN = {
    "skies": "sky", "sky": "sky", "dying": "die", "lying": "lie", "tying": "tie", "news": "news", "innings": "inning",
    "inning": "inning", "outings": "outing", "outing": "outing", "cannings": "canning", "canning": "canning",
    "howe": "howe", "proceed": "proceed", "exceed": "exceed", "succeed": "succeed",
}  # fmt: skip
"""Words whose stem is no matter of rules."""
_VOWELS = frozenset("aeiou")
_DOUBLE = {
    "ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize", "bli": "ble", "alli": "al",
    "entli": "ent", "eli": "e", "ousli": "ous", "ization": "ize", "ation": "ate", "ator": "ate", "alism": "al",
    "iveness": "ive", "fulness": "ful", "ousness": "ous", "aliti": "al", "iviti": "ive", "biliti": "ble",
    "fulli": "ful", "logi": "log",
}  # fmt: skip
"""Step 2: double suffixes and the single ones that they become; the first that fits decides."""
_SINGLE = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}
"""Step 3."""
_LAST = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
    "ous", "ive", "ize",
)  # fmt: skip
"""Step 4: suffixes that go when enough is left."""


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """The stem of a word, in small letters."""
    form = word.lower()
    if form in _OWN:
        return _OWN[form]
    if len(word) <= 2:
        return form
    for step in _STEPS:
        form = step(form)
    return form


def _shape(text: str) -> str:
    """`c` for each consonant and `v` for each vowel; y is a vowel after a consonant."""
    shape = ""
    for letter in text:
        vowel = letter in _VOWELS or (letter == "y" and shape[-1:] == "c")
        shape += "v" if vowel else "c"
    return shape


def _measure(text: str) -> int:
    """How many vowels are followed by a consonant: Porter's m."""
    return _shape(text).count("vc")


def _short_end(text: str) -> bool:
    """Whether a text ends consonant, vowel, consonant (not w, x, y), or is a vowel and a consonant."""
    shape = _shape(text)
    return shape == "vc" or (shape.endswith("cvc") and text[-1] not in "wxy")


def _plural(word: str) -> str:
    if word.endswith("ies"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("sses"):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _past(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for suffix in ("ed", "ing"):
        left = word.removesuffix(suffix)
        if left != word and "v" in _shape(left):
            return _mended(left)
    return word


def _mended(left: str) -> str:
    """What is left after ed or ing: its e put back, or a doubled consonant made single."""
    if left.endswith(("at", "bl", "iz")):
        return left + "e"
    if left[-2:-1] == left[-1] and _shape(left)[-1] == "c":
        return left if left[-1] in "lsz" else left[:-1]
    return left + "e" if _measure(left) == 1 and _short_end(left) else left


def _y(word: str) -> str:
    left = word[:-1]
    return left + "i" if word.endswith("y") and len(left) > 1 and _shape(left)[-1] == "c" else word


def _double(word: str) -> str:
    while word.endswith("alli") and _measure(word[:-4]) > 0:
        word = word[:-2]
    for suffix, new in _DOUBLE.items():
        if word.endswith(suffix):
            left = word[: len(word) - len(suffix)]
            judged = word[:-3] if suffix == "logi" else left
            return left + new if _measure(judged) > 0 else word
    return word


def _single(word: str) -> str:
    for suffix, new in _SINGLE.items():
        if word.endswith(suffix):
            left = word[: len(word) - len(suffix)]
            return left + new if _measure(left) > 0 else word
    return word


def _last(word: str) -> str:
    for suffix in _LAST:
        if word.endswith(suffix):
            left = word[: len(word) - len(suffix)]
            fits = _measure(left) > 1 and (suffix != "ion" or left[-1] in "st")
            return left if fits else word
    return word


def _final_e(word: str) -> str:
    left = word[:-1]
    if not word.endswith("e"):
        return word
    measure = _measure(left)
    return left if measure > 1 or (measure == 1 and not _short_end(left)) else word


def _final_l(word: str) -> str:
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word


_STEPS: tuple[Callable[[str], str], ...] = (_plural, _past, _y, _double, _single, _last, _final_e, _final_l)
