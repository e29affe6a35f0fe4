"""Published rules that tell usable text from rubbish: what each measures, its limits, and where they come from.

    gopher    Rae et al. 2021, arXiv:2112.11446, appendix A1.1 and table A1
    c4        Raffel et al. 2020, JMLR 21(140), section 2.2, with the constants of its own code (`c4_utils.py`)
    fineweb   Penedo et al. 2024, arXiv:2406.17557, section 3.6
    chat      for questions and answers of any length, which the three above would break by chance

Words are what stands between white space; the papers do not say more. Gopher's stop words and C4's phrases are English.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple

from luthier.data.cleaning import quality_bounds, quality_measures
from luthier.data.cleaning.quality_bounds import MeasureBounds
from luthier.data.cleaning.quality_measures import C4_LONGEST_WORD, TextFeatures
from luthier.pii.batch import ConcatenatedTexts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RuleSet = Literal["chat", "gopher", "c4", "fineweb"]


class QualityRule(NamedTuple):
    """Text is broken when the measure lies outside the limits."""

    name: str
    measure: Callable[[TextFeatures], float]
    least: float
    most: float
    source: str
    from_words: int = 0
    """Shorter texts are not judged by this rule."""
    from_chars: int = 0
    """Nor are texts with fewer characters."""
    open: bool = False
    """A measure that equals a limit is broken, too."""
    ahead: Callable[[ConcatenatedTexts], MeasureBounds] | None = None
    """Between which values the measure lies, told of many texts at once and at less cost."""

    def breaks(self, text: TextFeatures) -> float | None:
        """The measure, when it breaks the rule."""
        if text.word_count < self.from_words or len(text.text) < self.from_chars:
            return None
        value = self.measure(text)
        inside = self.least < value < self.most if self.open else self.least <= value <= self.most
        return None if inside else value

    def in_doubt(self, texts: ConcatenatedTexts) -> NDArray[np.bool_]:
        """(texts,): where `breaks` must be asked, because what is known ahead does not clear the text."""
        judged = (texts.words >= self.from_words) & (texts.chars >= self.from_chars)
        if self.ahead is None:
            return judged
        low, high = self.ahead(texts)
        inside = (low > self.least) & (high < self.most) if self.open else (low >= self.least) & (high <= self.most)
        found: NDArray[np.bool_] = judged & ~inside
        return found

    def within(self, least: float | None, most: float | None) -> QualityRule:
        """The rule with other limits, where one is given."""
        return self._replace(
            least=self.least if least is None else least, most=self.most if most is None else most, source="your limits"
        )

    def says(self, value: float) -> str:
        """The measure beside the limit that it breaks, with the limit's source."""
        too_low = value < self.least or (self.open and value == self.least)
        sign = ("over" if self.open else "at least") if too_low else ("under" if self.open else "at most")
        return f"{value:.4g}, expected {sign} {self.least if too_low else self.most:g} ({self.source})"


_GOPHER = "Gopher, appendix A1.1"
_TABLE = "Gopher, table A1"
_C4 = "C4, section 2.2"
_FINEWEB = "FineWeb, section 3.6"
_ANY = float("inf")

