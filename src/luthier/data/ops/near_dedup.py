"""Rows that say nearly the same: MinHash proposes, the true similarity decides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from luthier.core.events import format_counted_noun, format_rows_affected
from luthier.core.messages import gettext_noop
from luthier.core.param_space import ParamDistribution
from luthier.data.dedup.duplicates import DedupReport, DuplicateFinder, report_duplicates
from luthier.data.dedup.keep import Keep, check_keep_column, keep_preferences, rank_by_preference
from luthier.data.dedup.minhash import PairSearchResources, choose_bands, compute_minhash_signatures, max_bands_for
from luthier.data.dedup.pair_estimate import SAMPLE_ROWS, PairRates, measure_pair_rates
from luthier.data.dedup.shingles import (
    Compared,
    FlatShingles,
    Unit,
    cut_padded_shingles,
    cut_shingles,
    digest16,
    jaccard,
    normalize_for_comparison,
    separate_by_media,
    sort_unique,
    split_comparison_words,
    text_to_compare,
    word_bags,
)
from luthier.data.operator import Column, Reads, RowCorpus, SetOperator, Suggestion
from luthier.data.row import Row
from luthier.data.suggest.profile import SHORT_ANSWER_WORDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from luthier.data.suggest.profile import SourceProfile

_EDIT_PIECE: dict[Unit, int] = {"char": 3, "word": 1}
"""Pieces that one edit breaks at most."""
_LEAST_EDIT = 0.8
_AT_ONCE = 64
"""Texts whose pieces are hashed together: they should fit the processor's cache."""
_SHOWN = 1024
"""Rows whose pieces are held, ready to be compared, of those that nobody foresaw."""
_PAIR_S, _CHARACTER_S = 1.5e-5, 1e-7
"""Seconds of one core for a pair that is compared, and for each character of a row: some rows are cut again."""
_LOOKUP_S = 2.7e-6
"""Seconds of one core to find that two rows are in one cluster already."""
_DIGITS = 6
"""Similarities are told with so many digits."""
_CONTESTED = 0.1
"""Where more of the near copies than this share have another answer, what little differs between them matters."""
_TEMPLATED = 0.5
"""Where more of the rows than this share nearly repeat others, they were made from a template, and that is the data."""


class NearDedup(SetOperator):
    """Keep one of rows whose texts are nearly equal, or only mark them as one cluster.

    Texts are compared as sets of short pieces, |A ∩ B| / |A ∪ B| (Jaccard), or by their edit distance, as
    1 - distance / length of the longer (Levenshtein). Pairs are proposed by MinHash with bands (Broder 1997; Leskovec,
    Rajaraman and Ullman, Mining of Massive Datasets, ch. 3), which overlook a pair at the threshold once in a million
    or less, and each is verified, so that no row is dropped by bad luck.
    """

    kind: Literal["near_dedup"] = "near_dedup"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer")
    sample_rows: ClassVar[int] = SAMPLE_ROWS
    suggested_at: ClassVar[int] = 60
    writes: ClassVar[dict[str, Column]] = {"cluster": "text", "similarity": "number"}

    threshold: float = Field(default=0.8, ge=0.5, le=1)
    """Similarity from which two rows are twins; below 0.7 (Jaccard) or 0.9 (edit), many pairs must be compared."""
    measure: Literal["jaccard", "edit"] = "jaccard"
    """Shared pieces, whatever their order, or single characters (from 0.8 on) or words to change, one by one."""
    of: Compared = "prompt"
    """What is compared; equal prompts with other answers are twins, too, unless both are compared."""
    unit: Unit = "char"
    """Pieces of characters suit short texts and any script; pieces of words suit long ones."""
    size: int = Field(default=5, ge=1, le=20)
    """Characters or words in a piece."""
    action: Literal["drop", "flag"] = "drop"
    """Drop all twins but one, or keep them and write their `cluster`, by which the split can hold them together."""
    keep: Keep = "first"
    """Which twin stays: the `first` or `last` in the source, the `longest`, the `newest` or `best` by a column."""
    by: str | None = None
    """The column with the date (`newest`) or the number (`best`)."""

    @model_validator(mode="after")
    def _rules_are_whole(self) -> NearDedup:
        check_keep_column(self.keep, self.by)
        if self.measure == "edit":
            if self.unit == "char" and self.threshold < _LEAST_EDIT:
                raise ValueError(f"`measure: edit` finds twins from 0.8 on, got threshold {self.threshold:g}")
            if self.size != type(self).model_fields["size"].default:
                raise ValueError("`measure: edit` compares characters or words one by one; leave out `size`")
        return self

    def sketch(self, rows: Sequence[Row]) -> list[bytes]:
        """What each row is preferred by, a digest of its text, and its MinHash signature."""
        texts = [normalize_for_comparison(self.text(row)) for row in rows]
        preferred = np.array(keep_preferences(rows, self.keep, self.by), dtype=np.float64)
        keys = [f"{text}\x1d{row.media_key}" if row.media_key else text for text, row in zip(texts, rows, strict=True)]
        digests = b"".join(map(digest16, keys))
        found = np.empty(len(rows), dtype=_SKETCH)
        found["preferred"] = preferred
        found["text"] = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
        for start in range(0, len(rows), _AT_ONCE):
            found["signature"][start : start + _AT_ONCE] = compute_minhash_signatures(
                self.pieces(texts[start : start + _AT_ONCE], rows[start : start + _AT_ONCE])
            )
        whole = found.tobytes()
        return [whole[at : at + _SKETCH.itemsize] for at in range(0, len(whole), _SKETCH.itemsize)]

    def settle(self, corpus: RowCorpus) -> DedupReport:
        """Compare proposed pairs and decide who stays."""
        sketches = np.ascontiguousarray(corpus.sketches).view(_SKETCH).reshape(-1)
        reader = _Reader(self, corpus)
        order = rank_by_preference(sketches["preferred"])
        chosen = choose_bands(self.proposing, max_bands_for(len(corpus)))
        means = PairSearchResources(corpus.map_items, corpus.scratch, corpus.tick)
        twins = DuplicateFinder(
            sketches["text"], sketches["signature"], order, chosen, reader.verified, reader.all_verified, means
        )
        duplicate_pairs = twins.kept_twins() if self.action == "drop" else twins.clusters()
        del twins, order  # what is told needs the room
        return report_duplicates(
            duplicate_pairs, len(corpus), corpus.id, gettext_noop("near duplicate") if self.action == "drop" else None
        )

    def extra_s(self, rows: int, sample: Sequence[Row] = ()) -> float:
        """Comparing pairs that are nearly alike, as many as a sample foretells; clusters look each of them up."""
        if len(sample) < 2:
            return 0.0
        chars = sum(len(self.text(row)) for row in sample) / len(sample)
        rates, different = self.measure_rates(rows, sample)
        drop = self.action == "drop"
        compared = rates.count_pairs(different, drop=drop) * (_PAIR_S + _CHARACTER_S * chars)
        return compared + (0 if drop else rates.count_alike(different) * _LOOKUP_S)

    def measure_rates(self, rows: int, sample: Sequence[Row]) -> tuple[PairRates, int]:
        """How often two rows of a sample are alike, and twins; and how many of so many rows are no copies to the
        letter, if they are like the sample."""
        texts = [normalize_for_comparison(self.text(row)) for row in sample]
        first = {digest16(text): index for index, text in reversed([*enumerate(texts)])}
        kept = sorted(first.values())  # copies to the letter are not compared
        some = [sample[index] for index in kept]
        signatures = compute_minhash_signatures(self.pieces([texts[index] for index in kept], some))
        at_least = choose_bands(self.proposing, max_bands_for(rows)).at_least

        def are_twins(pairs: Sequence[tuple[int, int]]) -> list[bool]:
            used, among = _among(pairs)
            return [found is not None for found in self.all_verified([some[index] for index in used], among)]

        return measure_pair_rates(signatures, at_least, are_twins), round(rows * len(some) / len(sample))

    @property
    def proposing(self) -> float:
        """The Jaccard similarity of pieces that twins have at least."""
        if self.measure == "jaccard":
            return self.threshold
        changed = _EDIT_PIECE[self.unit] * (1 - self.threshold)
        return (1 - changed) / (1 + changed)

    def pieces(self, texts: Sequence[str], rows: Sequence[Row]) -> FlatShingles:
        """Pieces of the texts of rows in their normal form; rows with other media have no piece in common."""
        return separate_by_media(self._pieces(texts), rows)

    def _pieces(self, texts: Sequence[str]) -> FlatShingles:
        if self.measure == "jaccard":
            return cut_shingles(texts, self.unit, self.size)
        return cut_padded_shingles(texts, _EDIT_PIECE["char"]) if self.unit == "char" else word_bags(texts)

    def similarity(self, one: TextShingles, two: TextShingles) -> float:
        """How similar two rows are, in truth; not at all where they show or play something else."""
        if one.media != two.media:
            return 0.0
        if self.measure == "edit":
            from rapidfuzz.distance import Levenshtein

            first, second = (
                split_comparison_words(each.text) if self.unit == "word" else each.text for each in (one, two)
            )
            longer = max(len(first), len(second), 1)
            enough = math.ceil(longer * (1 - self.threshold)) + 1
            return 1 - Levenshtein.distance(first, second, score_cutoff=enough) / longer
        return jaccard(one.pieces, two.pieces)

    def verified(self, one: TextShingles, two: TextShingles) -> float | None:
        """The similarity of twins, as it is told."""
        similarity = self.similarity(one, two)
        return round(similarity, _DIGITS) if similarity >= self.threshold else None

    def all_verified(self, rows: Sequence[Row], pairs: Sequence[tuple[int, int]]) -> list[float | None]:
        """The same of pairs of some rows, by their places among them."""
        parts = (self.all_shown(rows[start : start + _AT_ONCE]) for start in range(0, len(rows), _AT_ONCE))
        shown = [text_shingles for part in parts for text_shingles in part]
        return [self.verified(shown[entry], shown[two]) for entry, two in pairs]

    def shown(self, row: Row) -> TextShingles:
        """What is compared of a row, ready to be compared."""
        return self.all_shown([row])[0]

    def all_shown(self, rows: Sequence[Row]) -> list[TextShingles]:
        """The same of some rows."""
        texts = [normalize_for_comparison(self.text(row)) for row in rows]
        if self.measure == "edit":
            none = np.zeros(0, dtype=np.uint64)
            return [TextShingles(text, none, row.media_key) for text, row in zip(texts, rows, strict=True)]
        flat = self.pieces(texts, rows)
        pieces = [sort_unique(flat.of(index)) for index in range(len(texts))]
        return [TextShingles(text, own, row.media_key) for text, own, row in zip(texts, pieces, rows, strict=True)]

    def text(self, row: Row) -> str:
        """What is compared of a row."""
        return text_to_compare(row, self.of)

    @classmethod
    def trial(cls) -> NearDedup:
        """With defaults."""
        return cls()

    @classmethod
    def suggest(cls, profile: SourceProfile) -> Suggestion | None:
        """Always: near copies across the split flatter the measure; marked only, where a class would be gone or most of
        the rows, or where many have another answer than the row that they repeat. Where tools are on offer, one
        question has many answers, so these are compared, too."""
        tried = profile.trials.get("near_dedup")
        compared: dict[str, str] = {"of": "both"} if profile.with_tools else {}
        if tried is None:
            return Suggestion(
                compared, gettext_noop("removes near copies, which make test scores too high; none was seen so far")
            )
        copies = sum(tried.dropped.values())
        rows, contested = profile.looked_at, tried.contested
        why = gettext_noop(
            f"{format_rows_affected(copies, rows, 'nearly repeats an earlier one', 'nearly repeat an earlier one')}"
        )
        stay = gettext_noop("they are marked and stay, and `split: {group: cluster}` would hold twins on one side")
        if profile.answers and tried.lost:
            lost = gettext_noop(f"to drop them would leave no row of {tried.lost_shown}")
            return Suggestion({"action": "flag", **compared}, f"{why}; {lost}: {stay}")
        if copies > _TEMPLATED * (profile.looked_at - _copies(profile)):
            left = profile.looked_at - _copies(profile) - copies
            templated = gettext_noop(
                f"they look templated, and to drop them would leave {format_counted_noun(left, 'row')}, so {stay}"
            )
            return Suggestion({"action": "flag", **compared}, f"{why}: {templated}")
        matters = profile.answers or profile.answer_words <= SHORT_ANSWER_WORDS
        if matters and tried.contested > _CONTESTED * copies:
            why_flagged = gettext_noop(
                f"{why}, {contested} of them with another answer, so that what little differs matters: {stay}"
            )
            return Suggestion({"action": "flag", **compared}, why_flagged)
        if compared:
            why_flagged = gettext_noop(f"{why} in prompt and answer; with tools on offer one prompt has many answers")
            return Suggestion(compared, why_flagged)
        if contested:
            why = gettext_noop(f"{why}, {contested} of them with another answer (`of: both` compares answers, too)")
        return Suggestion(compared, why)

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """How like twins are, where they are dropped: below that, many pairs must be compared."""
        if self.action != "drop":
            return {}
        return {"threshold": ParamDistribution(0.7 if self.measure == "jaccard" else _LEAST_EDIT, 0.95)}