RULES: dict[RuleSet, tuple[QualityRule, ...]] = {
    "chat": (
        QualityRule(
            "one_char",
            quality_measures.top_char_share,
            0,
            0.60,
            "own: a key held down",
            from_chars=8,
            ahead=quality_bounds.bound_top_char_share,
        ),
        QualityRule(
            "longest_word",
            quality_measures.longest_word_length,
            0,
            C4_LONGEST_WORD,
            "C4's code: such words are code or data",
            ahead=quality_bounds.bound_longest_word,
        ),
        QualityRule(
            "symbols",
            quality_measures.symbol_ratio,
            0,
            0.50,
            "own: five times Gopher's limit, since chat uses … freely",
            10,
            ahead=quality_bounds.bound_symbol_ratio,
        ),
        QualityRule(
            "distinct_words",
            quality_measures.distinct_word_share,
            0.15,
            1,
            "own: the same few words over and over",
            20,
            ahead=quality_bounds.bound_distinct_word_share,
        ),
    ),
    "gopher": (
        QualityRule("words", lambda text: text.word_count, 50, 100_000, _GOPHER, ahead=quality_bounds.bound_word_count),
        QualityRule(
            "mean_word", quality_measures.mean_word_length, 3, 10, _GOPHER, ahead=quality_bounds.bound_mean_word_length
        ),
        QualityRule("hashes", quality_measures.hash_ratio, 0, 0.10, _GOPHER, ahead=quality_bounds.bound_hash_ratio),
        QualityRule(
            "ellipses", quality_measures.ellipsis_ratio, 0, 0.10, _GOPHER, ahead=quality_bounds.bound_ellipsis_ratio
        ),
        QualityRule(
            "bullets",
            quality_measures.bullet_line_share,
            0,
            0.90,
            _GOPHER,
            ahead=quality_bounds.bound_bullet_line_share,
        ),
        QualityRule(
            "ellipsis_lines",
            quality_measures.ellipsis_line_share,
            0,
            0.30,
            _GOPHER,
            ahead=quality_bounds.bound_ellipsis_line_share,
        ),
        QualityRule(
            "alphabetic",
            quality_measures.alphabetic_word_share,
            0.80,
            1,
            _GOPHER,
            ahead=quality_bounds.bound_alphabetic_word_share,
        ),
        QualityRule(
            "stop_words", quality_measures.stop_word_count, 2, _ANY, _GOPHER, ahead=quality_bounds.bound_stop_word_count
        ),
        QualityRule(
            "repeated_lines",
            lambda text: quality_measures.repeated_share(text.lines),
            0,
            0.30,
            _TABLE,
            50,
            ahead=quality_bounds.bound_repeated_lines,
        ),
        QualityRule(
            "repeated_paragraphs",
            lambda text: quality_measures.repeated_share(text.paragraphs),
            0,
            0.30,
            _TABLE,
            50,
            ahead=quality_bounds.bound_repeated_paragraphs,
        ),
        QualityRule(
            "repeated_line_chars",
            lambda text: quality_measures.repeated_char_share(text.lines, len(text.text)),
            0,
            0.20,
            _TABLE,
            50,
            ahead=quality_bounds.bound_repeated_lines,
        ),
        QualityRule(
            "repeated_paragraph_chars",
            lambda text: quality_measures.repeated_char_share(text.paragraphs, len(text.text)),
            0,
            0.20,
            _TABLE,
            50,
            ahead=quality_bounds.bound_repeated_paragraphs,
        ),
        *(
            QualityRule(
                f"top_{n}_gram",
                quality_measures.top_ngram_char_share(n),
                0,
                most,
                _TABLE,
                50,
                ahead=quality_bounds.bound_top_ngram_share(n),
            )
            for n, most in ((2, 0.20), (3, 0.18), (4, 0.16))
        ),
        *(
            QualityRule(
                f"repeated_{n}_grams",
                quality_measures.repeated_ngram_char_share(n),
                0,
                most,
                _TABLE,
                50,
                ahead=quality_bounds.bound_repeated_ngram_share,
            )
            for n, most in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
        ),
    ),
    "c4": (
        QualityRule("sentences", quality_measures.c4_sentence_count, 3, _ANY, f"{_C4}, of the lines that C4 keeps"),
        QualityRule("lorem_ipsum", quality_measures.phrase_counter("lorem ipsum"), 0, 0, _C4),
        QualityRule("curly_bracket", quality_measures.phrase_counter("{"), 0, 0, _C4),
    ),
    "fineweb": (
        QualityRule(
            "punctuated_lines",
            quality_measures.punctuated_line_share,
            0.12,
            _ANY,
            _FINEWEB,
            open=True,
            ahead=quality_bounds.bound_punctuated_line_share,
        ),
        QualityRule(
            "duplicate_line_chars",
            lambda text: quality_measures.repeated_char_share(text.lines, len(text.text)),
            -1,
            0.10,
            _FINEWEB,
            open=True,
            ahead=quality_bounds.bound_repeated_lines,
        ),
        QualityRule(
            "short_lines",
            quality_measures.short_line_share,
            -1,
            0.67,
            _FINEWEB,
            open=True,
            ahead=quality_bounds.bound_short_line_share,
        ),
    ),
}
"""Limits as published; a value beyond them breaks the rule."""

NAMES = ("no_letters", "placeholder", *dict.fromkeys(rule.name for rule in chain.from_iterable(RULES.values())))