def _copies(profile: SourceProfile) -> int:
    """Rows that are equal to others, and gone before near copies are looked for."""
    tried = profile.trials.get("exact_dedup")
    return sum(tried.dropped.values()) if tried else 0


_SKETCH = np.dtype([("preferred", "<f8"), ("text", "<u8", 2), ("signature", "u1", 128)])


class TextShingles(NamedTuple):
    """The normal form of a row's text, its different pieces, sorted, and what the row shows and plays."""

    text: str
    pieces: NDArray[np.uint64]
    media: str = ""


class _Reader:
    """Reads rows of the corpus as they are asked for, and compares them."""

    def __init__(self, operator: NearDedup, corpus: RowCorpus) -> None:
        self._operator = operator
        self._corpus = corpus
        self._shown = lru_cache(maxsize=_SHOWN)(lambda index: operator.shown(corpus.row(index)))

    def verified(self, one: int, two: int) -> float | None:
        """The similarity of twins."""
        return self._operator.verified(self._shown(one), self._shown(two))

    def all_verified(self, pairs: Iterable[Sequence[tuple[int, int]]]) -> Iterator[list[float | None]]:
        """The same of many pairs, list by list, by all processes of the run."""
        return self._corpus.map_rows(self._operator.all_verified, map(_among, pairs))


def _among(pairs: Sequence[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
    """The rows of some pairs, each once, and the pairs by their places among them."""
    position_of = {index: at for at, index in enumerate(dict.fromkeys(index for pair in pairs for index in pair))}
    return list(position_of), [(position_of[entry], position_of[two]) for entry, two in pairs]
